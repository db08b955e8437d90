"""Counter-based random numbers: the same for an element wherever, whenever and in whatever pieces it is computed.

Guarantees: a number depends only on the two keys and the element's flat index, in integer arithmetic, so it is
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


def keep_below(limit: int | Tensor, key: tuple[int, int], start: int, count: int, device: torch.device) -> Tensor:
    """Return a mask (count,) int32: all bits set where the random number of element start+i lies below its limit.

    `limit` is one number for all elements, or a tensor (count,) int32.
    """
    index = torch.arange(count, dtype=torch.int32, device=device).add_(_signed(start))
    # Differences of 31-bit numbers do not wrap: their sign is that of the comparison.
    return random_numbers(index, *key).sub_(limit).bitwise_right_shift_(31)


def kept_below(density: float) -> int:
    """Return the limit below which an element's 31-bit number is kept with probability `density`.

    An element has one number for all densities, so the elements kept at 0.3 are among those kept at 0.4.
    """
    return min(round(density * 2**31), 2**31 - 1)


def _signed(number: int) -> int:
    return (number + 2**31) % 2**32 - 2**31


def random_numbers(index: Tensor, key: int | Tensor, second_key: int | Tensor) -> Tensor:
    """Turn flat indices (elements,) int32, which wrap at 2**32, into random numbers in [0, 2**31), in place.

    The 32-bit finalizer of Wellons' hash prospector ("lowbias32") with a second key added halfway. Its last step is
    left out: it does not change the upper 16 bits, and the lower ones decide only one comparison in 2**15. Equal to
    `random_number` in kernels/native/random_bits.h.
    """
    # int32 products wrap; shifts to the right are made logical.
    x, shifted = index.bitwise_xor_(key), torch.empty_like(index)
    x.bitwise_xor_(_shift(x, 16, shifted)).mul_(0x7FEB352D)
    x.bitwise_xor_(_shift(x, 15, shifted)).add_(second_key).mul_(_signed(0x846CA68B))
    return _shift(x, 1, x)


def _shift(x: Tensor, by: int, out: Tensor) -> Tensor:
    return torch.bitwise_right_shift(x, by, out=out).bitwise_and_(2 ** (32 - by) - 1)
