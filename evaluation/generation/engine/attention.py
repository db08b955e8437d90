"""Attention over slots, which replaces a transformers model's own while a pass runs.

Guarantees: afterwards the model has its own attention back, whatever happens. A model that needs another kind of
attention (capped scores, sinks) is refused, not approximated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from evaluation.generation.engine.pass_layout import AttentionGroup, PackedPass
from evaluation.generation.engine.slots import Slots
from evaluation.generation.engine.tuning import Tuning

_NAME = "merge_search_slots"
# Arguments of attention functions in transformers 5.24 that change the result and are not supported here.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "chunk_size", "indices")


class UnsupportedAttentionError(Exception):
    """The attention of a model cannot be replaced by this one."""


_RUNNING: ContextVar[tuple[PackedPass, Slots]] = ContextVar("running")


@contextlib.contextmanager
def attention_over_slots(model: PreTrainedModel) -> Iterator[None]:
    """Give a model this attention for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def running(packed: PackedPass, slots: Slots, tuning: Tuning) -> Iterator[None]:
    """Let the model's next forward run this pass over these slots."""
    token = _RUNNING.set((packed, slots))
    try:
        with tuning.attention():
            yield
    finally:
        _RUNNING.reset(token)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the layout has its own
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Write the keys and values (1, kv heads, tokens, dim) of a pass; return the attention (1, tokens, heads, dim)."""
    for name in _UNKNOWN:
        if others.get(name) is not None:
            raise UnsupportedAttentionError(f"attention with {name}")
    packed, slots = _RUNNING.get()
    layout = packed.on(key.device)
    layer = module.layer_idx
    assert isinstance(layer, int)
    slots.write(layer, layout.places, key[0].transpose(0, 1), value[0].transpose(0, 1))
    queries = query[0].transpose(0, 1)
    masks = layout.masks(query.shape[1] // key.shape[1], sliding_window, query.dtype)
    parts = [
        _attend_group(queries, *slots.read(layer, group.rows, group.length), group, mask, scaling)
        for group, mask in zip(layout.groups, masks, strict=True)
    ]
    return (torch.cat(parts) if len(parts) > 1 else parts[0])[None], None


def _attend_group(
    queries: Tensor, keys: Tensor, values: Tensor, group: AttentionGroup, mask: Tensor, scaling: float | None
) -> Tensor:
    """Return the attention (tokens, heads, dim) of a group's tokens, among the queries (all tokens, heads, dim)."""
    rows, kv_heads = keys.shape[:2]
    width, heads = group.positions.shape[1], queries.shape[1]
    # All query heads of a key head become queries of that one head, so that no key is copied. On a CPU, torch 2.13
    # computes this five times as fast as with enable_gqa.
    chosen = queries[group.queries].view(rows, width, kv_heads, heads // kv_heads, -1)
    folded = chosen.permute(0, 2, 3, 1, 4).reshape(rows, kv_heads, heads // kv_heads * width, -1)
    found = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
    unfolded = found.view(rows, kv_heads, heads // kv_heads, width, -1).permute(0, 3, 1, 2, 4)
    answers = unfolded.reshape(rows * width, heads, -1)
    return answers if group.answers is None else answers[group.answers]


AttentionInterface.register(_NAME, _attend)
