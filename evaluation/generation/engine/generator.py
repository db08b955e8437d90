"""Speculative generation for many prompts on a live transformers model.

A pass is one forward over the newest tokens of all requests, followed by guesses of what comes next (see `Drafter`).
The model's own choice at every position verifies the guesses: those before the first difference are kept, and so is the
choice that differs. Reading a prompt is the same pass with more tokens.

Guarantees: in float32 the tokens are those of `model.generate(do_sample=False)` for each prompt by itself, or those
that its `TokenDraws` draws, whatever the order, the batch size and the drafts. In 16-bit dtypes no engine is
batch-invariant: only the same requests at the same batch size give the same tokens. A request whose logits are not
finite ends, and changes no other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Completions, OnLikelihood, Request
from evaluation.generation.drafting.drafter import Drafter, Trust
from evaluation.generation.drafting.numbered_text import digits_of
from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.attention import UnsupportedAttentionError, attention_over_slots, running
from evaluation.generation.engine.batch import Batch
from evaluation.generation.engine.pass_layout import PassLayout, Piece
from evaluation.generation.engine.slots import Slots
from evaluation.generation.out_of_memory import is_out_of_memory
from evaluation.generation.pass_memory import PASS_TOKENS
from evaluation.generation.room import UNLIMITED, Room
from evaluation.generation.text import end_tokens, most_tokens, within_context
from evaluation.generation.threads import threads_for
from evaluation.generation.token_choice import NONE, choose

_LOG = logging.getLogger(__name__)

_MOST_ROWS = 256
# How many slots read by a query take as long as one more call of the attention; an estimate on a GPU.
_CALL_WORTH_SLOTS = {"cpu": 2000, "cuda": 100_000}
# How many more tokens in a pass take as long as a pass of their own: this decides which guesses are worth their place.
_PASS_WORTH_TOKENS = {"cpu": 30, "cuda": 130}
# The bytes per slot of live models: each holds one candidate after another.
_PROBED: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()


class _Logits(Protocol):
    logits: Tensor


class TransformersGenerator:
    """Generates with `model.forward` and slots of our own.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        batch_size: requests decoded at once; by default as many as there is room for, up to 256. Halved, with a line
            in the log, if memory runs out all the same.
        drafting: whether to make guesses; without them, a pass has the same shape for every model.
        room: the memory that the keys and values of a batch may take.

    Raises:
        UnsupportedAttentionError: the attention of the model's layers cannot be replaced.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
        *,
        drafting: bool = True,
        room: Room = UNLIMITED,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._most_rows = batch_size or _MOST_ROWS
        self._drafting = drafting
        self._room = room
        self._ends = end_tokens(model, tokenizer)
        self._is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        self._kind = "cpu" if model.device.type == "cpu" else "cuda"
        if model not in _PROBED:
            _PROBED[model] = self._probe()

    def generate(self, requests: Sequence[Request], on_likelihood: OnLikelihood | None = None) -> Completions:
        """Yield (index of the request, its completion) as completions end; see `Backend`."""
        trust, digits = Trust(), digits_of(self._tokenizer)
        waiting: deque[ActiveRequest] = deque()
        for index, request in enumerate(requests):
            drafter = Drafter(request.prompt, request.drafts, trust, digits) if self._drafting else None
            bounded = within_context(request, self._model)
            waiting.append(ActiveRequest(index, bounded, self._tokenizer, self._ends, drafter))
        with threads_for(self._model), attention_over_slots(self._model):
            while waiting:
                yield from self._batch(waiting, on_likelihood)

    def _batch(self, waiting: deque[ActiveRequest], on_likelihood: OnLikelihood | None) -> Completions:
        """Serve waiting requests until there are none; if memory runs out, put back those that are not finished."""
        length = max(most_tokens(row.request) for row in waiting)
        batch = Batch(Slots(self._rows_that_fit(length, len(waiting)), length), self._model.device)
        try:
            while waiting or batch.alive:
                batch.admit(waiting)
                batch.share()
                for row in self._pass(batch, on_likelihood):
                    yield row.index, row.generation
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch.slots.rows == 1:
                raise
            self._most_rows = batch.slots.rows // 2
        else:
            return
        _LOG.warning("out of memory: continuing with %d prompts at a time", self._most_rows)
        for row in batch.rows:
            row.cached = 0
        waiting.extendleft(reversed([row for row in batch.rows if not row.finished]))
        del batch
        torch.cuda.empty_cache()

    def _pass(self, batch: Batch, on_likelihood: OnLikelihood | None) -> Sequence[ActiveRequest]:
        """Run one pass and return the requests that it finished."""
        pieces = batch.pieces(PASS_TOKENS[self._kind], _PASS_WORTH_TOKENS[self._kind])
        rows = [batch.rows[piece.row] for piece in pieces]
        counts = [len(row.draft) + 1 for row in rows]
        logits = self._forward(pieces, counts, batch.slots)
        draws, starts = [row.request.draw for row in rows], [len(row.generated) for row in rows]
        choices = choose(logits, draws, starts, counts).tolist()
        first = 0
        for row, piece, count in zip(rows, pieces, counts, strict=True):
            own = choices[first : first + count]
            if row.reads_reference:
                row.log_likelihood = _mean_log_likelihood(logits[first : first + count - 1], row.draft)
                if on_likelihood:
                    on_likelihood(row.index, row.log_likelihood)
            if NONE in own:
                row.overflowed()
                # NaN would reach whoever reads that far in the row, and the next request that gets it.
                batch.slots.clear(piece.row)
            else:
                row.accept(own)
            first += count
        return [row for row in rows if row.finished]

    @torch.inference_mode()
    def _forward(self, pieces: Sequence[Piece], counts: Sequence[int], slots: Slots) -> Tensor:
        """Return the logits (sum of counts, vocabulary) of the last positions of each piece."""
        device = self._model.device
        layout = PassLayout.of(pieces, slots.length, _CALL_WORTH_SLOTS[self._kind], device)
        wanted: list[int] = []
        end = 0
        for piece, count in zip(pieces, counts, strict=True):
            end += len(piece.tokens)
            wanted += range(end - count, end)
        with running(layout, slots):
            output: _Logits = self._model(
                input_ids=layout.tokens,
                position_ids=layout.positions,
                use_cache=False,
                # If accelerate spread the model, its last states are on another device than its inputs and outputs.
                logits_to_keep=0 if self._is_spread else torch.tensor(wanted, device=device),
            )
        return output.logits[0][wanted] if self._is_spread else output.logits[0]

    def _probe(self) -> int:
        """Return the bytes of one slot. Raises UnsupportedAttentionError."""
        config = self._model.config.get_text_config()
        others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if others or not self._model._can_set_attn_implementation():
            raise UnsupportedAttentionError(f"layer types {', '.join(sorted(others))}")
        slots = Slots(1, 1)
        with threads_for(self._model), attention_over_slots(self._model):
            self._forward([Piece(0, 0, [0])], [1], slots)
        if slots.layers != frozenset(range(config.num_hidden_layers)):
            raise UnsupportedAttentionError(f"{len(slots.layers)} of {config.num_hidden_layers} layers attend")
        return slots.bytes_per_slot

    def _rows_that_fit(self, length: int, wanted: int) -> int:
        rows = min(self._most_rows, wanted)
        if self._room.cache_bytes is not None:
            rows = min(rows, self._room.cache_bytes // (_PROBED[self._model] * length))
        return max(1, rows)


def _mean_log_likelihood(logits: Tensor, tokens: Sequence[int]) -> float:
    """Return the mean over tokens (n,) of their log-likelihood under logits (n, vocabulary), in nats."""
    chosen = logits.float().log_softmax(dim=-1)[range(len(tokens)), list(tokens)]
    return float(chosen.mean())
