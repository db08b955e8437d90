"""What a confirmation covers: its problems, its rounds and its finalists, fixed when it begins.

Guarantees: it has no problem that the search has seen, and no problem twice. A later command that asks for something
else than the confirmation began with is refused, with the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation import EvaluationError, ProblemSet, load_problems
from evaluation.problems import SETS
from search.board.ranking import best, best_parent
from search.board.search_verdict import better_finalists, objectives, parents_are_over
from search.contents import find_problems
from search.counts import counted
from search.earlier import EarlierSearch, unseen
from search.errors import SearchError
from search.identity import PLAIN_ROWS, Identity
from search.results import ResultsFolder
from search.space.sections import EvaluationSection, Sections
from search.study.confirmation import Confirmation
from search.study.looks import SPENT, Looks
from search.study.outcomes import Split
from search.study.record import TrialRecord

SAMPLED_AT: Final = 0.2
"""The temperature of a confirmation in several rounds if the search is greedy."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asks of a confirmation; None means what it began with, or what the search did."""

    sources: tuple[str, ...] = ()
    samples: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A confirmation that can be run.

    Attributes:
        plan: the confirmation, as it is recorded.
        split: how its outcomes are read; its samples are the rounds.
        problems: those of the report split, then the new ones.
        takes_reported: whether the outcomes on the report split are reused, because both are greedy.
        notes: notes for the user.
    """

    plan: Confirmation
    split: Split
    problems: ProblemSet
    takes_reported: bool
    notes: tuple[str, ...]


def require_confirmable(path: Path, records: Sequence[TrialRecord], looks: Looks, count: int) -> tuple[int, ...]:
    """Return the finalists that a confirmation of a search can cover. Raises SearchError if there are none."""
    if best(records) is None or best_parent(records) is None or not parents_are_over(records):
        raise SearchError(f"{path}: some parents, or all trials, are not scored yet; run the search first")
    if objectives(records) > 1:
        raise SearchError(f"{path}: with several objectives no trial is the best; compare trials instead")
    chosen = better_finalists(records, count)
    if not chosen:
        raise SearchError(
            f"{path}: no trial solves more of the search split than the best parent, so there is nothing to confirm; "
            "run more trials"
        )
    if looks.left <= 0:
        raise SearchError(f"{path}: {SPENT}")
    return chosen


def recorded_evaluation(identity: Identity, sections: Sections, results: Path) -> EvaluationSection:
    """Return how a search scores, as recorded when it began, with its problems at their present places."""
    recorded = {**identity["evaluation"], "workers": sections.evaluation.workers, "allow_code_execution": True}
    recorded.pop(PLAIN_ROWS, None)  # recorded there, but not a setting
    found = EvaluationSection.model_validate(recorded)
    sets = (it.model_copy(update={"source": find_problems(identity, it.source, results)}) for it in found.problems)
    return found.model_copy(update={"problems": tuple(sets)})


def recorded_problems(folder: ResultsFolder, evaluation: EvaluationSection) -> ProblemSet:
    """Return the problems of all splits of a search. Raises SearchError if they have changed since it began.

    Args:
        folder: the results folder of the search.
        evaluation: how it scores; see `recorded_evaluation`.
    """
    found = evaluation.load_problems(str(folder.path))
    if found.digest != folder.identity["problems"]["sha256"]:
        named = ", ".join(entry.source for entry in evaluation.problems)
        raise SearchError(f"{folder.path}: problems {named}: have changed since the search began; restore them")
    return found


def plan_confirmation(
    folder: ResultsFolder, evaluation: EvaluationSection, asked: Asked, finalists: tuple[int, ...]
) -> Planned:
    """Return the confirmation of a search: the one that has begun, or a new one.

    Args:
        folder: the results folder of the search.
        evaluation: how it scores; see `recorded_evaluation`.
        asked: what the user asks for.
        finalists: the finalists of a new confirmation.

    Raises:
        SearchError: the request makes no sense, or differs from the confirmation that has begun.
    """
    with folder.reading() as store:
        identity, begun, known = store.identity, store.confirmation, store.splits.get("confirm")
    if begun and known:
        _require_same("samples", asked.samples, known.samples, folder.path)
        _require_same("temperature", asked.temperature, begun.temperature, folder.path)
    sources = tuple(map(_absolute, asked.sources)) or (begun.sources if begun else ())
    report = recorded_problems(folder, evaluation).subset(folder.splits["report"])
    left_out = frozenset(task for entry in evaluation.problems for task in entry.without)
    added, notes = _new_problems(folder.path, sources, left_out)
    problems = ProblemSet("confirm", tuple(problem for each in (report, *added) for problem in each))
    if begun and known:
        if problems.digest != begun.digest:
            there = ", ".join(begun.sources) or "only those of the report split"
            raise SearchError(
                f"{folder.path}: --problems: differ from those that its confirmation began with ({there}); "
                "leave it out, or restore them"
            )
        return Planned(begun, known, problems, _is_greedy(begun.temperature, evaluation), ())
    rounds = asked.samples or 1
    temperature = _temperature(asked, evaluation, rounds)
    if temperature != asked.temperature and temperature != evaluation.temperature:
        notes += (f"the search is greedy; {rounds} samples per problem are drawn at temperature {temperature:g}",)
    takes_reported = _is_greedy(temperature, evaluation)
    if not problems.problems:
        raise SearchError(f"{folder.path}: has no report split; give --problems")
    if takes_reported and not added:
        raise SearchError(
            f"{folder.path}: greedy completions of the report split would be the same again; give more --samples, "
            "which are drawn at random, or new --problems"
        )
    plan = Confirmation(
        finalists,
        sources,
        problems.task_ids,
        problems.digest,
        temperature,
        evaluation.top_p if temperature else 1.0,
        int(identity["search"]["seed"]),
    )
    return Planned(plan, Split(rounds, parts(report, added), len(problems)), problems, takes_reported, notes)


def _require_same(key: str, given: float | None, begun: float, path: Path) -> None:
    if given is not None and given != begun:
        raise SearchError(
            f"{path}: --{key}: its confirmation began with {begun:g} and planned its looks by that; leave it out"
        )


def _temperature(asked: Asked, evaluation: EvaluationSection, rounds: int) -> float:
    if asked.temperature is None:
        return evaluation.temperature or (SAMPLED_AT if rounds > 1 else 0.0)
    if rounds > 1 and not asked.temperature:
        raise SearchError(f"--samples {rounds}: all samples are the same at temperature 0; leave --temperature out")
    return asked.temperature


def _is_greedy(temperature: float, evaluation: EvaluationSection) -> bool:
    return not temperature and not evaluation.temperature


def _new_problems(
    path: Path, sources: Sequence[str], left_out: frozenset[str]
) -> tuple[list[ProblemSet], tuple[str, ...]]:
    """Return the problems of each source that are new to the search, and notes on how many are new or kept out."""
    search = EarlierSearch.open(str(path), str(path), best=0)
    taken = search.seen | search.reported | left_out
    added, notes = [], []
    for source in sources:
        try:
            found = load_problems(source)
        except EvaluationError as error:
            hint = "; if it has moved, give its new place with --problems" if Path(source).is_absolute() else ""
            raise SearchError(f"{path}: --problems: {error}{hint}") from None
        new = unseen(found, taken)
        seen = len(found) - len(unseen(found, search.seen))
        if not len(new):
            raise SearchError(
                f"{path}: --problems {source}: none of its {len(found)} problems is new; give others, or leave it out "
                "and draw several --samples of the report split"
            )
        notes += [f"{source}: kept out, because the search has seen it: {counted(seen, 'problem')}"] if seen else []
        notes.append(f"{source}: {counted(len(new), 'new problem')}")
        added.append(new)
        taken |= frozenset(new.task_ids)
    return added, tuple(notes)


def parts(report: ProblemSet, added: Sequence[ProblemSet]) -> tuple[tuple[str, float, int], ...]:
    """Return each set's name, weight and size: the report split's keep their ratio; a new problem weighs their mean."""
    total = sum(part.weight for part in report.parts if part.task_ids)
    if not total:
        return ()
    old = ((part.name, part.weight * len(report) / total, len(part.task_ids)) for part in report.parts)
    return (*old, *((each.name, float(len(each)), len(each)) for each in added))


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if source not in SETS and path.exists() else source
