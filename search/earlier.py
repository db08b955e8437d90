"""Earlier searches that a search starts from, named by their results folders under `search.enqueue`.

Guarantees: their folders are only read. A score is taken over only from a search of the same models, problems, prompts
and sampling, computed in the same dtype; from any other search only parameters are taken. The report split of a search
that starts from them has no problem that they, or the searches that they started from, have searched on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation import ProblemSet
from merging import renamed
from search.board.ranking import finalists
from search.errors import SearchError
from search.identity import CONTENTS, DIGESTS, Identity, Names, check, differing
from search.results import ResultsFolder
from search.space.space import SearchSpace
from search.study.looks import ALPHA
from search.study.record import TAKEN_OVER, WARM_START, Parameters, Scoring, TrialRecord
from search.study.store import Proposal

SEEN = "seen_earlier"
"""The key, under the problems of an identity, of those that earlier searches have searched on."""

_PROBLEMS: Final = "problems"
_SEARCH: Final = "search"
_REPORT: Final = "report"


@dataclass(frozen=True)
class EarlierSearch:
    """An earlier search, as it was when its results folder was opened.

    Attributes:
        folder: its results folder, as the config names it.
        where: how errors and notes about it begin.
        best: how many of its best trials give their parameters.
        identity: its identity.
        records: its records.
        sets: the names of its problem sets, if there are several.
        spent: the part of alpha that its looks at its report split and its confirmation have spent.
        confirmed: the ids of the problems of its confirmation.
    """

    folder: str
    where: str
    best: int
    identity: Identity
    records: Sequence[TrialRecord]
    sets: Sequence[str]
    spent: float
    confirmed: Sequence[str] = ()

    @classmethod
    def open(cls, folder: str, where: str, best: int) -> EarlierSearch:
        """Read a results folder. Raises SearchError if it holds no search, or one that has not begun."""
        try:
            results = ResultsFolder.open(Path(folder))
            with results.reading() as store:
                splits = store.splits
                sets = [name for name, _, _ in splits[_SEARCH].parts] if splits else []
                spent = sum(look.alpha for look in store.looks.made)
                confirmed = store.confirmation.task_ids if store.confirmation else ()
                return cls(folder, where, best, store.identity, store.changed()[0], sets, spent, confirmed)
        except SearchError as error:
            raise SearchError(f"{where}: {error}") from None

    @property
    def seen(self) -> frozenset[str]:
        """The ids of the problems that it, or the searches that it started from, have searched on."""
        problems = self.identity[_PROBLEMS]
        return self._known(problems[_SEARCH]) | frozenset(problems.get(SEEN, ()))

    @property
    def looked_at(self) -> frozenset[str]:
        """The ids of the problems that its looks have used, or may still use."""
        return self.reported | frozenset(self.confirmed)

    @property
    def reported(self) -> frozenset[str]:
        """The ids of the problems of its report split."""
        return self._known(self.identity[_PROBLEMS][_REPORT])

    def _known(self, tasks: Iterable[str]) -> frozenset[str]:
        """Return task ids, and each also as its own set has it."""
        return frozenset(each for task in tasks for each in (task, _own(task, self.sets)))

    def is_same(self, identity: Identity) -> bool:
        """Whether a trial has the same score there and in the search of an identity: at most their samplers differ."""
        if CONTENTS not in self.identity or CONTENTS not in identity:
            return False
        try:
            check(Path(self.folder), _scoring(self.identity), _scoring(identity), self.where)
        except SearchError:
            return False
        return True

    def scored(self, space: SearchSpace, names: Names) -> list[TrialRecord]:
        """Return its trials with a score as records of a search that is the same, where its models have these names."""
        complete = (each for each in self.records if each.kind == "trial" and each.search.state == "complete")
        points = ((record, _point(record, space, names)) for record in complete)
        return [
            TrialRecord(
                "trial",
                parameters=point,
                recipe=renamed(record.recipe, names),
                search=_score_of(record.search),
                end_tokens=record.end_tokens,
                proposed_by=f"{TAKEN_OVER}: trial {record.number} of {self.folder}",
            )
            for record, point in points
            if point is not None
        ]

    def proposals(self, space: SearchSpace, names: Names) -> tuple[Sequence[Proposal], int]:
        """Return the parameters of its best trials, as far as they fit a space, and the number of these best trials."""
        best = finalists(self.records, self.best)
        points = [(record.number, _point(record, space, names)) for record in best]
        found = [
            Proposal(point, f"{WARM_START}: trial {number} of {self.folder}")
            for number, point in points
            if point is not None
        ]
        return found, len(best)

    def names(self, identity: Identity) -> Names:
        """Return the names of its models in another search, by their names in this one; contents decide."""
        there, here = self.identity.get(CONTENTS, {}), identity.get(CONTENTS, {})
        found = {}
        for name, held in there.items():
            alike = [other for other in here if not differing(held[DIGESTS], here[other][DIGESTS])]
            found[name] = name if name in alike or not alike else alike[0]
        return found


@dataclass(frozen=True)
class Start:
    """What a search begins with.

    Attributes:
        taken_over: trials with their scores.
        proposals: parameters to try first.
        notes: notes for the user, one line per earlier search.
    """

    taken_over: Sequence[TrialRecord]
    proposals: Sequence[Proposal]
    notes: Sequence[str]

    @classmethod
    def of(cls, earlier: Iterable[EarlierSearch], space: SearchSpace, identity: Identity) -> Start:
        """Return what a search with an identity takes from earlier searches."""
        taken_over: list[TrialRecord] = []
        proposals: list[Proposal] = []
        notes = []
        for each in earlier:
            names = each.names(identity)
            if each.is_same(identity):
                own = each.scored(space, names)
                taken_over += own
                told = (
                    f"searches the same space on the same problems; its {len(own)} scored trials are taken over, and "
                    "count as trials here"
                )
            else:
                found, best = each.proposals(space, names)
                proposals += found
                told = _told(len(found), best)
            notes.append(f"{each.where}: {each.folder}: {told}")
        return cls(taken_over, proposals, notes)


def spent_earlier(earlier: Iterable[EarlierSearch], report: ProblemSet) -> float:
    """Return the part of alpha that earlier searches have spent on looks at problems of this report split."""
    names = [part.name for part in report.parts]
    tasks = {own for task in report.task_ids for own in (task, _own(task, names))}
    looked = (each for each in earlier if tasks & each.looked_at)
    return min(ALPHA, sum(each.spent for each in looked))


def seen_earlier(earlier: Iterable[EarlierSearch]) -> Sequence[str]:
    """Return the ids of the problems that earlier searches have searched on, sorted."""
    return sorted(frozenset[str]().union(*(each.seen for each in earlier)))


def unseen(problems: ProblemSet, seen: Collection[str]) -> ProblemSet:
    """Return the problems that were not seen."""
    sets = [part.name for part in problems.parts]
    return problems.without([task for task in problems.task_ids if {task, _own(task, sets)} & set(seen)])


def _own(task: str, sets: Iterable[str]) -> str:
    """Return the id of a problem in its own set, without the set's name that joining may have put before it."""
    return next((task.removeprefix(f"{name}/") for name in sets if task.startswith(f"{name}/")), task)


def _point(record: TrialRecord, space: SearchSpace, names: Names) -> Parameters | None:
    """Return a trial as a point of a space, read from its recipe or else from its parameters; None if neither fits."""
    try:
        return space.parameters_of(renamed(record.recipe, names))
    except SearchError:
        if record.parameters.keys() != {name for found in space.ranges for name in found.names}:
            return None
    try:
        space.require(record.parameters)
    except (TypeError, ValueError):
        return None
    return record.parameters


def _score_of(scoring: Scoring) -> Scoring:
    # Without the log-likelihood: those of other reference completions cannot be compared with it.
    return Scoring(
        scoring.state, scoring.outcomes, scoring.score, scoring.scores, seconds={"total": 0.0}, tokens=scoring.tokens,
        error=scoring.error,
    )  # fmt: skip


def _scoring(identity: Identity) -> Identity:
    """Return the part of an identity that a score depends on, as JSON keeps it."""
    found: Identity = json.loads(json.dumps(identity))
    found[_SEARCH] = {key: value for key, value in found[_SEARCH].items() if key in ("seed", "objectives")}
    found[_PROBLEMS].pop(SEEN, None)
    return found


def _told(found: int, best: int) -> str:
    if not best:
        return "no trial has a score there, so none is tried first"
    if found == best:
        return f"the parameters of its {best} best trials are tried first"
    if not found:
        return f"none of its {best} best trials fits this search's space"
    return f"{found} of its {best} best trials fit this search's space, and their parameters are tried first"
