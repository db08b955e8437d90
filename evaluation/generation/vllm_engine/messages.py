"""What the engine's process is told, and what it answers: plain data, over one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evaluation.generation.protocol import Request
from evaluation.generation.vllm_engine.weights import SharedTensor


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is made of; the first message.

    Attributes:
        folder: of the model's config and tokenizer; weights are not read from it.
        dtype: of weights, keys and values, as torch names it.
        rows: requests decoded at once.
        length: the most tokens of a prompt and its completion together.
        cache_bytes: for keys and values on a CPU; None leaves it to vLLM.
        memory_part: of a GPU's memory, for weights, keys, values and activations; None on a CPU.
        draft_tokens: the most tokens that are guessed at once; 0 for plain decoding.
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
    """Take these weights, by the names that a checkpoint has for them."""

    weights: Sequence[SharedTensor]


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate after prompts, until one of `ends`; guess what comes, or do not."""

    requests: Sequence[Request]
    ends: Sequence[int]
    guess: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Generate no more; answered by Done, like what it ends."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What was written after a prompt; it may go on past a stop text by some tokens."""

    index: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The mean log-likelihood of a request's reference; told before what was written after its prompt."""

    index: int
    log_likelihood: float


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked for is done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be done; the engine ends."""

    reason: str


Order: TypeAlias = EngineSettings | Load | Generate | Cancel
Answer: TypeAlias = Completed | Likelihood | Done | Failed
