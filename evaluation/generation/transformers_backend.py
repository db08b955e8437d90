"""Greedy decoding of many prompts on a live transformers model.

Guarantees: in float32 the tokens are those of `model.generate(do_sample=False)` for each prompt alone, whatever the
batch size; a row that is finished leaves the batch and costs no further steps. In 16-bit dtypes no engine is
batch-invariant: the same prompts at the same batch size give the same tokens.
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
from evaluation.generation.protocol import Generated

_LOG = logging.getLogger(__name__)

# Rows leave the batch together once they are this part of it: compacting copies the whole cache.
_FINISHED_PART = 1 / 8
_DEFAULT_BATCH = 96
# A stop text of n characters lies in the last n tokens at most; decoding some more costs nothing.
_TAIL_TOKENS = 16


class _Logits(Protocol):
    logits: Tensor


class TransformersGenerator:
    """Generates with `model.forward` and a cache of our own.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        max_new_tokens: the most tokens written after a prompt.
        batch_size: prompts decoded at once; by default as many as seem to fit, halved when memory runs out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_new_tokens: int,
        batch_size: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size or _DEFAULT_BATCH
        self._ends = _end_tokens(model, tokenizer)
        # transformers renamed the argument in 5.24 and warns about the old name.
        forward = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in forward else "past_key_values"
        self._context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)

    def generate(self, prompts: Sequence[Sequence[int]], stops: Sequence[str]) -> Iterator[tuple[int, Generated]]:
        """Yield (index of the prompt, what was written) as each is finished; see `Generator`."""
        waiting = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        while waiting:
            rows = waiting[: self._batch_size]
            finished: set[int] = set()
            try:
                for index, generated in self._batch({index: prompts[index] for index in rows}, stops):
                    finished.add(index)
                    yield index, generated
            except torch.OutOfMemoryError:
                if self._batch_size == 1:
                    raise
                self._batch_size = max(1, min(self._batch_size, len(rows)) // 2)
                _LOG.warning("out of memory: going on with %d prompts at a time", self._batch_size)
                torch.cuda.empty_cache()
            waiting = [index for index in waiting if index not in finished]

    @torch.inference_mode()
    def _batch(self, prompts: dict[int, Sequence[int]], stops: Sequence[str]) -> Iterator[tuple[int, Generated]]:
        # Left padding, so that the newest token of every row is in the last column.
        rows = _Rows(prompts, self._model.device, self._tokenizer.pad_token_id or 0)
        limit = min(self._max_new_tokens, self._context - rows.width)
        cache = growing_cache(self._model.config)
        tokens, positions = rows.tokens, rows.positions
        for step in range(1, limit + 1):
            output: _Logits = self._model(
                input_ids=tokens,
                attention_mask=rows.mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_argument: cache},
            )
            tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            newly, left = rows.append(tokens, self._ends), step == limit
            done = [row for row in rows.open() if row in newly or left or self._stopped(rows.written[row], stops)]
            for row in done:
                yield rows.close(row), self._generated(rows.written[row])
            if not rows.count_open:
                return
            positions = rows.next_positions()
            kept = rows.compact(_FINISHED_PART)
            if kept is not None:
                select_rows(cache, kept)
                tokens, positions = tokens[kept], positions[kept]
        for row in rows.open():
            yield rows.close(row), self._generated(rows.written[row])

    def _stopped(self, written: list[int], stops: Sequence[str]) -> bool:
        if not stops:
            return False
        tail = self._tokenizer.decode(written[-_TAIL_TOKENS:])
        return any(stop in tail for stop in stops)

    def _generated(self, written: list[int]) -> Generated:
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        assert isinstance(text, str)  # of a list of ids; of a list of lists it would be a list
        return Generated(text, len(written))


class _Rows:
    """The state of one batch: what each row has written, which rows are open, and the padding mask."""

    def __init__(self, prompts: dict[int, Sequence[int]], device: torch.device, pad: int) -> None:
        self.width = max(map(len, prompts.values()))
        self._indices = list(prompts)
        self.written: list[list[int]] = [[] for _ in prompts]
        self._open = [True] * len(prompts)
        padded = [[pad] * (self.width - len(ids)) + list(ids) for ids in prompts.values()]
        self.tokens = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(ids) for ids in prompts.values()], device=device)
        columns = torch.arange(self.width, device=device)
        self.mask = (columns >= self.width - lengths[:, None]).long()
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

    @property
    def count_open(self) -> int:
        return sum(self._open)

    def open(self) -> list[int]:
        """Return the rows that still write."""
        return [row for row, is_open in enumerate(self._open) if is_open]

    def append(self, tokens: Tensor, ends: frozenset[int]) -> set[int]:
        """Add a token (rows, 1) to every open row; return the rows that ended with it."""
        ended = set()
        for row, token in enumerate(tokens.squeeze(1).tolist()):
            if self._open[row]:
                self.written[row].append(token)
                if token in ends:
                    ended.add(row)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self._open), 1)], dim=1)
        return ended

    def close(self, row: int) -> int:
        """Mark a row as finished and return the index of its prompt."""
        self._open[row] = False
        return self._indices[row]

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


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if isinstance(token, int))
