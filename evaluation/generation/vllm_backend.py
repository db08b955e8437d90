"""Generation with vLLM: one engine for a whole search, whose weights are replaced for each candidate.

Guarantees: the engine starts once, and again only for a model of another shape, another vocabulary or longer prompts.
It ends with this object, or with this process. vLLM's own speculative decoding verifies drafts. In float32 the tokens
are those of transformers' greedy decoding; in 16-bit dtypes no engine is batch-invariant. vLLM draws samples from the
seed of each request's `TokenDraws`, so they differ from those of the transformers backend. With drafts, samples have
the same distribution as without, but not the same tokens.

It does not notice that logits are not finite, except by the likelihood of a reference. It does not run a model on
several GPUs, or one that comes with its own code.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import (
    Completions,
    Generated,
    OnLikelihood,
    Request,
    StreamedWeights,
)
from evaluation.generation.drafting.numbered_text import digits_of
from evaluation.generation.pass_memory import ModelShape
from evaluation.generation.room import UNLIMITED, Room
from evaluation.generation.text import (
    TAIL_TOKENS,
    context_length,
    decode,
    end_tokens,
    most_tokens,
    text_after,
    within_context,
)
from evaluation.generation.vllm_engine.engine_settings import Device, EngineDemand, settings_for
from evaluation.generation.vllm_engine.messages import Likelihood
from evaluation.generation.vllm_engine.process import EngineProcess

_LOG = logging.getLogger(__name__)


class VllmBackend:
    """Generates with one engine for all models, until `close`.

    Args:
        batch_size: requests decoded at once; by default as many as there is room for, up to 256.
        draft_tokens: the most tokens guessed at once; the default depends on the device. 0 makes no guesses, and needs
            no room for them.
        room: the memory that the engine may take.
        tell: called with a message before each slow step; by default, the log.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        draft_tokens: int | None = None,
        *,
        room: Room = UNLIMITED,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._batch_size = batch_size
        self._draft_tokens = draft_tokens
        self._room = room
        self._tell = tell or _LOG.info
        self._engine: EngineProcess | None = None
        self._kind: _Kind | None = None
        self._length = self._guesses = 0

    def generate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        on_likelihood: OnLikelihood | None = None,
        *,
        plain: bool = False,
        weights: StreamedWeights | None = None,
    ) -> Completions:
        """Yield (index of the request, its completion) as completions end; see `Backend`.

        Raises:
            EvaluationError: vLLM cannot run the model, or its process died.
        """
        context = context_length(model)
        indices = [index for index, request in enumerate(requests) if len(request.prompt) < context]
        for index in sorted(set(range(len(requests))) - set(indices)):
            _LOG.warning("prompt %d fills the model's context of %d tokens", index, context)
            yield index, Generated("", ())
        if not indices:
            return
        bounded = [within_context(requests[index], model) for index in indices]
        try:
            engine = self.engine(model, tokenizer, bounded, weights)
            ends = sorted(end_tokens(model, tokenizer))
            likelihoods: dict[int, float] = {}
            # Close the iterator at once, whatever ends this method: until then the engine keeps generating.
            with contextlib.closing(engine.generate(bounded, ends, guess=not plain)) as answers:
                for answer in answers:
                    index = answer.index
                    if isinstance(answer, Likelihood):
                        likelihoods[index] = answer.log_likelihood
                        if on_likelihood:
                            on_likelihood(indices[index], answer.log_likelihood)
                    else:
                        text, tokens = self._up_to_stop(bounded[index], answer.tokens, tokenizer)
                        yield indices[index], Generated(text, tokens, likelihoods.get(index))
        except EvaluationError:
            self.close()  # so that the next candidate gets a new engine
            raise

    def engine(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        weights: StreamedWeights | None = None,
    ) -> EngineProcess:
        """Return an engine with the model's weights (streamed or its own) and room for the requests."""
        tensors, device = _tensors(model), weights.device if weights else model.device
        kind = _Kind.of(model, tokenizer, tensors, device)
        demand = EngineDemand(
            sum(tensor.nbytes for tensor in tensors.values()),
            ModelShape.of(model.config.get_text_config(), model.dtype.itemsize).slot_bytes,
            context_length(model),
            tuple(map(most_tokens, requests)),
        )
        if self._engine is None or kind != self._kind or demand.length > self._length:
            self.close()
            settings = settings_for(
                demand,
                _device(device),
                self._room,
                str(model.dtype).removeprefix("torch."),
                digits_of(tokenizer),
                self._batch_size,
                self._draft_tokens,
            )
            self._engine = EngineProcess(settings, _config(model), tokenizer, device, self._tell)
            self._kind, self._length, self._guesses = kind, demand.length, settings.draft_tokens
        # transformers 5 keeps the experts of a layer in one tensor; checkpoints and vLLM have one tensor per expert.
        self._engine.load(weights.tensors() if weights else revert_weight_conversion(model, tensors).items())
        return self._engine

    def close(self) -> None:
        """End the engine's process."""
        if self._engine:
            self._engine.close()
        self._engine = self._kind = None

    def _up_to_stop(
        self, request: Request, tokens: tuple[int, ...], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[str, tuple[int, ...]]:
        """Return a completion without the accepted guesses that follow a stop text in its last step."""
        new = range(max(1, len(tokens) - self._guesses), len(tokens))
        first = max(0, new.start - TAIL_TOKENS)

        def is_complete(end: int) -> bool:
            return any(stop in decode(tokens[first:end], tokenizer) for stop in request.stops)

        if request.stops:
            tokens = tokens[: new.start + bisect_left(new, True, key=is_complete)]
        return text_after(request.prompt, tokens, tokenizer), tokens


@dataclass(frozen=True)
class _Kind:
    """The properties that models must share to run in the same engine, one after the other."""

    config: str
    tokenizer: str
    layout: tuple[tuple[str, torch.dtype, torch.Size], ...]
    device: torch.device

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tensors: Mapping[str, Tensor],
        device: torch.device,
    ) -> _Kind:
        layout = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
        vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()
        digest = hashlib.sha256(vocabulary).hexdigest()
        return cls(_config(model).to_json_string(use_diff=False), digest, layout, device)


def _config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return the model's config as in a checkpoint."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    config.name_or_path = ""  # the same model may be read from several places
    return config


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the model's tensors by name, tied ones once."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _device(device: torch.device) -> Device:
    if device.type == "cpu":
        return Device("cpu")
    return Device("cuda", torch.cuda.get_device_properties(device).total_memory)
