"""Speculative generation for many prompts on a live transformers model.

A pass is one forward over the newest tokens of all requests, each followed by guesses of the next ones (see `Drafter`).
The model's own choice at every position verifies the guesses: those before the first difference are kept, and so is the
choice that differs. Reading a prompt is the same pass with more tokens.

Guarantees: in float32 the tokens are those of `model.generate(do_sample=False)` for each prompt by itself, or those
that its `TokenDraws` draws, whatever the order, the batch size and the drafts. In 16-bit dtypes no engine is
batch-invariant: only the same requests at the same batch size give the same tokens. A request whose logits are not
finite ends, and changes no other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Completions, OnLikelihood, Request
from evaluation.generation.drafting.drafter import Drafter, Trust
from evaluation.generation.drafting.numbered_text import digits_of
from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.attention import UnsupportedAttentionError, attention_over_slots, running
from evaluation.generation.engine.batch import Batch
from evaluation.generation.engine.batch_limit import BatchLimit
from evaluation.generation.engine.pass_layout import PackedPass, Piece
from evaluation.generation.engine.slots import Slots
from evaluation.generation.engine.tuning import Tuning
from evaluation.generation.out_of_memory import is_out_of_memory, make_room_on_host, release_unused
from evaluation.generation.pass_memory import SCORED_TOKENS
from evaluation.generation.text import end_tokens, most_tokens, within_context
from evaluation.generation.threads import threads_for
from evaluation.generation.token_choice import NONE, OPEN, Drawing, choose_at_once, settle

# The bytes per slot of each live model, which holds one candidate after another.
_PROBED: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Launched:
    """A pass that the device is running.

    Attributes:
        pieces: the tokens that it reads.
        logits: (choices, vocabulary).
        drawing: how tokens are drawn from them.
        answers: (choices + scored pieces,) the tokens, then the mean log-likelihoods.
    """

    pieces: Sequence[Piece]
    logits: Tensor
    drawing: Drawing | None
    answers: Tensor

    def read(self) -> tuple[list[int], list[float]]:
        """Wait for the device; return the tokens and the mean log-likelihoods."""
        count = len(self.logits)
        answers = self.answers.tolist()
        tokens = answers[:count]
        if OPEN in tokens and self.drawing:
            tokens = settle(self.answers[:count].long(), self.logits, self.drawing).tolist()
        return [int(token) for token in tokens], answers[count:]


class _Logits(Protocol):
    logits: Tensor


class TransformersGenerator:
    """Generates with `model.forward` and slots of our own.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        limit: the limit of a batch, which learns when memory runs out; by default 256 rows.
        drafting: whether to make guesses; without them, a pass has the same shape for every model.
        tuning: the sizes that are fast; by default those of the model's device.

    Raises:
        UnsupportedAttentionError: the attention of the model's layers cannot be replaced.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        limit: BatchLimit | int | None = None,
        *,
        drafting: bool = True,
        tuning: Tuning | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._limit = limit if isinstance(limit, BatchLimit) else BatchLimit(limit)
        self._drafting = drafting
        self._ends = end_tokens(model, tokenizer)
        self._tuning = tuning or Tuning.of(model.device)
        if model not in _PROBED:
            _PROBED[model] = self._probe()
        self._slot_bytes = _PROBED[model]

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
        """Serve waiting requests until none is left; if memory runs out, put the unfinished ones back."""
        length = max(most_tokens(row.request) for row in waiting)
        row_bytes = length * self._slot_bytes
        batch = Batch(Slots(self._limit.rows_of(len(waiting), row_bytes), length))
        try:
            yield from self._passes(batch, waiting, on_likelihood)
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch.slots.rows == 1:
                raise
            self._limit.ran_out(batch.slots.rows, row_bytes)
        else:
            return
        yield from batch.completions()
        for row in batch.rows:
            row.cached = 0
        waiting.extendleft(reversed([row for row in batch.rows if not row.finished]))
        del batch
        release_unused()

    def _passes(self, batch: Batch, waiting: deque[ActiveRequest], on_likelihood: OnLikelihood | None) -> Completions:
        while waiting or batch.alive:
            batch.admit(waiting)
            batch.share()
            launched = self._launch(batch)
            # The caller works on a completion while the device runs the next pass.
            yield from batch.completions()
            self._finish(batch, launched, on_likelihood)
            del launched
            if not self._tuning.overlaps:
                yield from batch.completions()
        yield from batch.completions()

    @torch.inference_mode()
    def _launch(self, batch: Batch) -> _Launched:
        """Start a pass, without waiting for the device."""
        pieces = batch.pieces(self._tuning.pass_tokens, self._tuning.pass_worth_tokens)
        logits, packed = self._forward(pieces, batch.slots)
        layout = packed.on(logits.device)
        chosen = choose_at_once(logits, layout.drawing)
        if not layout.targets:
            return _Launched(pieces, logits, layout.drawing, chosen)
        # float64 represents every token exactly, so that one copy brings all answers.
        scored = _mean_log_likelihoods(logits, pieces, layout.targets)
        return _Launched(pieces, logits, layout.drawing, torch.cat([chosen.double(), scored]))

    @torch.inference_mode()
    def _finish(self, batch: Batch, launched: _Launched, on_likelihood: OnLikelihood | None) -> None:
        """Wait for a pass, and give each row the tokens that the model chose."""
        choices, likelihoods = launched.read()
        likelihood = iter(likelihoods)
        first = 0
        for piece in launched.pieces:
            row = batch.rows[piece.row]
            own = choices[first : first + piece.choices]
            first += piece.choices
            if piece.scored:
                row.log_likelihood = next(likelihood)
                if on_likelihood:
                    on_likelihood(row.index, row.log_likelihood)
            if NONE in own:
                row.overflowed()
                # NaN would spread to padded reads of this row, and to the next request that gets it.
                batch.slots.clear(piece.row)
            else:
                row.accept(own)
        batch.note_ends(launched.pieces)

    def _forward(self, pieces: Sequence[Piece], slots: Slots) -> tuple[Tensor, PackedPass]:
        """Return the logits (choices, vocabulary) of a pass, and its numbers."""
        packed = PackedPass(pieces, (slots.rows, slots.length), self._tuning)
        layout = packed.on(self._model.device)
        with running(packed, slots, self._tuning), _logits_where_wanted(self._model, packed):
            output: _Logits = self._model(input_ids=layout.tokens, position_ids=layout.positions, use_cache=False)
        return output.logits[0], packed

    @torch.inference_mode()
    def _probe(self) -> int:
        """Return the bytes of one slot. Raises UnsupportedAttentionError."""
        config = self._model.config.get_text_config()
        others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if others:
            raise UnsupportedAttentionError(f"layer types {', '.join(sorted(others))}")
        if not self._model._can_set_attn_implementation():
            raise UnsupportedAttentionError("attention that its class does not let others replace")
        if self._model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
            raise UnsupportedAttentionError("no head that makes logits of states")
        slots = Slots(1, 2)
        with threads_for(self._model), attention_over_slots(self._model):
            logits, _ = self._forward([Piece(0, 0, [0, 0])], slots)
        if len(logits) != 1:
            raise UnsupportedAttentionError("logits that another module makes than the head")
        if slots.layers != frozenset(range(config.num_hidden_layers)):
            raise UnsupportedAttentionError(f"{len(slots.layers)} of {config.num_hidden_layers} layers attend")
        return slots.bytes_per_slot


@contextlib.contextmanager
def _logits_where_wanted(model: PreTrainedModel, packed: PackedPass) -> Iterator[None]:
    """Give the head only the states whose logits are wanted.

    ``logits_to_keep`` cannot do this: for a model spread over devices, accelerate moves all arguments to the first
    device, but the last states are on another.
    """

    def chosen(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        states = given[0][:, packed.on(given[0].device).wanted]
        if states.device.type == "cpu":
            make_room_on_host(states.nbytes // states.shape[-1] * vocabulary)
        return (states,)

    vocabulary: int = model.config.get_text_config().vocab_size
    head: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with head.register_forward_pre_hook(chosen):
        yield


def _mean_log_likelihoods(logits: Tensor, pieces: Sequence[Piece], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean log-likelihood, in nats, of the guesses of each scored piece, (scored pieces,) float64.

    Args:
        logits: (choices of all pieces, vocabulary).
        pieces: the pieces of the pass.
        targets: the guesses (n,) of each scored piece.
    """
    starts = accumulate((piece.choices for piece in pieces), initial=0)
    scored = [(start, piece.guesses) for start, piece in zip(starts, pieces, strict=False) if piece.scored]
    means = [
        _log_likelihoods(logits[start : start + count], tokens).mean()
        for (start, count), tokens in zip(scored, targets, strict=True)
    ]
    return torch.stack(means).double()


def _log_likelihoods(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-likelihood of each token, (n, 1).

    Some are computed at a time: in float32, all together would take twice the memory of 16-bit logits.
    """
    parts = [slice(start, start + SCORED_TOKENS) for start in range(0, len(tokens), SCORED_TOKENS)]
    return torch.cat([logits[part].float().log_softmax(dim=-1).gather(1, tokens[part, None]) for part in parts])
