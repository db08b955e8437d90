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
    """Return a bool mask (count,) in which element start+i is kept with probability `density`.

    The same uniform number stands behind every density, so the elements kept at 0.3 are among those kept at 0.4.
    """
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    bits = _mix(_mix(index.to(torch.int32) ^ key[0]) + key[1])
    return bits < min(int(density * 2**32) - 2**31, 2**31 - 1)


def _mix(x: Tensor) -> Tensor:
    # The 32-bit finalizer of Wellons' hash prospector ("lowbias32"); int32 products wrap, shifts are made logical.
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)
