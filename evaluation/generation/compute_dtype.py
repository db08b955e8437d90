"""The dtype that a 16-bit model computes in: its own or float32, which can represent the same values.

Most processors multiply matrices fast only in float32; those with AVX512-BF16 or AMX are faster in bfloat16, and a few
in float16. Matrix products of the model's shapes are timed to find out.

Guarantees: a measurement takes well under a second of processor time, whatever the size of the model. It uses one
thread and, on a CPU, that thread's own clock, so that other work on the machine does not disturb it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Literal

import torch

from evaluation.generation.threads import one_thread

# If float32 is less than this many times as fast, a model computes in its own dtype, as it does elsewhere.
_WORTH_CHANGING = 1.3
# Tokens in a pass that reads prompts (with more, the time per token is the same), and in one that extends completions.
_TOKENS = (256, 80)
# Only part of a large matrix is multiplied: the time per element is the same.
_MULTIPLICATIONS = 1 << 25
_COLUMNS = 1024
_SHAPES = 4
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Speeds:
    """The seconds that the same matrix products take in a model's own dtype and in float32.

    `fits` says whether memory has room for the model in float32; the caller sets it.
    """

    own: float
    float32: float
    fits: bool = True

    @property
    def speedup(self) -> float:
        """How many times as fast as the own dtype float32 is."""
        return self.own / self.float32

    @property
    def choice(self) -> Literal["recipe", "float32"]:
        """The dtype to compute in."""
        return "float32" if self.fits and self.speedup >= _WORTH_CHANGING else "recipe"


def compute_speeds(shapes: Iterable[Sequence[int]], dtype: torch.dtype, device: str = "cpu") -> Speeds | None:
    """Time the matrix products of a model in its own dtype and in float32; None if there is nothing to choose.

    Args:
        shapes: the shapes of the model's tensors.
        dtype: the model's dtype.
        device: the device that it computes on.
    """
    if not (dtype.is_floating_point and dtype.itemsize == 2):
        return None
    # The last two dimensions are a linear map; a tensor of experts holds several maps.
    elements: Counter[tuple[int, int]] = Counter()
    for shape in shapes:
        if len(shape) > 1:
            elements[shape[-2], shape[-1]] += prod(shape)
    dtypes = (dtype, torch.float32)
    seconds = dict.fromkeys(dtypes, 0.0)
    with one_thread(), torch.inference_mode():
        for (rows, columns), weight in elements.most_common(_SHAPES):
            for tokens in _TOKENS:
                part = min(columns, _COLUMNS)
                taken = _product(min(rows, _MULTIPLICATIONS // (tokens * part)), part, tokens, dtypes, device)
                for each in dtypes:
                    seconds[each] += weight * taken[each]
    return Speeds(seconds[dtype], seconds[torch.float32]) if elements else None


def _product(
    rows: int, columns: int, tokens: int, dtypes: Sequence[torch.dtype], device: str
) -> dict[torch.dtype, float]:
    """Return the seconds per multiplication in each dtype: the least of several tries, which alternate."""
    least = dict.fromkeys(dtypes, inf)
    operands = {
        dtype: [torch.ones(size, columns, dtype=dtype, device=device) for size in (tokens, rows)] for dtype in dtypes
    }
    for _ in range(_TRIES):  # the first try also chooses an algorithm
        for dtype, (inputs, weights) in operands.items():
            started = _now(device)
            torch.nn.functional.linear(inputs, weights)
            least[dtype] = min(least[dtype], _now(device) - started)
    return {dtype: taken / (rows * columns * tokens) for dtype, taken in least.items()}


def _now(device: str) -> float:
    if torch.device(device).type == "cpu":
        return time.thread_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()
