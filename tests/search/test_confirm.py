"""Finalists of a real search are confirmed, wherever the project lies now, and however often it is killed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import pytest
import torch

from evaluation import Evaluator, ProblemSet, load_problems
from merging import Merger, ParentSet, Recipe, load_tokenizer
from search import Leaderboard, SearchConfig, SearchError, export_trial, run_search
from search.confirmation_plan import Asked, parts, plan_confirmation, recorded_evaluation
from search.earlier import EarlierSearch, spent_earlier
from search.progress import Progress
from search.results import ResultsFolder
from search.run.confirm import confirm_search
from search.run.trial import Bench
from search.space.sections import Sections
from search.study.outcomes import Split
from search.study.record import Scoring
from tests.search.conftest import Command, load_as_scored
from tests.search.family import Family
from tests.search.processes import running

NEW = ("chi", "psi", "eta", "zeta", "iota", "kappa")
REPORTED = 8
SOME, REST = slice(2), slice(2, None)
MODELS = ("parent-0", "parent-1", "parent-2", "trial-2")

pytestmark = pytest.mark.sandbox


class Told(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Return a file of problems that the search does not have."""
    file = tmp_path / "more.jsonl"
    rows = (
        {
            "task_id": f"more/{name}",
            "prompt": f"def {name}(x):\n    return x  # more {name}",
            "entry_point": name,
            "canonical_solution": "",
            "test": "def check(candidate):\n    assert candidate(3) == 3\n",
        }
        for name in NEW
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def put_scores(out: Path) -> None:
    """Let the best parent have failed at one problem of the search split, so that trial 2 is better."""
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        scores = "outcomes = 'pppppppf', score = 0.875, scores = '[0.875]'"
        database.execute(f"UPDATE scorings SET {scores} WHERE key = 'parent-0' AND split = 'search'")


@pytest.fixture
def out(finished: Path, family: Family, shared_family: Family, tmp_path: Path) -> Path:
    """Return the results folder of a search in which trial 2 is better than every parent; its project was moved."""
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    put_scores(out)
    gone, was = "/gone/family", str(shared_family.folder)
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        for table, column in (("search", "identity"), ("records", "name"), ("records", "recipe")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (was, gone))
        [[kept]] = database.execute("SELECT identity FROM search")
        identity = json.loads(kept)
        for name, held in identity["contents"].items():
            here = family.folder / Path(name).name
            held["beside"] = [os.path.relpath(here, out), held["beside"][1]]
        database.execute("UPDATE search SET identity = ?", (json.dumps(identity),))
    return out


def confirmed(out: Path) -> dict[str, Scoring]:
    """Return what became of each model in the confirmation."""
    return {it.key: it.confirm for it in ResultsFolder.open(out).read()[1] if it.confirm}


def written(out: Path, number: int, key: str) -> list[dict[str, str]]:
    """Return what a model wrote in a round."""
    text = (out / "completions" / f"confirm-{number}-{key}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_a_backend_that_is_missing_is_told_by_its_key(out: Path, command: Command, tmp_path: Path) -> None:
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        with_vllm = "json_set(identity, '$.evaluation.backend', 'vllm', '$.evaluation.compute_dtype', 'recipe')"
        database.execute(f"UPDATE search SET identity = {with_vllm}")
    told = f"merge-search: {out}/config.yaml: evaluation.backend: backend vllm is not installed; pip install "
    for words in (
        ("confirm", out, "--samples", "2", "--allow-code-execution"),
        ("export", out, "--to", tmp_path / "model", "--anyway", "--tokenizer", "best", "--allow-code-execution"),
    ):
        done = command(*words)
        assert done.exit_code == 2
        assert done.stderr.splitlines()[-1].startswith(told)
        assert "transformers" not in done.stderr.splitlines()[-1]  # the search began with vllm


def test_finalists_are_confirmed_in_rounds_of_old_and_new_problems(
    out: Path, family: Family, more: Path, tmp_path: Path, command: Command
) -> None:
    told = Told()
    board = confirm_search(out, [str(more)], samples=2, progress=told)
    assert told.lines[:2] == [
        f"{more}: {len(NEW)} new problems",
        "the search is greedy; 2 samples per problem are drawn at temperature 0.2",
    ]
    assert [line.partition(":")[0] for line in told.lines if line.startswith("look")] == ["look 1 of 2", "look 2 of 2"]
    assert (board.unfinished, board.ended) == ("", "all rounds are over")
    found, plan = confirmed(out), ResultsFolder.open(out).confirmation
    assert tuple(found) == MODELS
    assert plan
    assert plan.task_ids == (*ResultsFolder.open(out).splits["report"], *(f"more/{name}" for name in NEW))
    for key, scoring in found.items():
        rows = [row for number in (1, 2) for row in written(out, number, key)]
        assert [row["task_id"] for row in rows] == [*plan.task_ids, *plan.task_ids]
        assert scoring.outcomes == "".join(row["status"][0] for row in rows)
        assert scoring.score == pytest.approx(scoring.outcomes.count("p") / len(rows))
    assert written(out, 1, "parent-2") != written(out, 2, "parent-2")
    problems = load_problems(more)
    with Evaluator(
        problems, allow_code_execution=True, max_new_tokens=12, workers=1, sampling=plan.sampling(2)
    ) as evaluator:
        tokenizer = load_tokenizer(str(family.b))
        alone = evaluator.evaluate(load_as_scored(family.b, out), tokenizer, problems=problems, plain=True)
    assert [it.completion for it in alone.completions] == [
        row["completion"] for row in written(out, 2, "parent-1")[REPORTED:]
    ]
    again = confirm_search(out)
    assert (again.verdict, again.ended) == (board.verdict, board.ended)
    with pytest.raises(SearchError, match="--samples: its confirmation began with 2 "):
        confirm_search(out, samples=3)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text(more.read_text(encoding="utf-8").partition("\n")[0], encoding="utf-8")
    with pytest.raises(SearchError, match="--problems: differ from those that its confirmation began with"):
        confirm_search(out, [str(fewer)])
    shown = command("leaderboard", out).output
    assert f"confirmed on {REPORTED + len(NEW)} problems in 2 rounds: trial 2 {found['trial-2'].score:.1%}, a " in shown
    as_json = json.loads(command("leaderboard", out, "--json").output)
    assert as_json["confirmed_on"] == "14 problems in 2 rounds"
    rows_by_name = {row["name"]: row for row in as_json["rows"]}
    assert rows_by_name["trial 2"]["confirm_score"] == found["trial-2"].score
    assert "confirm_score" not in rows_by_name["trial 0"]
    table = list(csv.DictReader(io.StringIO(command("leaderboard", out, "--csv").output)))
    assert {row["name"]: row["confirm_score"] for row in table}["average"] == ""
    export_trial(out, tmp_path / "merged", trial=2)
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert f"| confirmation (14 problems in 2 rounds at temperature 0.2) | {found['trial-2'].score:.1%} | |" in card


@pytest.mark.slow
def test_finalists_of_random_methods_are_scored_under_other_seeds(
    family: Family, tmp_path: Path, command: Command
) -> None:
    recipe = """
  merge_method: dare_ties
  base_model: base
  models:
    - {model: a, parameters: {density: {low: 0.2, high: 0.6}, weight: 1.0}}
    - {model: b, parameters: {density: 0.5, weight: 0.7}}
"""
    out = tmp_path / "random"
    config = SearchConfig.load(family.write(recipe=recipe, search=", sampler: random, stop: {proven: false}"))
    run_search(config, out)
    with closing(sqlite3.connect(out / "search.db")) as database, database:  # so that a trial is better
        for key, outcomes in (("parent-0", "f" * REPORTED), ("parent-1", "f" * REPORTED)):
            scores = "outcomes = ?, score = 0.0, scores = '[0.0]'"
            database.execute(f"UPDATE scorings SET {scores} WHERE key = ? AND split = 'search'", (outcomes, key))
    board = confirm_search(out, samples=2)
    scored = {it.number: it for it in board.trials if it.on("confirm").by_seed}
    assert set(scored) == {it.number for it in board.trials if it.confirm}
    first = next(iter(scored.values()))
    own, *others = first.on("confirm").by_seed
    how = replace(ResultsFolder.open(out).read()[2]["confirm"], samples=1)
    assert own == pytest.approx(fmean(how.rates(first.on("confirm").outcomes[:REPORTED]).values()))
    folder, merge = ResultsFolder.open(out), Recipe.from_dict(first.recipe, "the trial")
    assert folder.confirmation
    problems = load_problems(family.problems).subset(folder.confirmation.task_ids)
    parents = ParentSet.open([merge])
    parents.load()
    compute = {"float32": torch.float32}.get(folder.compute_dtype)
    sampling = folder.confirmation.sampling(1)
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=12, workers=1, sampling=sampling) as evaluator:
        for seed, score in enumerate(others, start=1):
            merger = Merger(parents, random_seed=seed, compute_dtype=compute)
            model = merger.apply(merge)
            report = evaluator.evaluate(model, merger.tokenizer(merge), problems=problems, plain=True)
            assert report.pass_at_1 == pytest.approx(score)
    shown = command("leaderboard", out).output
    assert f"trial {first.number} draws random numbers: " in shown
    rows = {row["trial"]: row for row in json.loads(command("leaderboard", out, "--json").output)["rows"]}
    assert rows[first.number]["confirm_by_seed"] == [own, *others]


@pytest.mark.slow
def test_one_greedy_round_takes_what_the_report_split_has_shown(out: Path, more: Path) -> None:
    before = {it.key: it.on("report").outcomes for it in ResultsFolder.open(out).read()[1]}
    told = Told()
    confirm_search(out, [str(more)], progress=told)
    for key, scoring in confirmed(out).items():
        assert scoring.outcomes[:REPORTED] == before[key]
        assert [row["task_id"] for row in written(out, 1, key)] == [f"more/{name}" for name in NEW]
    [look] = [line for line in told.lines if line.startswith("look")]
    assert look.startswith("look 1 of 1: ")
    assert "of 14 problems than the closest parent" in look


@pytest.mark.slow
def test_a_killed_confirmation_loses_one_round_of_one_model(out: Path, tmp_path: Path) -> None:
    with running(tmp_path, "confirm", out, "--samples", "2", held_at=(Bench.score, 5)) as process:
        process.until_held()  # at the second round of the second model
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = confirmed(out)
    assert [len(before[key].outcomes) // REPORTED for key in MODELS] == [2, 1, 1, 1]
    board = confirm_search(out)
    after = confirmed(out)
    assert all(after[key].outcomes.startswith(before[key].outcomes) for key in MODELS)
    assert {len(scoring.outcomes) for scoring in after.values()} == {2 * REPORTED}
    assert board.unfinished == ""
    assert [look.rounds for look in ResultsFolder.open(out).read()[3].made if look.rounds] == [1, 2]


@pytest.mark.slow
def test_the_first_signal_lets_a_round_finish_and_says_how_to_go_on(out: Path, tmp_path: Path) -> None:
    words = ["confirm", out, "--samples", "2", "--temperature", "0.5"]
    with running(tmp_path, *words, held_at=(Bench.score, 1)) as process:
        process.until_held()
        process.send(signal.SIGINT)
        process.until_told("stopping when this trial is done")
        process.release()
        assert process.wait() == 0, process.errors
    again = f"merge-search confirm {out} --samples 2 --temperature 0.5"
    assert f"0 of 2 rounds of the confirmation are over. To continue:\n  {again}\n" in process.output
    assert [len(scoring.outcomes) for scoring in confirmed(out).values()] == [REPORTED, REPORTED]


def test_after_its_time_nothing_begins(out: Path) -> None:
    board = confirm_search(out, samples=2, timeout=1e-9)
    assert (confirmed(out), board.unfinished) == ({}, "0 of 2 rounds of the confirmation are over.")
    assert board.verdict == Leaderboard.open(out).verdict


def test_a_parent_that_changed_is_refused_by_name_before_anything_is_loaded(
    out: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    (family.a / "config.json").write_text((family.a / "config.json").read_text().replace("{", "{ ", 1))
    monkeypatch.setattr("search.run.rounds.Setup", None)
    with pytest.raises(SearchError, match=f"model {family.a}: its config has changed since it was scored"):
        confirm_search(out, samples=2)
    assert ResultsFolder.open(out).confirmation is None


def test_problems_that_changed_are_refused(out: Path, family: Family) -> None:
    family.problems.write_text(family.problems.read_text().replace("candidate(3) == 3", "candidate(4) == 4"))
    with pytest.raises(SearchError, match=r"problems .*have changed since the search began; restore them"):
        confirm_search(out, samples=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "greedy completions of the report split would be the same again; give more --samples"),
        (["--samples", "2", "--temperature", "0"], "--samples 2: all samples are the same at temperature 0"),
        (["--problems", "nowhere.jsonl"], "--problems: problems nowhere.jsonl: no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(
    out: Path, command: Command, words: list[str], message: str
) -> None:
    done = command("confirm", out, *words)
    assert done.exit_code == 2
    assert message in done.output
    assert ResultsFolder.open(out).confirmation is None


def test_problems_that_the_search_has_are_no_new_ones(out: Path, family: Family) -> None:
    remedy = "none of its 16 problems is new; give others, or leave it out and draw several --samples"
    with pytest.raises(SearchError, match=remedy):
        confirm_search(out, [str(family.problems)], samples=2)


def test_without_a_better_trial_there_is_nothing_to_confirm(finished: Path, command: Command) -> None:
    done = command("confirm", finished, "--samples", "2")
    assert (done.exit_code, "there is nothing to confirm" in done.output) == (2, True)


def test_without_consent_nothing_is_executed(out: Path, command: Command) -> None:
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("allow_code_execution: true", "allow_code_execution: false"))
    done = command("confirm", out, "--samples", "2")
    assert (done.exit_code, "--allow-code-execution" in done.output) == (2, True)


def test_a_search_that_proves_nothing_suggests_its_confirmation(
    finished: Path, shared_family: Family, tmp_path: Path, command: Command
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    put_scores(out)
    config = shared_family.write("finished.yaml")
    assert SearchConfig.load(config).search.trials == 3
    done = command("run", config, "--out", out)
    assert done.exit_code == 0, done.output
    suggested = f"To gather more evidence for the finalists:\n  merge-search confirm {out} --samples 4\n"
    assert suggested in done.output


def test_a_problem_of_two_sources_counts_once(out: Path, more: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    rows = [line.replace("more/zeta", "other/zeta") for line in more.read_text(encoding="utf-8").splitlines()]
    other.write_text("\n".join(rows), encoding="utf-8")
    folder = ResultsFolder.open(out)
    evaluation = recorded_evaluation(folder.identity, Sections.load(folder.config_file), out)
    planned = plan_confirmation(folder, evaluation, Asked((str(more), str(other)), 2), (2,))
    assert planned.plan.task_ids == (*folder.splits["report"], *(f"more/{name}" for name in NEW), "other/zeta")
    assert planned.split == Split(2, (), REPORTED + len(NEW) + 1)


def test_a_new_problem_weighs_as_much_as_one_of_weighed_sets_on_average(more: Path) -> None:
    problems = load_problems(more)
    light, heavy = (replace(problems.subset(problems.task_ids[part]), name=str(part)) for part in (SOME, REST))
    report = ProblemSet.joined([light, heavy], [1.0, 3.0])
    weights = Split(1, parts(report, [problems]), len(report) + len(problems)).weights
    assert weights
    per_problem = list(weights.values())
    assert fmean(per_problem[: len(report)]) == pytest.approx(1)
    assert per_problem[len(report) :] == [1.0] * len(problems)
    assert sum(per_problem[len(light) : len(report)]) == pytest.approx(3 * sum(per_problem[: len(light)]))
    assert parts(problems, [problems]) == ()


def test_what_a_confirmation_has_spent_is_spent_for_searches_that_report_on_its_problems(more: Path) -> None:
    identity = {"problems": {"search": ["a"], "report": ["b"]}}
    problems = load_problems(more)
    for task, spent in ((problems.task_ids[0], 0.03), ("c", 0.0)):
        earlier = EarlierSearch("results/first", "here", 1, identity, (), (), 0.03, (task,))
        assert spent_earlier([earlier], problems) == spent
