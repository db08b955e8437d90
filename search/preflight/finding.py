"""Findings: what a check found, for the user to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        level: ``ok``; a ``note`` says what differs from the usual and costs nothing; a ``warning`` may spoil scores or
            waste trials; with a ``problem`` the search cannot run.
        what: what was checked.
        detail: what was found, in words.
        remedy: what to do about it, if the detail does not say so.
    """

    level: Level
    what: str
    detail: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """The detail and the remedy in one line."""
        return "; ".join(filter(None, (self.detail, self.remedy)))


def untoward(findings: Iterable[Finding], *levels: Level) -> list[str]:
    """Return the sentences of the findings of some levels, by default of all that are not ok."""
    wanted = levels or ("note", "warning", "problem")
    return [finding.sentence for finding in findings if finding.level in wanted]
