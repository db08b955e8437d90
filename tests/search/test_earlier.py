"""A search starts from what earlier searches have found, and keeps what they have seen out of its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation import ProblemSet, load_problems
from search import Leaderboard, SearchConfig, SearchError, run_search
from search.board.ranking import finalists
from search.earlier import EarlierSearch, Start, seen_earlier, spent_earlier, unseen
from search.results import ResultsFolder
from search.run.phases import warm_starts
from search.study.looks import ALPHA
from search.study.record import TrialRecord
from tests.search.conftest import Command, fingerprint
from tests.search.family import Family
from tests.search.records import trial
from tests.search.told import Phases

KEY = "search.enqueue[0]"


def opened(folder: Path, best: int = 5) -> EarlierSearch:
    return EarlierSearch.open(str(folder), f"mine.yaml: {KEY}", best)


def trials(folder: Path) -> list[TrialRecord]:
    return [record for record in ResultsFolder.open(folder).read()[1] if record.kind == "trial"]


def configured(family: Family, enqueue: str, search: str = "", **sections: str) -> SearchConfig:
    """Return the config of the finished search with warm starts, and perhaps other settings."""
    text = family.config(search=f", enqueue: [{enqueue}]{search}", **sections)
    return SearchConfig.parse(text, "mine.yaml", family.folder)


# --- what is the same ------------------------------------------------------------------------------------------------


def changed(identity: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """Return an identity with other values in some of its sections."""
    plain = json.loads(json.dumps(identity))
    return {**plain, **{name: {**plain[name], **values} for name, values in sections.items()}}


def test_only_the_sampler_may_differ_of_a_search_whose_scores_hold_here(finished: Path) -> None:
    earlier = opened(finished)
    here = earlier.identity
    assert earlier.is_same(here)
    assert earlier.is_same(changed(here, search={"sampler": "cmaes"}))
    assert earlier.is_same(changed(here, problems={"seen_earlier": ["x"]}))
    contents = changed(here)["contents"]
    first = next(iter(contents))
    contents[first]["digests"]["weights"] = "other"
    others = [
        changed(here, search={"seed": 1}),
        changed(here, search={"objectives": "separate"}),
        changed(here, problems={"sha256": "other"}),
        changed(here, problems={"report": here["problems"]["report"][1:]}),
        changed(here, evaluation={"compute_dtype": "other"}),
        changed(here, evaluation={"max_new_tokens": 13}),
        changed(here, evaluation={"temperature": 1.0}),
        changed(here, merging={"random_seed": 1}),
        changed(here, recipe={"dtype": "float32"}),
        {**here, "contents": contents},
        {key: value for key, value in here.items() if key != "contents"},
    ]
    assert not any(map(earlier.is_same, others))


def test_models_that_lie_elsewhere_are_the_same(finished: Path, shared_family: Family) -> None:
    earlier = opened(finished)
    here = json.loads(json.dumps(earlier.identity).replace(str(shared_family.folder), "/moved"))
    assert earlier.is_same(here)
    assert earlier.names(here) == {
        str(shared_family.folder / name): f"/moved/{name}" for name in ("a", "b", "base", "problems.jsonl")
    }


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_the_scores_of_a_search_of_the_same_are_taken_over(
    finished: Path, shared_family: Family, tmp_path: Path
) -> None:
    before, phases = fingerprint(finished), Phases()
    config = configured(shared_family, str(finished), ", sampler: random")
    run_search(config, tmp_path / "run", trials=4, progress=phases)
    assert fingerprint(finished) == before
    assert any(
        "searches the same space on the same problems; its 3 scored trials are taken over" in note
        for note in phases.said
    )
    there, here = trials(finished), trials(tmp_path / "run")
    assert len(here) == 4
    for old, new in zip(there, here, strict=False):
        assert (new.number, new.parameters, new.recipe) == (old.number, old.parameters, old.recipe)
        assert (new.search.outcomes, new.search.score) == (old.search.outcomes, old.search.score)
        assert new.proposed_by == f"taken over: trial {old.number} of {finished}"
    assert here[3].proposed_by == "random"
    assert phases.begun.count("search 4") == 1
    assert len(phases.notes) == 4 + 1 + 4 + 2  # references and a trial; on the report split references, finalists
    assert not any("kept out" in note for note in phases.said)


@pytest.mark.slow
def test_only_parameters_are_taken_of_another_search_and_its_problems_are_not_reported(
    finished: Path, shared_family: Family, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(finished, tmp_path / "first"))
    config = configured(shared_family, f"{{results: {first}, best: 2}}", ", seed: 1")
    out, phases = tmp_path / "run", Phases()
    run_search(config, out, trials=2, progress=phases)
    best = finalists(trials(first), 2)
    assert [record.parameters for record in trials(out)] == [record.parameters for record in best]
    assert trials(out)[0].proposed_by == f"warm start: trial {best[0].number} of {first}"
    assert any(f"{KEY}: {first}: the parameters of its 2 best trials are tried first" in note for note in phases.said)

    problems = load_problems(shared_family.problems)
    searched = set(ResultsFolder.open(first).splits["search"])
    visible, report = (set(part.task_ids) for part in problems.split(0.5, seed=1))
    kept = ResultsFolder.open(out).splits
    assert set(kept["search"]) == visible
    assert set(kept["report"]) == report - searched
    lost = len(report & searched)
    assert 0 < lost < len(report)
    assert any(note.startswith(f"{lost} problems are kept out of the report split") for note in phases.said)
    assert opened(out).seen == searched | visible  # for a search that starts from this one

    shutil.rmtree(first)  # what was taken is kept: the search goes on without it
    again = configured(shared_family, f"{{results: {first}, best: 2}}", ", seed: 1")
    board = run_search(again, out, trials=3, progress=(later := Phases()))
    assert sum(row.record.kind == "trial" for row in board.rows) == 3
    assert ResultsFolder.open(out).splits == kept
    assert [note for note in later.said if str(first) in note] == [
        f"{first}: read only when a search begins; this one goes on"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["results/earlier", "{results: results/earlier}"])
def test_a_search_goes_on_without_the_folder_that_it_started_from(
    one_trial: tuple[SearchConfig, Path], shared_family: Family, entry: str
) -> None:
    _, out = one_trial
    run_search(configured(shared_family, entry), out, trials=1, progress=(phases := Phases()))
    assert "results/earlier: read only when a search begins; this one goes on" in phases.said


RECIPE = """
  merge_method: ties
  base_model: base
  models:
    - {{model: a, parameters: {{density: {density}, weight: 1.0}}}}
    - {{model: {other}, parameters: {{density: 0.5, weight: {{low: 0.0, high: 1.0}}}}}}
"""


def space_of(family: Family, density: str, other: str = "b") -> SearchConfig:
    text = family.config(recipe=RECIPE.format(density=density, other=other))
    return SearchConfig.parse(text, "mine.yaml", family.folder)


def test_parameters_that_do_not_fit_the_space_are_counted(finished: Path, shared_family: Family) -> None:
    densities = [record.parameters["models[0].parameters.density[1]"] for record in trials(finished)]
    edge = sorted(map(float, densities))[1]
    config = space_of(shared_family, f"[{{low: 0.0, high: 1.0}}, {{low: {edge}, high: 1.0}}]")
    start = Start.of([opened(finished)], config.space, config.identity)
    assert len(start.proposals) == 2
    assert not start.taken_over
    assert start.notes == [
        f"mine.yaml: {KEY}: {finished}: 2 of its 3 best trials fit this search's space, and their parameters are tried "
        "first"
    ]
    config = space_of(shared_family, "0.25")
    (note,) = Start.of([opened(finished, 1)], config.space, config.identity).notes
    assert note.endswith("none of its 1 best trials fits this search's space")


def test_parameters_of_other_models_fit_by_their_names(finished: Path, shared_family: Family) -> None:
    config = space_of(shared_family, "{low: 0.2, high: 1.0, knots: 2}", other="someone/else")
    start = Start.of([opened(finished, 1)], config.space, config.identity)
    assert [proposal.parameters for proposal in start.proposals] == [finalists(trials(finished), 1)[0].parameters]


def test_a_gradient_of_more_knots_draws_the_same_line(finished: Path, shared_family: Family) -> None:
    config = space_of(shared_family, "{low: 0.2, high: 1.0, knots: 3}")
    (proposal,) = Start.of([opened(finished, 1)], config.space, config.identity).proposals
    first, middle, last = (proposal.parameters[f"models[0].parameters.density[{knot}]"] for knot in range(3))
    assert middle == pytest.approx((float(first) + float(last)) / 2)


# --- what was seen ---------------------------------------------------------------------------------------------------


def test_a_problem_was_seen_under_the_name_of_its_set_too(shared_family: Family) -> None:
    single = load_problems(shared_family.problems)
    other = ProblemSet("other", single.problems)
    joined = ProblemSet.joined([single, other], [1.0, 1.0])
    seen = single.task_ids[:3]
    left = unseen(joined, seen).task_ids
    assert set(joined.task_ids) - set(left) == {*seen, *(f"other/{task}" for task in seen)}
    assert unseen(single, [f"x/{task}" for task in seen]).task_ids == single.task_ids
    assert unseen(single, []) == single
    assert len(unseen(single, single.task_ids)) == 0


def test_what_the_searches_before_have_seen_was_seen(finished: Path) -> None:
    earlier = opened(finished)
    before = EarlierSearch(
        "x", "x", 1, changed(earlier.identity, problems={"search": ["set/1"], "seen_earlier": ["2"]}), (), ["set"], 0.0
    )
    assert before.seen == {"set/1", "1", "2"}
    assert seen_earlier([before, earlier]) == sorted({*before.seen, *earlier.identity["problems"]["search"]})


def test_looks_at_the_same_report_split_were_paid_for(finished: Path, shared_family: Family) -> None:
    earlier, problems = replace(opened(finished), spent=0.02), load_problems(shared_family.problems)
    of_search, of_report = (problems.without(earlier.identity["problems"][other]) for other in ("report", "search"))
    assert spent_earlier([earlier], of_report) == 0.02
    assert spent_earlier([earlier, earlier, earlier], of_report) == ALPHA
    assert spent_earlier([earlier], of_search) == 0.0


def test_samplers_start_from_what_is_tried_first_or_was_best() -> None:
    given = trial(3, {0}, proposed_by="warm start: trial 1 of x", parameters={"x": 0.1})
    old = [trial(n, range(n), proposed_by=f"taken over: trial {n} of x", parameters={"x": n}) for n in (0, 2, 1)]
    assert warm_starts([*old, given, trial(4, range(9))]) == [{"x": 0.1}, {"x": 2}]


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "nowhere.yml",
            r"search.enqueue\[0\]: no recipe file or results folder nowhere.yml; give one, or the recipe itself",
        ),
        ("{results: a, best: 0}", r"search.enqueue\[0\].best: expected a number above 0, got 0"),
        ("{results: a, bst: 1}", r"search.enqueue\[0\].bst: unknown key; did you mean 'best'"),
        ("{results: 3}", r"search.enqueue\[0\].results: expected a word, got 3"),
        ("3", r"search.enqueue\[0\]: expected a word, got 3"),
    ],
)
def test_what_is_no_earlier_search_is_named(shared_family: Family, entry: str, message: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: {message}"):
        configured(shared_family, entry)


def test_a_folder_without_a_search_is_named_and_nothing_is_written(shared_family: Family, tmp_path: Path) -> None:
    for entry, folder in (("a", shared_family.a), ("{results: nowhere}", "nowhere"), ("nowhere", "nowhere")):
        config = configured(shared_family, entry)
        with pytest.raises(SearchError, match=rf"mine.yaml: search.enqueue\[0\]: {folder}: holds no search"):
            run_search(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert "search.db" not in {file.name for file in shared_family.a.iterdir()}


def test_a_dry_run_says_what_is_tried_first(finished: Path, family: Family, command: Command) -> None:
    shown = command("run", family.write(search=f", enqueue: [{finished}]"), "--dry-run")
    assert shown.exit_code == 0
    assert f"{KEY}: {finished}: the parameters of its 3 best trials are tried first" in shown.stderr
    assert "an earlier search is the same, it takes that one's scores over instead" in shown.stderr
    assert Leaderboard.open(finished).best is not None


def test_a_dry_run_says_what_the_problems_that_are_left_can_prove(
    finished: Path, family: Family, command: Command
) -> None:
    shown = command("run", family.write(search=f", enqueue: [{finished}], seed: 1"), "--dry-run")
    _, report = load_problems(family.problems).split(0.5, seed=1)
    left = len(set(report.task_ids) - opened(finished).seen)
    assert 0 < left < len(report)
    assert f"the report split has {left} problems, which is too few" in shown.stdout
