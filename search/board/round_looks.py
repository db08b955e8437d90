"""When a confirmation looks at its rounds, and when it ends: pure functions of records and looks.

A look is due after each round that all models have had. It compares the finalists with every parent over the rounds so
far, at the level of `Looks.at_round`. A confirmation ends when a look has proven a finalist, when it is refuted, or
after its last round. Ending early without a claim spends no alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.board.search_verdict import Splits, compared, proven, read_by, scored_parents
from search.study.looks import ALPHA, Look, Looks
from search.study.record import TrialRecord


def confirmed(records: Sequence[TrialRecord], finalists: Sequence[int]) -> list[TrialRecord]:
    """Return the models of a confirmation in the order in which they are scored: the parents, then the finalists."""
    trials = {record.number: record for record in records if record.kind == "trial"}
    return [*scored_parents(records), *(trials[number] for number in finalists)]


def rounds_over(records: Sequence[TrialRecord], splits: Splits, finalists: Sequence[int]) -> int:
    """Return how many rounds all models of a confirmation have had, except finalists that failed."""
    alive = [it for it in confirmed(records, finalists) if it.kind == "parent" or not _has_failed(it)]
    return min(len(it.on("confirm").outcomes) for it in alive) // splits["confirm"].problems


def hindrance(records: Sequence[TrialRecord], finalists: Sequence[int]) -> TrialRecord | None:
    """Return the model whose failure ends a confirmation, if any: a parent, or the last finalist if all failed."""
    models = confirmed(records, finalists)
    parents = [it for it in models if it.kind == "parent" and _has_failed(it)]
    trials = [it for it in models if it.kind == "trial"]
    return next(iter(parents), trials[-1] if all(map(_has_failed, trials)) else None)


def _has_failed(record: TrialRecord) -> bool:
    return record.on("confirm").state == "failed"


def round_look(records: Sequence[TrialRecord], splits: Splits, looks: Looks, finalists: Sequence[int]) -> Look | None:
    """Return the next look at a confirmation, if one is due: the one after the first round without a look."""
    number = rounds_seen(looks) + 1
    if number > rounds_over(records, splits, finalists) or looks.left <= 0 or proven(records, splits, looks):
        return None
    return Look(None, looks.at_round(number, splits["confirm"].samples), tuple(finalists), number)


def rounds_seen(looks: Looks) -> int:
    """Return the number of rounds before the last look at a confirmation."""
    return max((look.rounds or 0 for look in looks.made), default=0)


def is_refuted(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> bool:
    """Whether the last look found a better parent for each finalist, one-sided at the level `ALPHA`."""
    look = max((look for look in looks.made if look.rounds), key=lambda look: look.rounds or 0, default=None)
    if look is None:
        return False
    split, how = read_by(look, splits)
    models = confirmed(records, look.finalists)
    parents, trials = ([it for it in models if (it.kind == "parent") is wanted] for wanted in (True, False))
    return all(any(compared(parent, trial, split, how)[1] <= ALPHA for parent in parents) for trial in trials)


def confirmation_ended(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> str:
    """Return why a confirmation has ended, in words; empty if it goes on."""
    if found := proven(records, splits, looks):
        return f"proven at trial {found[0]}"
    if is_refuted(records, splits, looks):
        return "refuted: a parent is better than each finalist"
    finalists = next((look.finalists for look in looks.made if look.rounds), ())
    is_over = all(it.on("confirm").state in ("complete", "failed") for it in confirmed(records, finalists))
    return "all rounds are over" if is_over and rounds_seen(looks) == splits["confirm"].samples else ""
