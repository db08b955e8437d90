"""A search, end to end: real models, real completions, the real sandbox."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from evaluation import ConsentError, Evaluator, load_problems
from evaluation.judge import Judge
from evaluation.sandbox.pool import Submissions
from merging import MergingError, load_tokenizer
from search import Leaderboard, SearchConfig, SearchError, export_trial, run_search
from search.callbacks.callback import Callbacks
from search.progress import Progress
from search.results import ResultsFolder
from search.run.phases import Phases as Work
from search.run.setup import Session
from search.run.trial import Bench
from search.space.sections import StopSection
from search.study.local_store import LocalStore
from search.study.looks import Look
from search.views.lines import PlainLines
from search.views.table import leaderboard_table
from tests.search.conftest import Command, fingerprint, load_as_scored
from tests.search.family import NO_REPORT, Family
from tests.search.jobs import claim, finish, forget
from tests.search.programs import executed_anew
from tests.search.told import Phases, Stopped, Stops


def parameters(board: Leaderboard) -> dict[int, Mapping[str, float]]:
    return {row.record.number: row.record.parameters for row in board.rows if row.record.kind == "trial"}


def computed(log: str) -> int:
    """Return how many statistics of the parents a log says were computed, and not found on disk."""
    counts = re.findall(r"statistics: \d+ found on disk, (\d+) computed", log)
    assert counts
    return sum(map(int, counts))


@pytest.mark.sandbox
def test_a_run_leaves_a_folder_with_everything(finished: Path, shared_family: Family) -> None:
    assert {path.name for path in finished.iterdir() if not path.name.startswith(".")} == {
        "config.yaml", "search.db", "completions", "statistics", "worker.log",
    }  # fmt: skip
    assert (finished / "config.yaml").read_text() == shared_family.config()
    assert "trial 2: " in (finished / "worker.log").read_text()
    assert not list((finished / ".workers").iterdir())


@pytest.mark.slow
def test_a_search_whose_parents_have_no_room_and_are_pickles_finds_the_same(
    family: Family, stopped_folder: Path, tmp_path: Path
) -> None:
    for model in (family.a, family.b):
        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    config = SearchConfig.load(family.write(more="merging: {memory_budget: 0, lazy_unpickle: true}"))
    phases = Phases()
    found = run_search(config, tmp_path / "run", trials=1, progress=phases)
    assert [row.record.search.score for row in found.rows] == [
        row.record.search.score for row in Leaderboard.open(stopped_folder).rows
    ]
    assert any("are read from their files for every candidate" in note for note in phases.said)
    export_trial(tmp_path / "run", tmp_path / "merged", trial=found.best)


@pytest.mark.slow
def test_a_search_that_compiles_says_so_and_finds_the_same(
    family: Family, stopped_folder: Path, tmp_path: Path
) -> None:
    phases = Phases()
    config = SearchConfig.load(family.write()).updated("merging", compile=True)
    found = run_search(config, tmp_path / "run", trials=1, progress=phases)
    assert phases.begun[:3] == ["reading the parents 1", "compiling 1", "parents 4"]
    assert [row.record.search.score for row in found.rows] == [
        row.record.search.score for row in Leaderboard.open(stopped_folder).rows
    ]


def test_the_parents_and_their_average_are_no_trials(finished: Path, shared_family: Family) -> None:
    board = Leaderboard.open(finished)
    assert {(row.record.kind, row.name) for row in board.rows if row.record.kind != "trial"} == {
        ("parent", str(shared_family.a)),
        ("parent", str(shared_family.b)),
        ("parent", str(shared_family.base)),
        ("average", "average"),
    }
    assert sorted(row.record.number for row in board.rows if row.record.kind == "trial") == [0, 1, 2]
    assert all(row.record.search.state == "complete" for row in board.rows)


def test_the_search_and_the_report_share_no_problem(finished: Path, shared_family: Family) -> None:
    files = (finished / "completions").iterdir()
    seen = {
        file.stem: {json.loads(line)["task_id"] for line in file.read_text(encoding="utf-8").splitlines()}
        for file in files
    }
    references = ["parent-0", "parent-1", "parent-2", "average"]
    finalists = [
        f"trial-{row.record.number}" for row in Leaderboard.open(finished).top(2) if row.record.kind == "trial"
    ]
    on_search = [*references, "trial-0", "trial-1", "trial-2"]
    assert seen.keys() == {*on_search, *(f"report-{key}" for key in [*references, *finalists])}
    search, report = seen["parent-0"], seen["report-parent-0"]
    assert not search & report
    assert search | report == set(load_problems(shared_family.problems).task_ids)
    assert all(tasks == (report if name.startswith("report") else search) for name, tasks in seen.items())


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_parents_scores_are_those_of_a_plain_evaluation(finished: Path, shared_family: Family) -> None:
    problems = load_problems(shared_family.problems)
    parents = [row for row in Leaderboard.open(finished).rows if row.record.kind == "parent"]
    row = next(row for row in parents if row.record.search.score and row.record.search.score < 1)
    with executed_anew(), Evaluator(problems, allow_code_execution=True, max_new_tokens=12) as evaluator:
        model, tokenizer = load_as_scored(row.name, finished), load_tokenizer(row.name)
        scores = [evaluator.evaluate(model, tokenizer, problems=part).pass_at_1 for part in problems.split(0.5, seed=0)]
    assert [row.record.search.score, row.record.on("report").score] == scores


def test_trials_know_how_likely_they_find_what_the_parents_passed_with(finished: Path, shared_family: Family) -> None:
    rows = Leaderboard.open(finished).rows
    likelihoods = [row.record.search.log_likelihood for row in rows if row.name != str(shared_family.a)]
    assert all(likelihood is not None and likelihood < 0 for likelihood in likelihoods)
    first = next(row for row in rows if row.name == str(shared_family.a))
    assert first.record.search.log_likelihood is None  # nothing was passed before it
    keys = [
        (-(row.record.search.score or 0), -(row.record.search.log_likelihood or 0))
        for row in rows
        if row.record.kind == "trial"
    ]
    assert keys == sorted(keys)


@pytest.mark.slow
def test_candidates_that_find_what_the_parents_passed_with_unlikely_are_pruned(family: Family, tmp_path: Path) -> None:
    text = family.config(search=", prune_margin: 0").replace("trials: 3", "trials: 5")
    board = run_search(SearchConfig.parse(text, folder=family.folder), tmp_path / "run")
    trials = sorted((row for row in board.rows if row.record.kind == "trial"), key=lambda row: row.record.number)
    best = None
    for row in trials:
        assert row.record.search.log_likelihood is not None
        assert row.record.search.state == (
            "complete" if best is None or row.record.search.log_likelihood >= best else "pruned"
        )
        assert (row.record.search.score is None) == (row.record.search.state == "pruned")
        best = row.record.search.log_likelihood if best is None else max(best, row.record.search.log_likelihood)
    assert {row.record.search.state for row in trials} == {"complete", "pruned"}
    assert all(row.record.on("report").score is None for row in trials if row.record.search.state == "pruned")
    assert board.rows[-1].record.search.state == "pruned"
    assert "pruned" in shown(board)


def test_a_search_goes_on_where_it_stopped(finished: Path, one_trial: tuple[SearchConfig, Path]) -> None:
    config, out = one_trial
    begun = Leaderboard.open(out)
    told = (out / "worker.log").read_text()
    assert computed(told) > 0
    ended = run_search(config, out)
    assert computed((out / "worker.log").read_text().removeprefix(told)) == 0
    kept = {row.name: row.record.search.seconds["total"] for row in begun.rows}
    assert {row.name: row.record.search.seconds["total"] for row in ended.rows if row.name in kept} == kept
    whole = Leaderboard.open(finished)
    assert parameters(ended) == parameters(whole)
    assert [(row.name, row.record.search.score) for row in ended.rows] == [
        (row.name, row.record.search.score) for row in whole.rows
    ]


def test_a_parameter_with_a_damaged_name_is_one_line_with_the_file_and_the_remedy(
    one_trial: tuple[SearchConfig, Path], command: Command, tmp_path: Path
) -> None:
    config, out = one_trial
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("UPDATE records SET parameters = replace(parameters, 'models[1]', 'models[9]')")
    with pytest.raises(SearchError, match=r"search.db: holds a damaged value; restore it .*--fresh"):
        run_search(config, out)
    told = command("leaderboard", out, "--optuna", tmp_path / "optuna.db")
    assert (told.exit_code, "search.db: holds a damaged value; restore it" in told.stderr) == (2, True)
    assert "trial 0" in command("leaderboard", out).stdout


def test_fewer_trials_than_there_are_runs_none(finished: Path, shared_family: Family) -> None:
    config = SearchConfig.load(shared_family.write("finished.yaml"))
    was = Leaderboard.open(finished)
    phases = Phases()
    assert run_search(config, finished, trials=1, progress=phases) == replace(was, ended="all trials are over")
    assert phases.phases == {"tensors"}
    assert phases.begun == ["reading the parents 1", "parents 4", "search 1", "report split 0"]


@pytest.mark.slow
def test_fresh_starts_over(one_trial: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    config, out = one_trial
    first = Leaderboard.open(out)
    phases = Phases()
    second = run_search(config, out, trials=1, fresh=True, seed=3, progress=phases)
    assert f"{tmp_path}/run: what was there is now in {tmp_path}/run.1" in phases.said
    assert parameters(first) != parameters(second)
    assert Leaderboard.open(tmp_path / "run.1") == first
    # What depends only on the parents stays where it is of use.
    assert computed((tmp_path / "run/worker.log").read_text()) == 0
    assert not (tmp_path / "run.1/statistics").exists()


@pytest.mark.slow
def test_after_its_time_a_search_takes_no_trial(family: Family, tmp_path: Path) -> None:
    config = SearchConfig.load(family.write(search=", timeout: 8h"))
    phases = Phases()
    board = run_search(config, tmp_path / "run", timeout=0.001, progress=phases)
    assert parameters(board) == {}
    assert board.best is None
    assert "search 3 until a deadline" in phases.begun
    # The parents are scored in any case, and on the report split too.
    assert all(row.record.on("report").score is not None for row in board.rows)
    assert len(board.rows) == 4


def test_a_failing_candidate_is_recorded_with_its_reason_and_ends_nothing(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = """
  merge_method: task_arithmetic
  base_model: base
  dtype: float16
  models:
    - {model: a, parameters: {weight: {low: 0.0, high: 1.0e+30}}}
    - {model: b, parameters: {weight: 0.5}}
"""
    (family.folder / "good.yaml").write_text(f"{recipe.replace('{low: 0.0, high: 1.0e+30}', '0.5')}")
    config = SearchConfig.load(family.write(recipe=recipe, evaluation=NO_REPORT, search=", enqueue: [good.yaml]"))
    board = run_search(config, tmp_path / "run")
    states = {row.record.number: row.record.search.state for row in board.rows if row.record.kind == "trial"}
    assert states == {0: "complete", 1: "failed", 2: "failed"}
    assert board.best == 0
    errors = [row.record.search.error or "" for row in board.rows if row.record.search.state == "failed"]
    assert all(error.startswith("merged tensor model.") and "holds NaN or Inf" in error for error in errors)
    assert "NonFiniteTensor: merged tensor model." in (tmp_path / "run" / "worker.log").read_text()
    assert not caplog.records
    assert not logging.getLogger("search").handlers


def overflow(model: Path, scale: float) -> None:
    """Let the logits of two tokens overflow where the last state is long along a direction, the more the larger."""
    tensors = load_file(model / "model.safetensors")
    head = tensors["lm_head.weight"]
    direction = scale * torch.randn(head.shape[1], generator=torch.Generator().manual_seed(0))
    head[200], head[201] = direction.to(head.dtype), -direction.to(head.dtype)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_logits_that_are_not_finite_fail_their_problems_and_the_leaderboard_says_so(
    family: Family, command: Command, tmp_path: Path
) -> None:
    overflow(family.a, 2.7e37)
    overflow(family.b, 6e37)
    config = family.write(evaluation=NO_REPORT)
    phases = Phases()
    board = run_search(SearchConfig.load(config), tmp_path / "run", trials=0, progress=phases)
    rows = {Path(row.name).name: row for row in board.rows}
    assert re.fullmatch(
        r"its logits are not finite \(NaN or Inf\) on \d+ of 16 completions", rows["a"].record.search.error or ""
    )
    assert rows["a"].record.search.error in phases.notes
    assert rows["a"].record.search.score is not None
    assert (rows["b"].record.search.state, rows["b"].record.search.score) == ("failed", None)
    assert "the model's logits are not finite (NaN or Inf) for any prompt" in (rows["b"].record.search.error or "")
    assert (rows["base"].record.search.state, rows["base"].record.search.error) == ("complete", None)
    shown = command("leaderboard", tmp_path / "run").output
    assert f"a: {rows['a'].record.search.error}" in shown


@pytest.mark.slow
def test_where_every_trial_failed_the_export_says_why(family: Family, command: Command, tmp_path: Path) -> None:
    recipe = """
  merge_method: task_arithmetic
  base_model: base
  dtype: float16
  models: [{model: a, parameters: {weight: {low: 1.0e+29, high: 1.0e+30}}}]
"""
    assert command("run", family.write(recipe=recipe), "--out", tmp_path / "run", "--trials", "2").exit_code == 0
    refused = command("export", tmp_path / "run", "--to", tmp_path / "out", "--anyway")
    assert refused.exit_code == 2
    assert "there is nothing to export: 2 trials are over, and all have failed; the last, trial 1: " in refused.stderr
    assert "holds NaN or Inf" in refused.stderr


@pytest.mark.slow
def test_numbers_that_make_no_valid_recipe_fail_their_trial(family: Family, tmp_path: Path) -> None:
    # Both ends of the ranges are valid; layer_range [2, 2] between them is not.
    recipe = """
  merge_method: linear
  slices:
    - sources:
        - {model: a, layer_range: [{low: 0, high: 2, step: 1}, 3], parameters: {weight: 0.5}}
        - {model: b, layer_range: [{low: 0, high: 2, step: 1}, 3], parameters: {weight: 0.5}}
"""
    config = SearchConfig.load(family.write(recipe=recipe, evaluation=NO_REPORT, search=", sampler: qmc"))
    board = run_search(config, tmp_path / "run", trials=4)
    reasons = [row.record.search.error for row in board.rows if row.record.search.state == "failed"]
    assert reasons
    assert all("the sources of a slice must have the same number of layers" in (reason or "") for reason in reasons)


def test_without_consent_nothing_is_done(family: Family, tmp_path: Path) -> None:
    file = family.write()
    file.write_text(file.read_text().replace("allow_code_execution: true", "allow_code_execution: false"))
    with pytest.raises(ConsentError, match="--allow-code-execution"):
        run_search(SearchConfig.load(file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_chat_prompts_need_a_chat_template(family: Family, tmp_path: Path) -> None:
    config = SearchConfig.load(family.write(evaluation=", prompt: {format: chat}"))
    with pytest.raises(SearchError, match=r"evaluation\.prompt: the format is chat, but .* no chat template"):
        run_search(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parents_that_cannot_be_scored_end_the_search_with_the_reason(family: Family, tmp_path: Path) -> None:
    # The tokenizer of the merges is one thing, the parents' own another.
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    text = family.write(evaluation=", prompt: {format: chat}").read_text()
    text = text.replace("base_model: base", f'base_model: base\n  chat_template: "{template}"')
    config = SearchConfig.parse(text, source="mine.yaml", folder=family.folder)
    shown = io.StringIO()
    with (
        PlainLines(shown) as progress,
        pytest.raises(SearchError, match=r"mine.yaml: none of the parents could be scored.* no chat template"),
    ):
        run_search(config, tmp_path / "run", progress=progress)
    assert "parents 3/4: base  failed" in shown.getvalue()
    assert "best parent" not in shown.getvalue()


@pytest.mark.parametrize("model", ["base", "b"])
def test_a_parent_whose_config_contradicts_its_files_is_refused_before_anything_is_written(
    family: Family, tmp_path: Path, model: str
) -> None:
    file = family.folder / model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 64}))
    with pytest.raises(MergingError, match=rf"/{model}: tensor .* has .*32\], but its config says \[.*64\]"):
        run_search(SearchConfig.load(family.write()), tmp_path / "run", trials=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # test_identity.py has the same of a folder that was only begun
def test_a_changed_problem_file_is_another_search(family: Family, tmp_path: Path) -> None:
    config = SearchConfig.load(family.write())
    run_search(config, tmp_path / "run", trials=1)
    family.problems.write_text(family.problems.read_text().replace("candidate(3)", "candidate(4)", 1))
    was = fingerprint(tmp_path / "run")
    with pytest.raises(SearchError, match=r"run: file .*problems\.jsonl: has changed since .*--fresh"):
        run_search(config, tmp_path / "run")
    assert fingerprint(tmp_path / "run") == was


def test_no_problem_to_search_on_is_refused(family: Family, tmp_path: Path) -> None:
    config = SearchConfig.load(family.write(evaluation=", report_fraction: 0.99"))
    with pytest.raises(SearchError, match=r"evaluation\.report_fraction: leaves no problem to search on"):
        run_search(config, tmp_path / "run")


@pytest.mark.slow
def test_without_a_report_split_there_is_no_report(family: Family, tmp_path: Path) -> None:
    board = run_search(SearchConfig.load(family.write(evaluation=NO_REPORT)), tmp_path / "run", trials=1)
    assert {row.record.on("report").score for row in board.rows} == {None}


def test_a_search_whose_winner_is_proven_ends(one_trial: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    config, out = one_trial
    with closing(LocalStore(out)) as store, store.sign_in() as worker:
        for _ in range(3):
            finish(store, claim(store, worker, 4, config), config)
        job = store.claim_report(worker, ["trial-1"])
        assert job
        report = replace(job.record.on("report"), state="complete", outcomes="p" * 8, score=1.0)
        assert store.keep(job, job.record.scored("report", report))
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        failed = "outcomes = 'ffffffff', score = 0, scores = '[0]'"
        database.execute(f"UPDATE scorings SET {failed} WHERE key NOT LIKE 'trial%' OR key = 'trial-0'")
    board = run_search(config, out, trials=40)
    assert (board.ended, board.unfinished) == ("proven at trial 1", "")
    assert (board.verdict.ruling, board.verdict.trial, board.verdict.points) == ("proven", 1, 1.0)
    assert parameters(board).keys() == {0, 1, 2, 3}
    assert export_trial(out, tmp_path / "merged").record.number == 1
    on_and_on = config.updated("search", stop=StopSection(proven=False))
    assert run_search(on_and_on, out, trials=5).ended == "all trials are over"


class Interrupt(Progress):
    """Asks to stop while a model is scored on the report split."""

    def __init__(self) -> None:
        self.part = ""

    def begin(self, what: str, *_: Any, **__: Any) -> None:
        self.part = what

    def trial(self, name: str, done: int) -> None:  # noqa: ARG002
        if self.part == "report split":
            signal.raise_signal(signal.SIGINT)


def test_a_look_whose_worker_died_is_finished_before_the_next_trial_and_a_stop_meanwhile_holds(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    with closing(LocalStore(out)) as store, store.sign_in() as dead:
        for _ in range(3):
            finish(store, claim(store, dead, 4, config), config)
        store.begin_look(Look(4, 0.001, (1,)), store.looks)
        assert store.claim_report(dead, ["trial-1"])
    board = run_search(config, out, trials=5, progress=Interrupt())
    looked_at = next(row.record for row in board.rows if row.record.key == "trial-1")
    assert (looked_at.on("report").state, parameters(board).keys()) == ("complete", {0, 1, 2, 3})


def test_what_is_no_better_than_a_parent_is_exported_only_if_that_is_asked_for(
    command: Command, one_trial: tuple[SearchConfig, Path], tmp_path: Path
) -> None:
    _, out = one_trial
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("UPDATE scorings SET score = 0 WHERE key = 'trial-0' AND split = 'search'")
    words = ["export", out, "--to", tmp_path / "merged"]
    refused = command(*words)
    assert (refused.exit_code, (tmp_path / "merged").exists()) == (2, False)
    reason = "no better: no trial solves more of the search split than the best parent, a"
    assert refused.stderr == f"merge-search: {out}: {reason}; --anyway exports it all the same\n"
    assert command("leaderboard", out).stdout.startswith(reason + "\n")
    done = command(*words, "--anyway")
    assert (done.exit_code, reason in done.stderr) == (0, True)
    named = command("export", out, "--to", tmp_path / "named", "--trial", "0")
    assert (named.exit_code, reason in named.stderr) == (0, False)


@pytest.mark.slow
def test_while_another_worker_is_at_its_last_trial_the_finalists_are_left_to_it(
    one_trial: tuple[SearchConfig, Path],
) -> None:
    config, out = one_trial
    phases = Phases()
    with closing(LocalStore(out)) as store, store.sign_in() as other:
        claim(store, other, 2, config)
        board = run_search(config, out, trials=2, progress=phases)
    assert board.unfinished == ""  # nothing is left that nobody is at
    assert phases.said == ["another worker is still at its last trial; it will score the finalists"]
    assert parameters(run_search(config, out, trials=2)).keys() == {0, 1}


def test_a_worker_that_died_is_not_waited_for(one_trial: tuple[SearchConfig, Path]) -> None:
    config, out = one_trial
    with closing(LocalStore(out)) as store, store.sign_in() as dead:
        claim(store, dead, 3, config)  # which is never heard of again
        finish(store, claim(store, dead, 3, config), config)
    phases = Phases()
    board = run_search(config, out, timeout=0, progress=phases)
    assert phases.said == []
    assert (board.best, board.rows[0].record.search.score) == (2, 1.0)
    assert board.rows[0].record.on("report").score is not None


@pytest.mark.slow
@pytest.mark.parametrize("scored", [3, 0, 1])
def test_parents_whose_worker_died_are_counted_once(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: int
) -> None:
    config = SearchConfig.load(family.write())
    calls = []

    def score_or_die(bench: Bench, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > scored:
            raise KeyboardInterrupt
        return score(bench, *arguments, **options)

    score = Bench.score
    monkeypatch.setattr(Bench, "score", score_or_die)
    with pytest.raises(KeyboardInterrupt):
        run_search(config, tmp_path / "run")
    monkeypatch.setattr(Bench, "score", score)
    shown = io.StringIO()
    with PlainLines(shown) as progress:
        run_search(config, tmp_path / "run", trials=0, progress=progress)
    assert re.findall(r"parents (\d/\d)", shown.getvalue()) == [f"{number}/4" for number in range(scored + 1, 5)]


def test_no_trials_and_no_time_are_none(one_trial: tuple[SearchConfig, Path], shared_family: Family) -> None:
    _, out = one_trial
    config = SearchConfig.load(shared_family.write("patient.yaml", search=", timeout: 8h"))
    assert parameters(run_search(config, out, trials=0)).keys() == {0}
    assert parameters(run_search(config, out, timeout=0)).keys() == {0}


@pytest.mark.slow
def test_the_same_merge_again_has_the_outcomes_that_it_had(family: Family, tmp_path: Path) -> None:
    recipe = """
  merge_method: linear
  models:
    - {model: a, parameters: {weight: {choices: [0.25, 0.75]}}}
    - {model: b, parameters: {weight: 0.5}}
"""
    config = SearchConfig.load(family.write(recipe=recipe, search=", sampler: random"))
    phases = Phases()
    board = run_search(config, tmp_path / "run", trials=5, progress=phases)
    rows = {row.record.number: row for row in board.rows if row.record.kind == "trial"}
    firsts = [row for row in rows.values() if row.record.same_as is None]
    assert len(firsts) == 2
    for row in rows.values():
        first = rows[row.record.number if row.record.same_as is None else row.record.same_as]
        assert first.record.same_as is None
        assert (row.record.recipe, row.record.search.score, row.record.parameters) == (
            first.record.recipe,
            first.record.search.score,
            first.record.parameters,
        )
        assert (row.won, row.lost) == (first.won, first.lost) or first.record.on("report").score is not None
        written = (tmp_path / "run" / "completions" / f"trial-{row.record.number}.jsonl").exists()
        assert written is (row.record.same_as is None)
    repeated = next(row for row in rows.values() if row.record.same_as is not None)
    log = (tmp_path / "run" / "worker.log").read_text()
    assert f"trial {repeated.record.number}: the same merge as trial {repeated.record.same_as}" in log
    assert phases.notes.count(f"the same merge as trial {repeated.record.same_as}") >= 1
    assert {row.record.number for row in firsts} == {
        row.record.number for row in rows.values() if row.record.on("report").score is not None
    }
    assert f"trial {repeated.record.number} (= {repeated.record.same_as})" in shown(board)


@pytest.mark.sandbox
def test_the_layers_of_the_sandbox_are_recorded_and_one_that_it_lacks_is_told(
    family: Family, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "sandbox: two processes, " in (finished / "worker.log").read_text()
    monkeypatch.setenv("PATH", "/nowhere")
    said: list[str] = []
    progress = Stops()
    monkeypatch.setattr(progress, "say", said.append)
    with pytest.raises(Stopped):
        run_search(SearchConfig.load(family.write()), tmp_path / "run", progress=progress)
    with closing(sqlite3.connect(tmp_path / "run" / "search.db")) as database:
        [[active, missing]] = database.execute("SELECT active, missing FROM workers").fetchall()
    assert {"rlimits", "no-new-privs", "seccomp (x86_64)"} <= set(json.loads(active))
    assert json.loads(missing) == ["bubblewrap (there is no bwrap on the PATH)"]
    assert said[:1] == [
        "the sandbox works without bubblewrap (there is no bwrap on the PATH); run `merge-search check` for details"
    ]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("at_a_trial", [False, True])
def test_a_worker_that_ends_before_the_others_does_not_say_that_the_search_is_unfinished(
    one_trial: tuple[SearchConfig, Path], monkeypatch: pytest.MonkeyPatch, at_a_trial: bool, stopped: bool
) -> None:
    config, out = one_trial
    others_at_trials = Work._others_at_trials

    def finishing(work: Work) -> int:  # its last trial is over after this worker has looked
        others = others_at_trials(work)
        finish(store, job, config)
        return others

    def told(stopping: bool) -> str:
        with ResultsFolder.open(out).working() as own_store, own_store.sign_in() as own:
            session = Session(config, bench, own_store, own)
            return Work(session, 2, None, lambda: stopping, Callbacks()).unfinished()

    bench = SimpleNamespace(folder=ResultsFolder.open(out), splits={"search": [1], "report": []})
    with closing(LocalStore(out)) as store, store.sign_in() as other:
        if at_a_trial:
            job = claim(store, other, 2, config)
            monkeypatch.setattr(Work, "_others_at_trials", finishing)
        assert told(stopped) == ("" if at_a_trial or not stopped else "1 of 2 trials are over; others work on.")
        monkeypatch.undo()
    assert (told(stopped) == "1 of 2 trials are over.") is not at_a_trial


@pytest.mark.slow
def test_a_worker_leaves_a_model_that_another_is_at_on_the_report_split(
    finished: Path, shared_family: Family, tmp_path: Path
) -> None:
    config, out = SearchConfig.load(shared_family.write("finished.yaml")), tmp_path / "run"
    shutil.copytree(finished, out)
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute("DELETE FROM scorings WHERE split = 'report' AND key = 'average'")
    with closing(LocalStore(out)) as store:
        with store.sign_in() as other:
            assert store.claim_report(other, ["average"])
            assert run_search(config, out).unfinished == ""
        board = run_search(config, out)
    assert board.unfinished == ""
    assert next(row for row in board.rows if row.name == "average").record.on("report").state == "complete"


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_program_whose_verdict_is_in_the_folder_is_not_executed_again(
    stopped_folder: Path, shared_family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it once more, with what became of the programs as all that is kept.
    (tmp_path / "run").mkdir()
    shutil.copyfile(stopped_folder / "search.db", tmp_path / "run" / "search.db")
    forget(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").touch()
    executed = []
    monkeypatch.setattr(Judge, "admit", lambda *_: None)
    monkeypatch.setattr(Submissions, "submit", lambda *program: executed.append(program))
    board = run_search(SearchConfig.load(shared_family.write("finished.yaml")), tmp_path / "run", trials=1)
    assert executed == []
    known = Leaderboard.open(stopped_folder)
    assert [row.record.search.score for row in board.rows] == [row.record.search.score for row in known.rows]


def test_the_default_folder_is_called_like_the_config(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(family.folder)
    with pytest.raises(Stopped):
        run_search(SearchConfig.load(family.write("mine.yaml")), progress=Stops())
    assert Leaderboard.open("results/mine").study == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["nsgaii", "tpe", "gp", "qmc"])
def test_the_scores_of_several_sets_may_be_objectives_of_their_own(
    family: Family, tmp_path: Path, sampler: str
) -> None:
    rows = family.problems.read_text().splitlines(keepends=True)
    (family.folder / "other.jsonl").write_text("".join(rows[:6]))
    text = family.config(search=f", sampler: {sampler}, objectives: separate")
    text = text.replace("problems.jsonl", "[problems.jsonl, {source: other.jsonl, weight: 3}]", 1)
    run_search(SearchConfig.parse(text, folder=family.folder), tmp_path / "run", trials=2)
    board = run_search(SearchConfig.parse(text, folder=family.folder), tmp_path / "run", trials=4)  # it goes on
    trials = [row for row in board.rows if row.record.kind == "trial"]
    assert len(trials) == 4
    values = [tuple(row.search_scores.values()) for row in trials]
    for row, own in zip(trials, values, strict=True):
        assert row.record.search.score == pytest.approx((own[0] + 3 * own[1]) / 4)
        beaten = any(all(a >= b for a, b in zip(other, own, strict=True)) and other != own for other in values)
        assert row.on_front is not beaten
    assert {row.on_front for row in board.rows if row.record.kind != "trial"} == {None}
    best = next(row for row in trials if row.record.number == board.best)
    assert best.on_front
    assert best.record.on("report").score is not None
    assert Leaderboard.open(tmp_path / "run").rows == board.rows
    assert "(Pareto)" in shown(board)


@pytest.mark.slow
def test_a_search_over_several_sets_and_samples_is_scored_by_their_weights(family: Family, tmp_path: Path) -> None:
    rows = family.problems.read_text().splitlines(keepends=True)
    family.problems.write_text("".join(rows[:6]))
    (family.folder / "other.jsonl").write_text("".join(rows[4:8]))
    text = family.config().replace("problems.jsonl", "[problems.jsonl, {source: other.jsonl, weight: 3}]", 1)
    text = text.replace("max_new_tokens", "samples: 2, temperature: 0.5, max_new_tokens", 1)
    board = run_search(SearchConfig.parse(text, folder=family.folder), tmp_path / "run", trials=1)
    assert {row.record.search.state for row in board.rows} == {"complete"}
    for found in board.rows:
        scores = found.search_scores
        assert scores.keys() == {"problems.jsonl", "other.jsonl"}
        mean = (scores["problems.jsonl"] + 3 * scores["other.jsonl"]) / 4
        assert found.record.search.score == pytest.approx(mean)
    assert Leaderboard.open(tmp_path / "run").rows == board.rows
    written = (tmp_path / "run" / "completions" / "parent-0.jsonl").read_text().splitlines()
    assert len(written) == 2 * len({json.loads(line)["task_id"] for line in written})
    assert "other.jsonl" in shown(board)


def shown(board: Leaderboard) -> str:
    table = Console(width=160, record=True, file=io.StringIO())
    table.print(leaderboard_table(board))
    return table.export_text()
