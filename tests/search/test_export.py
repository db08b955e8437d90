"""What is exported is what was scored."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation import Evaluator, load_problems
from merging import Merger, MergingError, ParentSet, Recipe, load_tokenizer
from search import Leaderboard, SearchConfig, SearchError, export_trial, run_search
from tests.search.conftest import Command, load_as_scored
from tests.search.family import NO_REPORT, Family
from tests.search.processes import running

MANY_METHODS = """
  merge_method: {choices: [dare_ties, ties]}
  base_model: base
  models:
    - model: a
      parameters: {density: {low: 0.3, high: 0.9, knots: 2}, weight: 1.0}
    - model: b
      parameters: {density: 0.5, weight: {low: 0.0, high: 1.0}}
"""


@pytest.mark.parametrize("merge_method", ["dare_ties", pytest.param("ties", marks=pytest.mark.slow)])
def test_the_export_is_the_model_that_was_scored(family: Family, tmp_path: Path, merge_method: str) -> None:
    recipe = MANY_METHODS.replace("{choices: [dare_ties, ties]}", merge_method)
    config = SearchConfig.load(family.write(recipe=recipe, evaluation=NO_REPORT, more="merging: {random_seed: 7}"))
    board = run_search(config, tmp_path / "run", trials=2)
    row = export_trial(tmp_path / "run", tmp_path / "out", anyway=True)
    assert row.record.number == board.best
    written = load_file(tmp_path / "out" / "model.safetensors")
    merge = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert merge.to_dict() == row.record.recipe
    with ParentSet.open(merge) as parents:
        scored = Merger(parents, random_seed=7).apply(merge).state_dict()
        assert written.keys() == scored.keys()
        assert all(torch.equal(written[name], scored[name]) for name in written)
    _writes_what_was_scored(tmp_path / "out", tmp_path / "run", row.record.number, family)


def _writes_what_was_scored(model: Path, results: Path, trial: int, family: Family) -> None:
    lines = (results / "completions" / f"trial-{trial}.jsonl").read_text(encoding="utf-8").splitlines()
    was = {line["task_id"]: line["completion"] for line in map(json.loads, lines)}
    problems = load_problems(family.problems).subset(was.keys())
    with Evaluator(problems, allow_code_execution=True, max_new_tokens=12) as evaluator:
        report = evaluator.evaluate(load_as_scored(model, results), load_tokenizer(str(model)))
    assert {task: outcome.completion for task, outcome in report.outcomes.items()} == was


def test_the_export_is_a_whole_model(finished: Path, tmp_path: Path, shared_family: Family) -> None:
    row = export_trial(finished, tmp_path / "out", max_shard_size="40KB", anyway=True)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"recipe.yaml", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert "model.safetensors.index.json" in names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.dtype is torch.bfloat16
    assert tokenizer("def f():").input_ids == load_tokenizer(str(shared_family.base))("def f():").input_ids
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| search (chosen on it) | {row.record.search.score:.1%} | |" in card
    assert "never seen by the search" in card
    assert str(shared_family.base.parent) not in card  # paths of one machine mean nothing on another
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()) == row.record.recipe


def test_any_trial_and_reference_model_can_be_exported(
    command: Command, finished: Path, tmp_path: Path, shared_family: Family
) -> None:
    trial = next(row for row in Leaderboard.open(finished).rows if row.record.kind == "trial")
    for called, name in ((trial.record.number, trial.name), ("a", str(shared_family.a)), ("average", "average")):
        done = command("export", finished, "--trial", str(called), "--to", tmp_path / f"out-{called}")
        assert done.exit_code == 0, done.output
        assert f": {name}, " in done.output
    parent = load_file(shared_family.a / "model.safetensors")
    exported = load_file(tmp_path / "out-a" / "model.safetensors")
    assert all(torch.equal(parent[name], exported[name]) for name in parent)


def test_a_trial_that_is_not_there_is_named(command: Command, finished: Path, tmp_path: Path) -> None:
    result = command("export", finished, "--trial", "99", "--to", tmp_path / "out")
    assert result.exit_code == 2
    assert "has no trial or parent 99; the last trial that is over is 2" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(command: Command, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    result = command("export", finished, "--to", tmp_path, "--anyway")
    assert result.exit_code == 2
    assert f"{tmp_path}: exists already and is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.slow
def test_what_a_config_named_may_be_gone_when_its_trials_are_exported(family: Family, tmp_path: Path) -> None:
    space = SearchConfig.load(family.write()).space
    (family.folder / "start.yaml").write_text(space.example().to_yaml(), encoding="utf-8")
    config = SearchConfig.load(
        family.write(evaluation=NO_REPORT, search=", enqueue: [start.yaml]", more="merging: {random_seed: 7}")
    )
    run_search(config, tmp_path / "run", trials=1)
    (family.folder / "start.yaml").unlink()
    family.problems.unlink()
    assert export_trial(tmp_path / "run", tmp_path / "out", anyway=True).record.number == 0
    assert "--random-seed 7" in (tmp_path / "out" / "README.md").read_text()
    assert Recipe.load(tmp_path / "out" / "recipe.yaml") == space.example()


def test_results_that_were_moved_can_still_be_exported(command: Command, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    assert command("export", tmp_path / "moved", "--to", tmp_path / "out", "--anyway").exit_code == 0


def test_a_disk_that_fills_up_leaves_nothing_behind(finished: Path, tmp_path: Path) -> None:
    with running(
        tmp_path, "export", finished, "--anyway", "--to", tmp_path / "deep" / "out", file_limit=50_000
    ) as command:
        assert command.wait() == 2, command.errors
    assert f"merge-search: {tmp_path}/deep/out: cannot be written: " in command.errors
    assert "Traceback" not in command.errors
    assert not list((tmp_path / "deep").iterdir())


def test_what_was_scored_on_the_report_split_is_compared_with_the_export(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    board = Leaderboard.open(run)
    with closing(sqlite3.connect(run / "search.db")) as database, database:
        marked = database.execute("UPDATE records SET weights_digest = '0123' WHERE weights_digest IS NOT NULL")
    assert sum(row.record.on("report").score is not None for row in board.rows) == marked.rowcount
    for number, row in enumerate(board.rows):
        to = tmp_path / "out" / str(number)
        done = command("export", run, "--to", to, "--trial", row.name)
        if row.record.on("report").score is None and row.record.same_as is None:
            assert done.exit_code == 0, done.output  # there is nothing to compare with
        else:
            assert done.exit_code == 2
            assert "its weights differ from those that were scored" in done.output
            assert not to.exists()


@pytest.mark.slow
def test_a_method_that_mergekit_does_not_have_is_named_and_exported_as_an_equal(
    command: Command, family: Family, tmp_path: Path
) -> None:
    recipe = """
  merge_method: consensus_ta
  base_model: base
  models: [{model: a}, {model: b, parameters: {weight: {low: 0.0, high: 1.0}}}]
"""
    run_search(SearchConfig.load(family.write(recipe=recipe, evaluation=NO_REPORT)), tmp_path / "run", trials=1)
    done = command("export", tmp_path / "run", "--to", tmp_path / "plain", "--anyway")
    assert done.exit_code == 0, done.output
    assert (
        "consensus_ta is not a method of mergekit, so mergekit cannot read this recipe; --mergekit-compatible"
        in done.output
    )
    done = command("export", tmp_path / "run", "--to", tmp_path / "equal", "--mergekit-compatible", "--anyway")
    assert done.exit_code == 0, done.output
    assert f"mergekit reads {tmp_path / 'equal' / 'recipe.yaml'}" in done.output
    assert Recipe.load(tmp_path / "equal" / "recipe.yaml").merge_method == "task_arithmetic"
    assert "## Scores" in (tmp_path / "equal" / "delta" / "README.md").read_text(encoding="utf-8")
    merged, again = tmp_path / "plain" / "recipe.yaml", tmp_path / "again"
    done = command("merge", merged, again)
    assert "is not a method of mergekit" in done.output
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("equal/delta", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_methods_that_need_a_calibration_file_are_searched_like_others(family: Family, tmp_path: Path) -> None:
    recipe = """
  merge_method: {choices: [fisher, regmean]}
  base_model: base
  models: [{model: a}, {model: b, parameters: {weight: {low: 0.1, high: 2.0}}}]
  parameters: {calibration: problems.jsonl}
"""
    file = family.write(recipe=recipe, evaluation=NO_REPORT)
    board = run_search(SearchConfig.load(file), tmp_path / "run", trials=3)
    trials = [row for row in board.rows if row.record.kind == "trial"]
    assert [row.record.search.state for row in trials] == ["complete"] * 3, [row.record.search.error for row in trials]
    row = export_trial(tmp_path / "run", tmp_path / "out", mergekit_compatible=True, anyway=True)
    assert row.record.recipe["parameters"]["calibration"] == str(family.problems)  # which lies beside the config
    assert Recipe.load(tmp_path / "out" / "recipe.yaml").merge_method == "task_arithmetic"
    family.problems.rename(tmp_path / "moved")
    with pytest.raises(SearchError, match=r"file .*problems\.jsonl: is gone.*put it back"):
        export_trial(tmp_path / "run", tmp_path / "again", anyway=True)


def test_a_calibration_file_that_is_missing_is_told_before_anything_is_written(family: Family, tmp_path: Path) -> None:
    recipe = """
  merge_method: regmean
  models: [{model: a}, {model: b, parameters: {weight: {low: 0.1, high: 2.0}}}]
  parameters: {calibration: nothing.jsonl}
"""
    with pytest.raises(MergingError, match=r"calibration: nothing\.jsonl: no such file; give a small "):
        run_search(SearchConfig.load(family.write(recipe=recipe)), tmp_path / "run", trials=1)
    assert not (tmp_path / "run").exists()
