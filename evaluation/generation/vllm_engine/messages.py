"""Orders to the engine's process, and its answers: plain data over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import Request
from evaluation.generation.vllm_engine.engine_settings import EngineSettings
from evaluation.generation.vllm_engine.weight_stream import SharedMemory, WeightPiece


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Start an engine; the first message."""

    settings: EngineSettings
    memory: SharedMemory


@dataclass(frozen=True, slots=True)
class Load:
    """Replace all weights by the chunks that follow."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Read these weights from the shared memory; answered by Done as soon as they may be overwritten."""

    pieces: Sequence[WeightPiece]


@dataclass(frozen=True, slots=True)
class Loaded:
    """All weights have been sent."""


@dataclass(frozen=True, slots=True)
class Generate:
    """Complete prompts, up to one of `ends`, with or without guesses."""

    requests: Sequence[Request]
    ends: Sequence[int]
    guess: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop loading or generating; one Done answers both this and the order that it ends."""


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


Order: TypeAlias = StartEngine | Load | Chunk | Loaded | Generate | Cancel
# An error says why an order cannot be carried out; the engine then ends.
Answer: TypeAlias = Completed | Likelihood | Done | EvaluationError
