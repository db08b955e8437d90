"""Counter-based random numbers: the same for an element wherever, whenever and in whatever pieces it is computed.

Guarantees: a number depends on the two keys and the element's flat index alone, in integer arithmetic, so it is
bit-identical on every device, for every block size and thread count. Not for cryptography.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keys(*words: object) -> tuple[int, int]:
    """Return two 32-bit keys (as signed integers) for a sequence of words such as (seed, input, tensor name)."""
    digest = hashlib.blake2b("\x1f".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


def keep_mask(density: float, key: tuple[int, int], start: int, count: int, device: torch.device) -> Tensor:
    """Return a mask (count,) int32: all bits set where element start+i is kept, which has probability `density`.

    The same uniform number stands behind every density, so the elements kept at 0.3 are among those kept at 0.4.
    """
    return keep_below(kept_below(density), key, start, count, device)


def keep_below(limit: int | Tensor, key: tuple[int, int], start: int, count: int, device: torch.device) -> Tensor:
    """Return a mask (count,) int32: all bits set where the uniform number of element start+i lies below its limit.

    The numbers are whole and in [0, 2**31); `limit` is one for all, or (count,) int32.
    """
    # Indices wrap at 2**32, and differences of 31-bit numbers do not: their sign is that of the comparison.
    numbers = torch.arange(count, dtype=torch.int32, device=device).add_(_signed(start)).bitwise_xor_(key[0])
    scratch = torch.empty_like(numbers)
    _mix(numbers, key[1], scratch)
    numbers.bitwise_right_shift_(1).bitwise_and_(2**31 - 1)
    return numbers.sub_(limit).bitwise_right_shift_(31)


def kept_below(density: float) -> int:
    """Return the number below which a 31-bit number is kept."""
    return min(round(density * 2**31), 2**31 - 1)


def _signed(number: int) -> int:
    return (number + 2**31) % 2**32 - 2**31


def _mix(x: Tensor, key: int, scratch: Tensor) -> None:
    # In place. The 32-bit finalizer of Wellons' hash prospector ("lowbias32") with a key added halfway, and without its
    # last step, which leaves the upper 16 bits as they are: the lower ones decide one comparison in 2**15. int32
    # products wrap, shifts are made logical.
    _xor_shifted(x, 16, scratch).mul_(0x7FEB352D)
    _xor_shifted(x, 15, scratch).add_(key).mul_(_signed(0x846CA68B))


def _xor_shifted(x: Tensor, by: int, scratch: Tensor) -> Tensor:
    torch.bitwise_right_shift(x, by, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_(2 ** (32 - by) - 1))
