"""What a pool and its zygotes say to each other.

Guarantees: a message arrives as the dataclass that was sent; anything else is a KeyError or a TypeError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, cast

from evaluation.sandbox.isolation import Isolation, SandboxLayer

# How the checker or its zygote ends a check: "lost" tells of the solution's process, the last two of the machine.
CheckStatus: TypeAlias = Literal["passed", "failed", "unscorable", "timeout", "lost", "undecided", "starved"]


@dataclass(frozen=True, slots=True)
class SolutionJob:
    """What a solution's process is given: the program, and the name of the function that will be called."""

    program: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class CheckerJob:
    """What a checker's process is given: everything of the problem except the completion."""

    prompt: str
    test: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class Run:
    """Do a job. A descriptor goes along: one end of the connection between the two sides.

    Attributes:
        job: of this side.
        budget_seconds: the time of the check.
        hard_wall_seconds: wall time after which a check ends whatever its budget.
    """

    job: SolutionJob | CheckerJob
    budget_seconds: float
    hard_wall_seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run under way."""


@dataclass(frozen=True, slots=True)
class Started:
    """A zygote can be used; it runs programs under these layers."""

    isolation: Isolation


@dataclass(frozen=True, slots=True)
class Judged:
    """A check has ended with a verdict."""

    status: CheckStatus
    detail: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A run has ended without a verdict: its exit code (minus the signal) and its processor time."""

    exit_code: int
    cpu_seconds: float


Message: TypeAlias = Run | Stop | Started | Judged | Ended
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (SolutionJob, CheckerJob, Run, Stop, SandboxLayer, Isolation, Started, Judged, Ended)
}


def dumped(message: Message) -> bytes:
    """Return a message as JSON: each dataclass an object that names its kind."""
    return _ENCODER.encode(message).encode()


def loaded(data: bytes) -> Message:
    """Return the message that `dumped` made this of."""
    return cast("Message", _DECODER.decode(data.decode()))


def _described(value: Any) -> dict[str, Any]:
    return {"kind": type(value).__name__, **{field.name: getattr(value, field.name) for field in fields(value)}}


def _revived(described: dict[str, Any]) -> object:
    kind = _KINDS[described.pop("kind")]
    return kind(**{name: tuple(it) if isinstance(it, list) else it for name, it in described.items()})


# Made once: a run's process decodes its job soon after its fork, where all that is new costs pages.
_ENCODER = json.JSONEncoder(default=_described)
_DECODER = json.JSONDecoder(object_hook=_revived)
