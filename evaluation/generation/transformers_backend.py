"""Greedy decoding of many prompts on a live transformers model.

Guarantees: in float32 the tokens are those of `model.generate(do_sample=False)` for each prompt alone, whatever the
batch size; a row that is finished leaves the batch and costs no further steps. In 16-bit dtypes no engine is
batch-invariant: the same prompts at the same batch size give the same tokens.
"""

from __future__ import annotations

import contextlib
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
_CONTEXT_TOKENS = 4
# On a CPU, the operations of a smaller model are shorter than its threads' waiting for one another.
_PARAMETERS_WORTH_THREADS = 10_000_000


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
        with _threads(self._model):
            yield from self._batches(prompts, stops)

    def _batches(self, prompts: Sequence[Sequence[int]], stops: Sequence[str]) -> Iterator[tuple[int, Generated]]:
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
        cache = growing_cache(self._model.config)
        # An index, not the count 1: that makes a slice, for which torch 2.13 copies the head once for each row.
        last = torch.tensor([-1], device=self._model.device)
        tokens, positions = rows.tokens, rows.positions
        for step in range(self._max_new_tokens):
            output: _Logits = self._model(
                input_ids=tokens,
                attention_mask=rows.mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=last,
                **{self._cache_argument: cache},
            )
            tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            rows.append(tokens)
            for row in [row for row in rows.open() if self._is_finished(rows, row, step + 1, stops)]:
                yield rows.index(row), self._generated(rows.prompt(row), rows.written[row])
                rows.close(row)
            if not rows.count_open:
                return
            positions = rows.next_positions()
            kept = rows.compact(_FINISHED_PART)
            if kept is not None:
                select_rows(cache, kept)
                tokens, positions = tokens[kept], positions[kept]

    def _is_finished(self, rows: _Rows, row: int, tokens: int, stops: Sequence[str]) -> bool:
        written = rows.written[row]
        if written[-1] in self._ends or tokens == self._max_new_tokens:
            return True
        if len(rows.prompt(row)) + tokens >= self._context:
            return True
        tail = self._text(written[-_TAIL_TOKENS:]) if stops else ""
        return any(stop in tail for stop in stops)

    def _generated(self, prompt: Sequence[int], written: Sequence[int]) -> Generated:
        # Some tokenizers take a leading space off what they decode, so the end of the prompt is decoded along.
        context = list(prompt[-_CONTEXT_TOKENS:])
        text = self._text([*context, *written])[len(self._text(context)) :]
        return Generated(text, len(written))

    def _text(self, tokens: list[int]) -> str:
        # "Cleaning up" would take the spaces out of code such as `x = not y .z`.
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # of one sequence; of several it would be a list
        return text


class _Rows:
    """The state of one batch: what each row has written, which rows are open, and the padding mask."""

    def __init__(self, prompts: dict[int, Sequence[int]], device: torch.device, pad: int) -> None:
        width = max(map(len, prompts.values()))
        self._prompts = prompts
        self._indices = list(prompts)
        self.written: list[list[int]] = [[] for _ in prompts]
        self._open = [True] * len(prompts)
        padded = [[pad] * (width - len(ids)) + list(ids) for ids in prompts.values()]
        self.tokens = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(ids) for ids in prompts.values()], device=device)
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

    def prompt(self, row: int) -> Sequence[int]:
        """Return a row's prompt."""
        return self._prompts[self._indices[row]]

    def append(self, tokens: Tensor) -> None:
        """Add a token (rows, 1) to every open row."""
        for row, token in enumerate(tokens.squeeze(1).tolist()):
            if self._open[row]:
                self.written[row].append(token)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self._open), 1)], dim=1)

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


@contextlib.contextmanager
def _threads(model: PreTrainedModel) -> Iterator[None]:
    """Use one thread for a tiny model on a CPU, and give the others back."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.num_parameters() < _PARAMETERS_WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if isinstance(token, int))
