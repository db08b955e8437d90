"""One hostile completion, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One hostile completion.

    Attributes:
        completion: what follows the prompt.
        statuses: those that it may have.
        test: the problem's.
    """

    completion: str
    statuses: tuple[str, ...]
    test: str
