"""Decoding with a model's own attention and caches, for models whose attention cannot be lent another one's.

Guarantees: those of `TransformersGenerator`, at less speed: rows are padded to one width, drafts are not used, and the
likelihood of a reference is not computed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.cache import growing_cache, select_rows
from evaluation.generation.draws import Draw
from evaluation.generation.memory import is_out_of_memory
from evaluation.generation.protocol import Generated, OnLikelihood, Request
from evaluation.generation.sampling import NONE, choose
from evaluation.generation.text import end_tokens, is_written, text_after
from evaluation.generation.threads import threads_for

_LOG = logging.getLogger(__name__)

# Rows leave the batch together once they are this part of it: compacting copies the whole cache.
_FINISHED_PART = 1 / 8
_DEFAULT_BATCH = 96


class _Logits(Protocol):
    logits: Tensor


class PaddedGenerator:
    """Generates with `model.forward` and a cache of its kind that grows in steps.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        batch_size: prompts decoded at once; by default as many as seem to fit, halved when memory runs out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size or _DEFAULT_BATCH
        self._ends = end_tokens(model, tokenizer)
        # transformers renamed the argument in 5.24 and warns about the old name.
        forward = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in forward else "past_key_values"
        self._context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)

    def generate(
        self,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,  # noqa: ARG002 - never known here
    ) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the request, what was written) as each is finished; see `Generator`."""
        with threads_for(self._model):
            waiting = sorted(range(len(requests)), key=lambda index: (len(requests[index].prompt), index))
            while waiting:
                finished: set[int] = set()
                rows = waiting[: self._batch_size]
                try:
                    for index, generated in self._batch({index: requests[index] for index in rows}):
                        finished.add(index)
                        yield index, generated
                except RuntimeError as error:
                    if not is_out_of_memory(error) or len(rows) == 1:
                        raise
                    self._batch_size = len(rows) // 2
                    _LOG.warning("out of memory: going on with %d prompts at a time", self._batch_size)
                    torch.cuda.empty_cache()
                waiting = [index for index in waiting if index not in finished]

    @torch.inference_mode()
    def _batch(self, requests: dict[int, Request]) -> Iterator[tuple[int, Generated]]:
        # Left padding, so that the newest token of every row is in the last column.
        rows = _Rows(requests, self._model.device, self._tokenizer.pad_token_id or 0)
        cache = growing_cache(self._model.config)
        # An index, not the count 1: that makes a slice, for which torch 2.13 copies the head once for each row.
        last = torch.tensor([-1], device=self._model.device)
        tokens, positions = rows.tokens, rows.positions
        while True:
            output: _Logits = self._model(
                input_ids=tokens,
                attention_mask=rows.mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=last,
                **{self._cache_argument: cache},
            )
            tokens = choose(output.logits[:, -1], *rows.draws())[:, None]
            overflowed = rows.append(tokens)
            tokens = tokens.clamp_min(0)  # any, where there is none: the row is finished
            for row in [row for row in rows.open() if row in overflowed or self._is_finished(rows, row)]:
                written = rows.written[row]
                text = text_after(rows.request(row).prompt, written, self._tokenizer)
                yield rows.index(row), Generated(text, tuple(written), finite=row not in overflowed)
                rows.close(row)
            if not rows.count_open:
                return
            positions = rows.next_positions()
            kept = rows.compact(_FINISHED_PART)
            if kept is not None:
                select_rows(cache, kept)
                tokens, positions = tokens[kept], positions[kept]

    def _is_finished(self, rows: _Rows, row: int) -> bool:
        request, written = rows.request(row), rows.written[row]
        if written[-1] in self._ends or len(written) >= request.max_new_tokens:
            return True
        if len(request.prompt) + len(written) >= self._context:
            return True
        return is_written(request.stops, written, self._tokenizer)


class _Rows:
    """The state of one batch: what each row has written, which rows are open, and the padding mask."""

    def __init__(self, requests: dict[int, Request], device: torch.device, pad: int) -> None:
        prompts = [request.prompt for request in requests.values()]
        width = max(map(len, prompts))
        self._requests = requests
        self._indices = list(requests)
        self.written: list[list[int]] = [[] for _ in prompts]
        self._open = [True] * len(prompts)
        padded = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
        self.tokens = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        columns = torch.arange(width, device=device)
        self.mask = (columns >= width - lengths[:, None]).long()
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

    @property
    def count_open(self) -> int:
        return sum(self._open)

    def open(self) -> list[int]:
        """Return the rows that still write."""
        return [row for row, is_open in enumerate(self._open) if is_open]

    def index(self, row: int) -> int:
        """Return the index of a row's prompt."""
        return self._indices[row]

    def request(self, row: int) -> Request:
        """Return what is wanted of a row."""
        return self._requests[self._indices[row]]

    def draws(self) -> tuple[list[Draw | None], list[int], list[int]]:
        """Return how the next token of each row is drawn, its place, and how many it is, as `choose` takes them."""
        draws = [self._requests[index].draw for index in self._indices]
        return draws, [len(written) for written in self.written], [1] * len(draws)

    def append(self, tokens: Tensor) -> set[int]:
        """Add a token (rows, 1) to every open row, and return the rows that have none: their logits are not finite."""
        chosen = tokens.squeeze(1).tolist()
        for row in self.open():
            if chosen[row] != NONE:
                self.written[row].append(chosen[row])
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self._open), 1)], dim=1)
        return {row for row in self.open() if chosen[row] == NONE}

    def close(self, row: int) -> None:
        """Mark a row as finished."""
        self._open[row] = False

    def next_positions(self) -> Tensor:
        """Return the positions (rows, 1) of the newest tokens."""
        return (self.mask.sum(dim=1, keepdim=True) - 1).clamp_min(0)

    def compact(self, part: float) -> Tensor | None:
        """Drop the finished rows if they are at least this part of all; return the rows kept, or None."""
        kept = self.open()
        if len(self._open) - len(kept) < max(1.0, part * len(self._open)):
            return None
        self._indices = [self._indices[row] for row in kept]
        self.written = [self.written[row] for row in kept]
        self._open = [True] * len(kept)
        rows = torch.tensor(kept, device=self.mask.device)
        self.mask = self.mask[rows]
        return rows
