"""Orders to the engine's process, and its answers: plain data over one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import Request
from evaluation.generation.vllm_engine.shared_weights import SharedTensor


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings of an engine; the first message.

    Attributes:
        folder: of the model's config and tokenizer; weights are not read from it.
        dtype: of weights, keys and values, as torch names it.
        rows: requests decoded at once.
        length: the most tokens of a prompt plus its completion.
        cache_bytes: for keys and values on a CPU; None leaves it to vLLM.
        memory_part: of a GPU's memory, for weights, keys, values and activations; None on a CPU.
        draft_tokens: the most tokens guessed at once; 0 makes no guesses.
        digits: of the tokenizer, see `digits_of`.
    """

    folder: str
    dtype: str
    rows: int
    length: int
    cache_bytes: int | None
    memory_part: float | None
    draft_tokens: int
    digits: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Load:
    """Load these weights, named as in a checkpoint."""

    weights: Sequence[SharedTensor]


@dataclass(frozen=True, slots=True)
class Generate:
    """Complete prompts, up to one of `ends`, with or without guesses."""

    requests: Sequence[Request]
    ends: Sequence[int]
    guess: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop generating; answered by one Done, together with the order that it ends."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A completion; it may go on past a stop text by some tokens."""

    index: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The mean log-likelihood of a request's reference; sent before its completion."""

    index: int
    log_likelihood: float


@dataclass(frozen=True, slots=True)
class Done:
    """The order is carried out."""


Order: TypeAlias = EngineSettings | Load | Generate | Cancel
# An error says why an order cannot be carried out; the engine ends with it.
Answer: TypeAlias = Completed | Likelihood | Done | EvaluationError
