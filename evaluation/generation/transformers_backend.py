"""Decoding of many prompts on a live transformers model, at the speed of verification.

A pass is one forward over the newest tokens of all rows and, behind them, guesses of what follows (see `drafts`). The
model's own choice at every position tells how far a guess holds; what holds is kept, and the first choice that differs
as well. Reading a prompt is the same pass with more tokens.

Guarantees: in float32 the tokens are those of `model.generate(do_sample=False)` for each prompt alone, or those that
its `Draw` draws, whatever the batch size and the drafts; a row that is finished costs no further steps, and its place
is taken by a request that waits. In 16-bit dtypes no engine is batch-invariant: the same requests at the same batch
size give the same tokens. A row whose logits are not finite ends, and no other row is any different for it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.attention import UnsupportedAttentionError, attention_over_slots, running
from evaluation.generation.counting import digits_of
from evaluation.generation.drafts import Drafts, Trust
from evaluation.generation.layout import Layout, Piece
from evaluation.generation.memory import free_bytes, is_out_of_memory
from evaluation.generation.protocol import Generated, OnLikelihood, Request
from evaluation.generation.rows import Row
from evaluation.generation.sampling import NONE, choose
from evaluation.generation.slots import Slots
from evaluation.generation.text import end_tokens, is_written, text_after
from evaluation.generation.threads import threads_for

_LOG = logging.getLogger(__name__)

_MOST_ROWS = 256
# Dead rows leave the slots together once they are this part of them: moving the others copies what they hold.
_DEAD_PART = 1 / 4
# Tokens of a pass: enough to fill the processor, few enough for its caches, or for the logits' memory.
_PASS_TOKENS = {"cpu": 1024, "cuda": 8192}
# How many slots that a query reads take as long as one more call of the attention; on a GPU an estimate.
_CALL_WORTH_SLOTS = {"cpu": 2000, "cuda": 100_000}
# How many tokens more in a pass take as long as a pass of its own: a guess is worth its place if it is likely enough.
_PASS_WORTH_TOKENS = {"cpu": 30, "cuda": 130}


class _Logits(Protocol):
    logits: Tensor


class TransformersGenerator:
    """Generates with `model.forward` and slots of our own.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        batch_size: requests decoded at once; by default as many as memory has room for, up to 256. Halved, and said so
            in the log, when memory runs out all the same.
        drafting: whether guesses are made at all; without them, a pass has the same shape for every model.

    Raises:
        UnsupportedAttentionError: the model's layers are not attention that can be lent another one's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
        *,
        drafting: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._most_rows = batch_size or _MOST_ROWS
        self._drafting = drafting
        self._ends = end_tokens(model, tokenizer)
        self._context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)
        self._is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
        self._kind = "cpu" if model.device.type == "cpu" else "cuda"
        self._bytes_per_slot = self._probe()

    def generate(
        self, requests: Sequence[Request], on_likelihood: OnLikelihood | None = None
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the request, what was written) as each is finished; see `Generator`."""
        trust, digits = Trust(), digits_of(self._tokenizer)
        rows = []
        for index, request in enumerate(map(self._within_context, requests)):
            drafts = Drafts(request.prompt, request.drafts, trust, digits) if self._drafting else None
            rows.append(Row(index, request, self._is_end, drafts))
        # The longest first, so that every later one has room in the slots that an earlier one leaves.
        waiting = deque(sorted(rows, key=lambda row: (-len(row.request.prompt), row.index)))
        with threads_for(self._model), attention_over_slots(self._model):
            while waiting:
                yield from self._batch(waiting, on_likelihood)

    def _batch(self, waiting: deque[Row], on_likelihood: OnLikelihood | None) -> Iterator[tuple[int, Generated]]:
        """Take requests as long as there are any; where memory runs out, give back those that are not finished."""
        length = max(_room(row.request) for row in waiting)
        batch = _Batch(Slots(self._rows_that_fit(length, len(waiting)), length), self._model.device)
        try:
            while waiting or batch.alive:
                batch.admit(waiting)
                batch.share()
                for row in self._pass(batch, on_likelihood):
                    yield row.index, self._generated(row)
        except RuntimeError as error:
            if not is_out_of_memory(error) or batch.slots.rows == 1:
                raise
            self._most_rows = batch.slots.rows // 2
        else:
            return
        _LOG.warning("out of memory: going on with %d prompts at a time", self._most_rows)
        for row in batch.rows:
            row.evicted()
        waiting.extendleft(reversed([row for row in batch.rows if not row.finished]))
        del batch
        torch.cuda.empty_cache()

    def _pass(self, batch: _Batch, on_likelihood: OnLikelihood | None) -> Sequence[Row]:
        """Run one pass and return the rows that it finished."""
        pieces = batch.pieces(_PASS_TOKENS[self._kind], _PASS_WORTH_TOKENS[self._kind])
        rows = [batch.rows[piece.row] for piece in pieces]
        counts = [len(row.draft) + 1 for row in rows]
        logits = self._forward(pieces, counts, batch.slots)
        draws, starts = [row.request.draw for row in rows], [len(row.written) for row in rows]
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
                batch.clear(piece.row)
            else:
                row.accept(own)
            first += count
        return [row for row in rows if row.finished]

    @torch.inference_mode()
    def _forward(self, pieces: Sequence[Piece], counts: Sequence[int], slots: Slots) -> Tensor:
        """Return the logits (sum of counts, vocabulary) of the last positions of each piece."""
        device = self._model.device
        layout = Layout.of(pieces, slots.length, _CALL_WORTH_SLOTS[self._kind], device)
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
                # A model that accelerate has spread has its last states on another device than its inputs and outputs.
                logits_to_keep=0 if self._is_spread else torch.tensor(wanted, device=device),
            )
        return output.logits[0][wanted] if self._is_spread else output.logits[0]

    def _probe(self) -> int:
        """Return what a slot of a row takes. Raises UnsupportedAttentionError."""
        config = self._model.config.get_text_config()
        others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if others or not self._model._can_set_attn_implementation():
            raise UnsupportedAttentionError(f"layers of another kind: {', '.join(sorted(others))}")
        slots = Slots(1, 1)
        with attention_over_slots(self._model):
            self._forward([Piece(0, 0, [0])], [1], slots)
        if slots.layers != frozenset(range(config.num_hidden_layers)):
            raise UnsupportedAttentionError(f"{len(slots.layers)} of {config.num_hidden_layers} layers attend")
        return slots.bytes_per_slot

    def _rows_that_fit(self, length: int, wanted: int) -> int:
        fitting = free_bytes(self._model.device) // (self._bytes_per_slot * length)
        return max(1, min(self._most_rows, wanted, fitting))

    def _within_context(self, request: Request) -> Request:
        room = max(1, self._context - len(request.prompt))
        reference = request.reference if len(request.reference) < room else ()
        return replace(request, max_new_tokens=min(request.max_new_tokens, room), reference=reference)

    def _is_end(self, request: Request, written: Sequence[int]) -> bool:
        if written[-1] in self._ends or len(written) >= request.max_new_tokens:
            return True
        return is_written(request.stops, written, self._tokenizer)

    def _generated(self, row: Row) -> Generated:
        text = text_after(row.request.prompt, row.written, self._tokenizer)
        return Generated(text, tuple(row.written), row.log_likelihood, row.finite)


class _Batch:
    """The rows that have slots, in the order of these.

    Attributes:
        slots: theirs.
        rows: the one in each place; finished ones stay until the others are moved together.
    """

    def __init__(self, slots: Slots, device: torch.device) -> None:
        self.slots = slots
        self.rows: list[Row] = []
        self._device = device

    @property
    def alive(self) -> bool:
        """Whether any row is not finished."""
        return any(not row.finished for row in self.rows)

    def admit(self, waiting: deque[Row]) -> None:
        """Move rows together if many are finished, and give the places that are free to those that wait."""
        kept = [place for place, row in enumerate(self.rows) if not row.finished]
        if len(kept) <= (1 - _DEAD_PART) * len(self.rows):
            self._keep(kept)
        while waiting and len(self.rows) < self.slots.rows:
            self.rows.append(waiting.popleft())

    def share(self) -> None:
        """Give rows the prompt that another row has read: samples of a problem begin alike."""
        fresh = [place for place, row in enumerate(self.rows) if row.fresh and not row.finished]
        if not fresh:
            return
        read = {tuple(row.request.prompt): place for place, row in enumerate(self.rows) if not row.fresh}
        with torch.inference_mode():
            for place in fresh:
                prompt = tuple(self.rows[place].request.prompt)
                if prompt in read:
                    # All but the last token, after which the model's choice is asked for.
                    self.slots.copy(read[prompt], place, len(prompt) - 1)
                    self.rows[place].given(len(prompt) - 1)

    def clear(self, place: int) -> None:
        """Let a place hold nothing: NaN would reach whoever reads as far in the row, and who takes it over."""
        with torch.inference_mode():
            self.slots.clear(place)

    def pieces(self, most_tokens: int, worth: int) -> Sequence[Piece]:
        """Return the next pass: new rows first, as many as may be, and if all of these are in it, every other row.

        Args:
            most_tokens: of a pass, as far as new rows make it.
            worth: how many tokens more take as long as another pass.
        """
        alive = [place for place, row in enumerate(self.rows) if not row.finished]
        # A guess that fails takes a token's time; one that holds takes a pass's off one row of those that share it.
        certainty = len(alive) / (len(alive) + worth)
        chosen: list[Piece] = []
        tokens = 0
        prompts: set[tuple[int, ...]] = set()
        for place in (place for place in alive if self.rows[place].fresh):
            prompt = tuple(self.rows[place].request.prompt)
            if prompt in prompts:  # it is read once, and then shared
                continue
            prompts.add(prompt)
            chosen.append(self.rows[place].piece(place, certainty))
            tokens += len(chosen[-1].tokens)
            if tokens >= most_tokens:
                return chosen
        chosen += [self.rows[place].piece(place, certainty) for place in alive if not self.rows[place].fresh]
        return sorted(chosen, key=lambda piece: piece.row)

    def _keep(self, kept: Sequence[int]) -> None:
        self.rows = [self.rows[place] for place in kept]
        used = max((len(row.request.prompt) + len(row.written) for row in self.rows), default=0)
        with torch.inference_mode():
            self.slots.keep(torch.tensor(kept, dtype=torch.long, device=self._device), used)


def _room(request: Request) -> int:
    """Return the slots that a request may fill."""
    return len(request.prompt) + max(request.max_new_tokens, len(request.reference) + 1)


def _mean_log_likelihood(logits: Tensor, tokens: Sequence[int]) -> float:
    """Return the mean over tokens (n,) of their log-likelihood under logits (n, vocabulary), in nats."""
    chosen = logits.float().log_softmax(dim=-1)[range(len(tokens)), list(tokens)]
    return float(chosen.mean())
