"""Settings for speed, by kind of device: the size of a pass, which guesses are worth it, and the shapes of attention.

Guarantees: nothing here changes a token in float32. The figures for GPUs are estimates that were never measured.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from evaluation.generation.pass_memory import PASS_TOKENS

# Shapes of attention on a GPU. Rows: this many, four times as many, and so on. Queries per row: this many, twice as
# many, and so on. Slots: multiples of this, itself a multiple of the 8 elements to which kernels align a mask's rows.
_ROWS, _WIDTH, _SLOTS = 8, 16, 128


@dataclass(frozen=True, slots=True)
class Tuning:
    """The settings for one kind of device.

    Attributes:
        pass_tokens: tokens per pass.
        call_worth_slots: how many slots read by a query take as long as one more call of the attention.
        pass_worth_tokens: how many additional tokens in a pass take as long as another pass; this decides which guesses
            are worth their place.
        row_queries: how many queries of a slot take as long as reading the slot from memory.
        backends: the backends for scaled_dot_product_attention; empty to let torch choose.
        few_shapes: whether attention is padded to a few shapes.
        overlaps: whether the host can work while the device runs a pass.
    """

    pass_tokens: int
    call_worth_slots: int
    pass_worth_tokens: int
    row_queries: int
    backends: tuple[SDPBackend, ...] = ()
    few_shapes: bool = False
    overlaps: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Tuning:
        """Return the settings for a device."""
        return CPU if device.type == "cpu" else GPU

    def shape(self, rows: int, width: int, length: int) -> tuple[int, int, int]:
        """Return the padded rows, queries per row and slots per row of an attention call that computes these."""
        if not self.few_shapes:
            return rows, width, length
        most = _ROWS
        while most < rows:
            most *= 4
        wide = 1 if width == 1 else max(_WIDTH, 1 << (width - 1).bit_length())
        return most, wide, -(-length // _SLOTS) * _SLOTS

    def attention(self) -> contextlib.AbstractContextManager[object]:
        """Let scaled_dot_product_attention use only the chosen backends for a while."""
        return sdpa_kernel(list(self.backends)) if self.backends else contextlib.nullcontext()


CPU = Tuning(pass_tokens=PASS_TOKENS["cpu"], call_worth_slots=2000, pass_worth_tokens=30, row_queries=2)
GPU = Tuning(
    pass_tokens=PASS_TOKENS["cuda"],
    call_worth_slots=200_000,
    pass_worth_tokens=130,
    row_queries=16,
    # A mask rules FlashAttention out. cuDNN, torch's first choice on Hopper, builds a graph for each new shape, which
    # takes longer than a pass.
    backends=(SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    few_shapes=True,
    overlaps=True,
)
