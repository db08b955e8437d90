"""The messages between a pool and its zygotes.

Guarantees: a message arrives as the dataclass that was sent; anything else raises KeyError or TypeError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, cast

from evaluation.sandbox.isolation import Isolation, SandboxLayer

# How the checker or its zygote ends a check. "lost": the solution's process is gone. The last two blame the machine.
CheckStatus: TypeAlias = Literal["passed", "failed", "unscorable", "timeout", "lost", "undecided", "starved"]


@dataclass(frozen=True, slots=True)
class Run:
    """Run one side of a check. A descriptor goes along: one end of the connection between the two sides.

    Attributes:
        program: the prompt; for the solution's side, the completion follows it.
        test: the tests; empty for the solution's side, which never sees them.
        entry_point: the name of the function that the tests call.
        budget_seconds: the time for the check.
        hard_wall_seconds: the wall time after which the check ends, whatever its budget.
    """

    program: str
    test: str
    entry_point: str
    budget_seconds: float
    hard_wall_seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End the current run."""


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


# A zygote that is ready sends its Isolation: the layers that it runs programs under.
Message: TypeAlias = Run | Stop | Isolation | Judged | Ended
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Run, Stop, SandboxLayer, Isolation, Judged, Ended)}


def dumped(message: Message) -> bytes:
    """Return a message as JSON: each dataclass an object that names its kind."""
    return _ENCODER.encode(message).encode()


def loaded(data: bytes) -> Message:
    """Return the message that `dumped` encoded."""
    return cast("Message", _DECODER.decode(data.decode()))


def _described(value: Message | SandboxLayer) -> dict[str, object]:
    return {"kind": type(value).__name__, **{field.name: getattr(value, field.name) for field in fields(value)}}


def _revived(described: dict[str, Any]) -> object:
    kind = _KINDS[described.pop("kind")]
    return kind(**{name: tuple(it) if isinstance(it, list) else it for name, it in described.items()})


# Made once, before the fork: a run's process decodes its job soon after it, and every new object copies pages.
_ENCODER = json.JSONEncoder(default=_described)
_DECODER = json.JSONDecoder(object_hook=_revived)
