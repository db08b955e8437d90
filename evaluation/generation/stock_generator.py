"""Generation by transformers' own `generate`, for models whose attention cannot be replaced (capped scores, Mamba).

Guarantees: the tokens of `TransformersGenerator`, at less speed: prompts are padded to one width, a batch runs until
its last row ends, drafts are not used, and no likelihood of a reference is computed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.generation.free_memory import is_out_of_memory
from evaluation.generation.protocol import Completions, Generated, OnLikelihood, Request
from evaluation.generation.text import end_tokens, ends_in_stop, text_after
from evaluation.generation.threads import threads_for
from evaluation.generation.token_choice import NONE, choose

_LOG = logging.getLogger(__name__)

_DEFAULT_BATCH = 96


class StockGenerator:
    """Generates with `model.generate`.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        batch_size: prompts decoded at once; halved when memory runs out.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size or _DEFAULT_BATCH
        self._context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)

    def generate(
        self,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,  # noqa: ARG002 - never known here
    ) -> Completions:
        """Yield (index of the request, its completion), batch by batch; see `Generator`."""
        start = 0
        while start < len(requests):
            rows = requests[start : start + self._batch_size]
            try:
                generated = self._batch(rows)
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(rows) == 1:
                    raise
                self._batch_size = len(rows) // 2
                _LOG.warning("out of memory: continuing with %d prompts at a time", self._batch_size)
                torch.cuda.empty_cache()
                continue
            yield from enumerate(generated, start)
            start += len(rows)

    def _batch(self, requests: Sequence[Request]) -> Sequence[Generated]:
        width = max(len(request.prompt) for request in requests)
        pad = self._tokenizer.pad_token_id or 0
        # Left padding, so that the newest token of every row is in the last column.
        padded = [[pad] * (width - len(request.prompt)) + list(request.prompt) for request in requests]
        prompts = torch.tensor(padded, device=self._model.device)
        lengths = torch.tensor([len(request.prompt) for request in requests], device=self._model.device)
        mask = (torch.arange(width, device=self._model.device) >= width - lengths[:, None]).long()
        rows = _Rows(requests, width, self._context, end_tokens(self._model, self._tokenizer), self._tokenizer)
        most = max(rows.limits)
        generate: Any = self._model.generate
        config = GenerationConfig(max_new_tokens=most, do_sample=False, pad_token_id=pad)  # type: ignore[no-untyped-call]
        with threads_for(self._model), _generation_config(self._model, config):
            found = generate(
                prompts, attention_mask=mask, logits_processor=[rows.choose], stopping_criteria=[rows.have_ended]
            )
        return [rows.generated(row, tokens) for row, tokens in enumerate(found[:, width:].tolist())]


@contextlib.contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replace a model's generation config for a while: `generate` takes what it is not told from the model's own."""
    before, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = before


class _Rows:
    """What the rows of a batch have generated, as `generate` asks for it.

    Attributes:
        limits: the most tokens of each row.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        width: int,
        context: int,
        ends: frozenset[int],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.limits = [max(1, min(one.max_new_tokens, context - len(one.prompt))) for one in requests]
        self._requests = requests
        self._width = width
        self._ends = ends
        self._tokenizer = tokenizer
        self._lengths: dict[int, int] = {}
        self._not_finite: set[int] = set()

    def choose(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (rows, vocabulary) that leave one token for each row: be a logits processor."""
        count, generated = len(self._requests), input_ids.shape[1] - self._width
        tokens = choose(scores, [one.draw for one in self._requests], [generated] * count, [1] * count)
        for row in (tokens == NONE).nonzero().flatten().tolist():
            if row not in self._lengths:
                self._not_finite.add(row)
                self._lengths[row] = generated
        chosen = tokens.clamp_min(0)[:, None]  # any token where there is none: the row has ended
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen, 0.0)

    def have_ended(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the signature of a criterion
        """Return which rows (rows,) have ended: be a stopping criterion."""
        for row, tokens in enumerate(input_ids[:, self._width :].tolist()):
            if row not in self._lengths and self._is_end(row, tokens):
                self._lengths[row] = len(tokens)
        ended = [row in self._lengths for row in range(len(self._requests))]
        return torch.tensor(ended, device=input_ids.device)

    def generated(self, row: int, tokens: Sequence[int]) -> Generated:
        """Return a row's completion."""
        own = tokens[: self._lengths[row]]
        text = text_after(self._requests[row].prompt, own, self._tokenizer)
        return Generated(text, tuple(own), finite=row not in self._not_finite)

    def _is_end(self, row: int, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self._ends or len(tokens) >= self.limits[row]:
            return True
        return ends_in_stop(self._requests[row].stops, tokens, self._tokenizer)
