"""The largest magnitude of a stored tensor, read in pieces, to tell whether its values fit into a narrower dtype.

Guarantees: at most one piece is copied at a time, if the file can be mapped. NaN counts as the largest magnitude.
"""

from __future__ import annotations

import math

import torch

from merging.checkpoints.weights import StoredTensor

# Elements that are looked at together; small enough for a processor's cache.
_PIECE = 1 << 19
# Without its sign bit, a float's bits are an integer that grows with the magnitude: up to Inf, and then NaN.
_BITS = {2: (torch.int16, 0x7FFF), 4: (torch.int32, 0x7FFF_FFFF), 8: (torch.int64, 0x7FFF_FFFF_FFFF_FFFF)}


def largest_magnitude(stored: StoredTensor) -> float:
    """Return the largest magnitude of a tensor's values; NaN if one of them is NaN.

    Raises MachineError if its file cannot be read.
    """
    if not stored.dtype.is_floating_point or 0 in stored.shape:
        return 0.0
    whole = stored.view().view(-1)
    kind, mask = _BITS[whole.dtype.itemsize]
    bits = whole.view(kind).numpy()  # torch's threads would wait for each other at every piece
    largest = max(int((bits[start : start + _PIECE] & mask).max()) for start in range(0, len(bits), _PIECE))
    return float(torch.tensor(largest, dtype=kind).view(whole.dtype))


def overflows(magnitude: float, dtype: torch.dtype) -> bool:
    """Whether a finite magnitude rounds to Inf in a dtype; one just above the largest number does not."""
    rounded = torch.tensor(magnitude, dtype=torch.float64).to(dtype)
    return math.isfinite(magnitude) and not bool(rounded.isfinite())
