"""Generation by transformers' own `generate`, for models whose attention cannot be replaced (capped scores, Mamba).

Guarantees: the same tokens as `TransformersGenerator`, but slower: prompts are padded to one width and drafts are not
used. The likelihood of a reference is not computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.backend_protocol import Completions, Request
from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.batch_limit import BatchLimit
from evaluation.generation.out_of_memory import is_out_of_memory, release_unused
from evaluation.generation.pass_memory import ModelShape, row_of_generate_bytes
from evaluation.generation.text import end_tokens, within_context
from evaluation.generation.threads import threads_for
from evaluation.generation.token_choice import NONE, choose

_DEFAULT_BATCH = 96
# `generate` runs until the last row ends. So it is called for this many tokens first, then for twice as many with the
# unfinished rows: reading their tokens again costs less than steps of rows that have ended.
_FIRST_TOKENS = 64


class StockGenerator:
    """Generates with `model.generate`.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        limit: the limit of a batch, which learns when memory runs out; by default 96 prompts at once. The memory for
            reading the prompts counts as keys and values.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, limit: BatchLimit | int | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._limit = limit if isinstance(limit, BatchLimit) else BatchLimit(limit)
        self._ends = end_tokens(model, tokenizer)
        self._shape = ModelShape.of(model.config.get_text_config(), model.dtype.itemsize)

    def generate(self, requests: Sequence[Request]) -> Completions:
        """Yield (index of the request, its completion), batch by batch; see `Backend`."""
        bounded = (within_context(request, self._model) for request in requests)
        waiting = [ActiveRequest(index, it, self._tokenizer, self._ends) for index, it in enumerate(bounded)]
        tokens = _FIRST_TOKENS
        while waiting:
            start, width = 0, max(len(_text(row)) for row in waiting)
            row_bytes = row_of_generate_bytes(self._shape, width, width + tokens)
            while start < len(waiting):
                most = min(len(waiting) - start, self._limit.rows or _DEFAULT_BATCH)
                rows = waiting[start : start + self._limit.rows_of(most, row_bytes)]
                if self._fits(rows, tokens, row_bytes):
                    start += len(rows)
                    yield from ((row.index, row.generation) for row in rows if row.finished)
            waiting = [row for row in waiting if not row.finished]
            tokens *= 2

    def _fits(self, rows: Sequence[ActiveRequest], most: int, row_bytes: int) -> bool:
        """Generate up to `most` tokens per row; if memory runs out, lower the limit and return False."""
        try:
            self._extend(rows, most)
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                raise
            self._limit.ran_out(len(rows), row_bytes)
        else:
            return True
        release_unused()
        return False

    def _extend(self, rows: Sequence[ActiveRequest], most: int) -> None:
        texts = list(map(_text, rows))
        width, pad = max(map(len, texts)), self._tokenizer.pad_token_id or 0
        # Left padding, so that the newest token of every row is in the last column.
        prompts = [[pad] * (width - len(text)) + text for text in texts]
        mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]

        def choose_tokens(_: Tensor, scores: Tensor) -> Tensor:
            """Return scores (rows, vocabulary) that leave one token for each row."""
            draws, starts = [row.request.draw for row in rows], [len(row.generated) for row in rows]
            tokens = choose(scores, draws, starts, [1] * len(rows))
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if row.finished:
                    continue
                if token == NONE:
                    row.overflowed()
                else:
                    row.accept([token])
            chosen = tokens.clamp_min(0)[:, None]  # a row without a token has ended, so any token will do
            return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)

        def have_ended(input_ids: Tensor, _: Tensor) -> Tensor:
            return torch.tensor([row.finished for row in rows], device=input_ids.device)

        config: Any = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=pad)  # type: ignore[no-untyped-call]
        generate: Any = self._model.generate
        with threads_for(self._model), _generation_config(self._model, config):
            generate(
                torch.tensor(prompts, device=self._model.device),
                attention_mask=torch.tensor(mask, device=self._model.device),
                logits_processor=[choose_tokens],
                stopping_criteria=[have_ended],
            )


def _text(row: ActiveRequest) -> list[int]:
    """Return the tokens of a row: its prompt and those generated so far."""
    return [*row.request.prompt, *row.generated]


@contextlib.contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replace a model's generation config for a while: `generate` takes all settings not passed to it from there."""
    before, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = before
