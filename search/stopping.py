"""When a search ends: its stop rules by name, each a pure function of what the search has found.

A rule is a function here and its line in `RULES`; its settings are in `StopSection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from search.board.search_verdict import Splits, proven
from search.space.sections import StopSection
from search.study.looks import Looks
from search.study.record import TAKEN_OVER, TrialRecord

TIME_IS_OVER: Final = "time is over"


@dataclass(frozen=True, slots=True)
class SearchSoFar:
    """What stop rules know of a search.

    Attributes:
        records: its records.
        splits: how their outcomes are read.
        looks: its looks at the report split.
        trials: how many trials it is to have in all.
        is_late: whether its time is over.
    """

    records: Sequence[TrialRecord]
    splits: Splits
    looks: Looks
    trials: int
    is_late: bool = False

    @property
    def over(self) -> list[TrialRecord]:
        """The trials that are over, by number."""
        trials = [record for record in self.records if record.kind == "trial" and record.is_over]
        return sorted(trials, key=lambda record: record.number)


def _proven(now: SearchSoFar, stop: StopSection) -> str:
    found = proven(now.records, now.splits, now.looks) if stop.proven else []
    return f"proven at trial {found[0]}" if found else ""


def _target(now: SearchSoFar, stop: StopSection) -> str:
    if stop.target is None:
        return ""
    first = next((record for record in now.over if (record.search.score or 0) >= stop.target), None)
    return f"target reached at trial {first.number} ({first.search.score:.1%})" if first else ""


def _patience(now: SearchSoFar, stop: StopSection) -> str:
    if stop.patience is None:
        return ""
    best, since, last = None, 0, 0
    for record in now.over:
        score = record.search.score
        if score is not None and (best is None or (score > best and score >= best + stop.patience.improvement)):
            best, since, last = score, 0, record.number
        elif best is not None and not record.proposed_by.startswith(TAKEN_OVER):
            since += 1
    if since < stop.patience.trials:
        return ""
    by = f" by {stop.patience.improvement * 100:g} points" if stop.patience.improvement else ""
    return f"out of patience: none of {since} trials was better{by} than trial {last}"


def _trials(now: SearchSoFar, _: StopSection) -> str:
    return "all trials are over" if len(now.over) >= now.trials else ""


def _timeout(now: SearchSoFar, _: StopSection) -> str:
    return TIME_IS_OVER if now.is_late else ""


RULES: Mapping[str, Callable[[SearchSoFar, StopSection], str]] = {
    "trials": _trials, "proven": _proven, "target": _target, "patience": _patience, "timeout": _timeout,
}  # fmt: skip
"""The rules by name; each returns why the search ends, or an empty text."""
_OF_SEVERAL = ("trials", "timeout")


def ended_by(now: SearchSoFar, stop: StopSection) -> str:
    """Return which rule ends a search, in words; empty if it goes on.

    A search with several objectives ends by trials and time only.
    """
    several = any(len(record.search.scores) > 1 for record in now.records)
    rules = (rule for name, rule in RULES.items() if not several or name in _OF_SEVERAL)
    return next((found for found in (rule(now, stop) for rule in rules) if found), "")
