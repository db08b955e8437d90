"""The verdict of a search: whether a merge is proven to be better than every parent.

A finalist is chosen on the search split and compared with each parent on the report split, by a one-sided exact test.
The largest p-value counts, so that the test is against all parents (Berger 1982, Technometrics 24). A parent that
failed on the search split is left out; no look is made before all others are scored there. The finalists of a look
share its level by Holm's correction. `search.study.looks` says what a look is and what it costs. A look at the rounds
of a confirmation (`search.board.round_looks`) compares in how many rounds each problem was solved.

Guarantees: pure functions of records and looks. A proven trial stays proven, whatever trials and looks follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

from evaluation.scoring import p_better, weighted_mean
from search.board.names import NAME_WIDTH, displayed_name, parent_names, record_name
from search.board.ranking import best, best_parent, finalists, ranked, unreported
from search.counts import counted
from search.study.looks import ALPHA, SPENT, Look, Looks
from search.study.outcomes import Split
from search.study.record import SplitName, TrialRecord

Ruling: TypeAlias = Literal["proven", "not proven", "no better"]
Splits: TypeAlias = Mapping[SplitName, Split]
_NO_REPORT = (
    "no problem is left in the report split (evaluation.report_fraction is 0, or earlier searches have seen them all)"
)


@dataclass(frozen=True, slots=True)
class SearchVerdict:
    """Whether a search has found a merge that is better than its parents.

    Attributes:
        ruling: ``no better`` if no trial passes more than the best parent.
        sentence: the ruling and its reason, in words for users.
        trial: the number of the trial that it is about.
        parent: the name of the parent that comes closest to that trial on the report split.
        points: by what fraction of the report split the trial surpasses that parent, within [-1, 1].
        p_value: the p-value of the claim that the trial is better than every parent.
        needed: the level that the p-value must not exceed.
    """

    ruling: Ruling
    sentence: str
    trial: int | None = None
    parent: str | None = None
    points: float | None = None
    p_value: float | None = None
    needed: float | None = None


@dataclass(frozen=True, slots=True)
class ParentTest:
    """A trial against every parent on one split.

    Attributes:
        trial: the trial.
        parent: the parent with the largest p-value.
        points: by how much the trial's score surpasses that parent's.
        p_value: the largest p-value over the parents.
    """

    trial: TrialRecord
    parent: TrialRecord
    points: float
    p_value: float


def against_parents(trial: TrialRecord, parents: Iterable[TrialRecord], split: SplitName, how: Split) -> ParentTest:
    """Test whether a trial is better than every parent. A model without outcomes (of every round) proves nothing.

    Args:
        trial: the trial that makes the claim.
        parents: the parents, at least one.
        split: the split on which they are compared.
        how: how its outcomes are read.
    """
    tests = [ParentTest(trial, parent, *compared(trial, parent, split, how)) for parent in parents]
    return max(tests, key=lambda test: (test.p_value, -test.points))


def compared(one: TrialRecord, other: TrialRecord, split: SplitName, how: Split) -> tuple[float, float]:
    """Return by how much the score of one model surpasses that of another, and the p-value of that."""
    return _compared(one.on(split).outcomes, other.on(split).outcomes, how, split == "confirm")


@lru_cache(maxsize=256)  # a worker needs the same results after every trial
def _compared(mine: str, theirs: str, how: Split, in_rounds: bool) -> tuple[float, float]:
    one, other = (how.rates(how.of_rounds(outcomes) if in_rounds else outcomes) for outcomes in (mine, theirs))
    points = weighted_mean(how.grouped(one)) - weighted_mean(how.grouped(other))
    return points, p_better(one, other, how.weights) if one and other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, so that any false claim among them is as rare as in a single test.

    Holm 1979, https://www.jstor.org/stable/4615733.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = corrected[index] = min(1.0, max(least, p_values[index] * (len(p_values) - rank)))
    return corrected


def next_look(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> Look | None:
    """Return the look that is due while trials run, if one is.

    It tests the best trial if three conditions hold: no look has tested that trial, it is better than every parent at
    the level `ALPHA` on the search split, which flatters it, and the report split has enough problems to prove
    anything. Return None while a parent is still to be scored.
    """
    due = looks.due(sum(record.is_over for record in records if record.kind == "trial"))
    if due is None or objectives(records) > 1 or not parents_are_over(records):
        return None
    trial, parents = best(records), scored_parents(records)
    if trial is None or not parents or any(trial.number in look.finalists for look in looks.made):
        return None
    alpha = looks.alpha(due)
    if 0.5 ** splits["report"].problems > alpha:
        return None
    is_likely = against_parents(trial, parents, "search", splits["search"]).p_value <= ALPHA
    return Look(due, alpha, (trial.number,)) if is_likely else None


def last_look(records: Sequence[TrialRecord], splits: Splits, looks: Looks, count: int) -> Look | None:
    """Return the look at the end of a search, if it would tell anything new.

    It tests those of the `count` finalists that are better than every parent on the search split. Return None while a
    parent is still to be scored, and if earlier searches have spent all of alpha.
    """
    trial, parent, alpha = best(records), best_parent(records), looks.alpha(None)
    if trial is None or parent is None or not splits["report"].problems or objectives(records) > 1:
        return None
    if alpha <= 0 or not parents_are_over(records):
        return None
    if trial.number in proven(records, splits, looks):
        return None
    chosen = better_finalists(records, count)
    at_ends = (look for look in looks.made if look.due is None and look.rounds is None)
    before = {number for look in at_ends for number in look.finalists}
    return None if before.issuperset(chosen) else Look(None, alpha, chosen)


def better_finalists(records: Sequence[TrialRecord], count: int) -> tuple[int, ...]:
    """Return the numbers of those of the `count` finalists that are better than every parent on the search split."""
    parent = best_parent(records)
    return tuple(it.number for it in finalists(records, count) if parent and _score(it) > _score(parent))


def unscored(records: Sequence[TrialRecord], look: Look) -> list[TrialRecord]:
    """Return the models of a look whose scoring on the report split is not over, parents first.

    There are none for a look at a confirmation, which is made when its rounds are over.
    """
    if look.rounds is not None:
        return []
    tested = [record for record in records if record.kind == "trial" and record.number in look.finalists]
    wanted = [*scored_parents(records), *tested] if tested else []
    return [record for record in wanted if record.on("report").state in ("waiting", "running")]


def left_to_report(records: Sequence[TrialRecord], splits: Splits, looks: Looks, count: int) -> list[TrialRecord]:
    """Return the models that a search must score on the report split before it ends: see `unreported` and `unscored`.

    Args:
        records: the records of the search.
        splits: how their outcomes are read.
        looks: the looks at the report split.
        count: the number of finalists.
    """
    if not splits["report"].problems:
        return []
    wanted = [*unreported(records, count), *(record for look in looks.made for record in unscored(records, look))]
    return list({record.key: record for record in wanted}.values())


def proven(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> list[int]:
    """Return the numbers of the trials that a look has proven to be better than every parent, the best first."""
    return [result.trial.number for result in _results(records, splits, looks) if result.holds]


def search_verdict(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> SearchVerdict:
    """Return the verdict of a search as it stands.

    Args:
        records: all records, also those that are not over: no trial is proven while a parent is still to be scored.
        splits: how their outcomes are read.
        looks: the looks at the report split.
    """
    found, names = _verdict(records, splits, looks), _names(records)
    failed = [names[record.name] for record in records if record.kind == "parent" and record.search.state == "failed"]
    left_out = f"; not compared with {', '.join(failed)}: scoring failed" if failed else ""
    return replace(found, sentence=found.sentence + left_out)


def _verdict(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> SearchVerdict:
    trial, parent, names = best(records), best_parent(records), _names(records)
    results = _results(records, splits, looks)
    if first := next((result for result in results if result.holds), None):
        return first.verdict("proven", names)
    if trial is None or parent is None:
        return SearchVerdict("not proven", f"not proven: no {'parent' if trial else 'trial'} has a score")
    if objectives(records) > 1:
        return SearchVerdict("not proven", "not proven: with several objectives no trial is the best")
    if _score(trial) <= _score(parent):
        reason = f"no trial solves more of the search split than the best parent, {names[parent.name]}"
        return SearchVerdict("no better", f"no better: {reason}")
    if not results and not splits["report"].problems:
        return SearchVerdict("not proven", f"not proven: {_NO_REPORT}")
    if not results:
        untested = f"{record_name(trial)}, the best, is not tested on the report split yet"
        return SearchVerdict("not proven", f"not proven: {untested if looks.left > 0 else SPENT}", trial.number)
    compared_models = (results[0].trial, *scored_parents(records))
    if lacking := next((it for it in compared_models if not results[0].has_read(it)), None):
        reason = f"{displayed_name(lacking, names)} could not be scored {results[0].where}"
        return SearchVerdict("not proven", f"not proven: {reason}; {results[0].remedy}", results[0].trial.number)
    is_no_better = results[0].trial.number == trial.number
    is_no_better &= all(result.has_read(result.trial) and result.test.points <= 0 for result in results)
    return results[0].verdict("no better" if is_no_better else "not proven", names)


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of a look for one of its finalists; `p_value` is corrected for their number."""

    test: ParentTest
    look: Look
    p_value: float
    how: Split

    @property
    def where(self) -> str:
        return "on the report split" if self.look.rounds is None else "in the confirmation"

    @property
    def remedy(self) -> str:
        return "run --retry-failed" if self.look.rounds is None else "confirm runs it again"

    def has_read(self, record: TrialRecord) -> bool:
        if self.look.rounds is None:
            return bool(record.on("report").outcomes)
        return len(record.on("confirm").outcomes) >= self.look.rounds * self.how.problems

    @property
    def trial(self) -> TrialRecord:
        return self.test.trial

    @property
    def holds(self) -> bool:
        return self.p_value <= self.look.alpha

    def verdict(self, ruling: Ruling, names: Mapping[str, str]) -> SearchVerdict:
        points, parent = self.test.points, self.test.parent.name
        more = f"{abs(points) * 100:.1f} points {'more' if points > 0 else 'fewer'}" if points else "as much"
        tested = f"p = {shown_p(self.p_value)}"
        if len(self.look.finalists) > 1:
            tested += f", corrected for {len(self.look.finalists)} finalists"
        if not self.holds:
            tested += f"; needed: {shown_p(self.look.alpha)}"
        of = "the report split" if self.look.rounds is None else rounds_of(self.how)
        solves = f"{record_name(self.trial)} solves {more} of {of} {'than' if points else 'as'}"
        sentence = f"{ruling}: {solves} the closest parent, {names[parent]} ({tested})"
        return SearchVerdict(ruling, sentence, self.trial.number, parent, points, self.p_value, self.look.alpha)


def rounds_of(how: Split) -> str:
    """Return the problems and rounds of a confirmation in words: ``650 problems in 4 rounds``."""
    return counted(how.problems, "problem") + (f" in {how.samples} rounds" if how.samples > 1 else "")


def shown_p(p_value: float) -> str:
    """Return a p-value as it is shown to users."""
    return f"{p_value:.1g}" if p_value < 0.001 else f"{p_value:.3f}"


def _results(records: Sequence[TrialRecord], splits: Splits, looks: Looks) -> list[_Result]:
    """Return the results of the looks that are over, by merit: per trial the look that proved it, or else the last one.

    There are none while a parent is still to be scored.
    """
    if not parents_are_over(records):
        return []
    found: dict[int, _Result] = {}
    parents = scored_parents(records)
    looked_at = {number for look in looks.made for number in look.finalists} if parents else {}
    trials = {it.number: it for it in records if it.kind == "trial" and it.number in looked_at}
    for look in looks.made:
        if not trials.keys() >= set(look.finalists) or unscored([*parents, *trials.values()], look):
            continue
        split, how = read_by(look, splits)
        tests = [against_parents(trials[number], parents, split, how) for number in look.finalists]
        corrected = holm([test.p_value for test in tests])
        for test, p_value in zip(tests, corrected, strict=True):
            number = test.trial.number
            if number not in found or not found[number].holds:
                found[number] = _Result(test, look, p_value, how)
    return [found[record.number] for record in ranked(result.trial for result in found.values())]


def parents_are_over(records: Iterable[TrialRecord]) -> bool:
    """Whether scoring on the search split is over for all parents."""
    return all(record.is_over for record in records if record.kind == "parent")


def read_by(look: Look, splits: Splits) -> tuple[SplitName, Split]:
    """Return the split that a look reads, and how."""
    if look.rounds is None:
        return "report", splits["report"]
    return "confirm", replace(splits["confirm"], samples=look.rounds)


def scored_parents(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the parents that trials are compared with: those with a score on the search split."""
    return [record for record in records if record.kind == "parent" and record.search.score is not None]


def _score(record: TrialRecord) -> float:
    return record.search.score or 0.0


def objectives(records: Iterable[TrialRecord]) -> int:
    """Return the number of objectives: how many scores a model has; 1 if none has any yet."""
    return max((len(record.search.scores) for record in records), default=1) or 1


def _names(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Return the shown names of parents, by their references."""
    parents = [record for record in records if record.kind == "parent"]
    known = parent_names((record.recipe for record in parents if record.recipe), NAME_WIDTH)
    return {record.name: known.get(record.name, record.name) for record in parents}
