"""The verdict on one program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "timeout", "killed", "unscorable", "harness_error"]

_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a completion passed its problem's tests.

    Attributes:
        status: ``failed`` covers wrong answers and exceptions; ``timeout`` the time limit; ``killed`` a signal;
            ``unscorable`` a problem whose tests cannot be executed, or pass the program arguments that cannot cross to
            another process; ``harness_error`` a broken sandbox. The last two say nothing about the completion.
        detail: one short line: the exception, the signal, the limit; empty for a pass.
    """

    status: Status
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the tests passed."""
        return self.status == "passed"


def one_line(text: str) -> str:
    """Return a text as one line of printable characters, cut to a length that fits a table."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text[:2000]).split())
    return line if len(line) <= _MAX_DETAIL else line[: _MAX_DETAIL - 1] + "…"
