"""The command line: light to start, clear about what is wrong, and of a fixed form where programs read it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from evaluation import EvaluationError
from evaluation.generation.room import Room
from search import Leaderboard, SearchConfig, run_search
from search.cli import main
from search.memory_plan import MemoryPlan
from tests.evaluation.settings import on_kernel
from tests.parametrization import every
from tests.search.conftest import Command, fingerprint
from tests.search.family import NO_REPORT, Family
from tests.search.processes import running
from tests.search.programs import executed_anew
from tests.tiny import TinyModel, save_tiny_model

COMMANDS = list(main.commands)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from search.cli import main; main(standalone_mode=False);"
        "heavy = {'accelerate', 'datasets', 'optuna', 'pydantic', 'scipy', 'torch', 'transformers'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_shows_an_example(command: Command, name: str) -> None:
    assert f"Example:\n    merge-search {name} " in command(name, "--help").output


@pytest.mark.sandbox
def test_check_shows_what_programs_are_confined_by(command: Command) -> None:
    result = command("check")
    assert result.exit_code == 0, result.output
    assert re.search(r"^seccomp +active", result.stdout, re.MULTILINE)
    assert re.search(r"^opens a socket +refused", result.stdout, re.MULTILINE)
    assert json.loads(command("check", "--json").stdout)["enough"]


def test_check_ends_with_2_and_a_remedy_where_there_is_too_little() -> None:
    program = on_kernel("no landlock", "from search.cli import main\nmain(['check'])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.returncode == 2
    assert re.search(r"^reads others' files +not refused", done.stdout, re.MULTILINE)
    assert re.search(r"^landlock +missing +the kernel has none; boot Linux 5.13", done.stdout, re.MULTILINE)
    assert done.stderr.startswith("merge-search: foreign code is not executed here: this system lacks bubblewrap (")
    assert "--security-opt seccomp=unconfined" in done.stderr


def refused(result: Result, *words: str) -> None:
    """Check that a command ended with one message that holds these words, and nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("merge-search: ")
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout
    for word in words:
        assert word in result.stderr


def average(family: Family, folder: Path) -> Path:
    """Write a recipe of the mean of the two fine-tunes, and return its file."""
    recipe = folder / "linear.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {family.a}, parameters: {{weight: 1}}}}, "
        f"{{model: {family.b}, parameters: {{weight: 1}}}}]\n"
    )
    return recipe


def replaced(before: str, after: str) -> Callable[[Family], None]:
    def change(family: Family) -> None:
        file = family.folder / "search.yaml"
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after, 1))

    return change


def method(text: str) -> Callable[[Family], None]:
    def change(family: Family) -> None:
        family.write(recipe="\n" + text)

    return change


def cut(family: Family) -> None:
    file = family.a / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garbled(family: Family) -> None:
    file = family.a / "model.safetensors"
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])


def without_a_tensor(family: Family) -> None:
    file = family.b / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def other_model(**options: object) -> Callable[[Family], None]:
    def change(family: Family) -> None:
        shutil.rmtree(family.b)
        save_tiny_model(family.b, TinyModel(seed=2, **options))  # type: ignore[arg-type]

    return change


def problems(change_line: Callable[[str], str]) -> Callable[[Family], None]:
    def change(family: Family) -> None:
        lines = family.problems.read_text().splitlines()
        lines[6] = change_line(lines[6])
        family.problems.write_text("\n".join(lines) + "\n")

    return change


SLERP = """  merge_method: slerp
  base_model: base
  models: [{model: base}, {model: a}, {model: b}]
  parameters: {t: {low: 0, high: 1}}"""

BAD: dict[str, tuple[Callable[[Family], None], tuple[str, ...]]] = {
    "unknown key": (
        replaced("search: {", "search: {trails: 3, "),
        ("search.yaml: search.trails: unknown key", "'trials'"),
    ),
    "unknown key of the recipe": (
        replaced("merge_method: ties", "merge_method: ties\n  basemodel: x"),
        ("search.yaml: recipe.basemodel: unknown key", "'base_model'"),
    ),
    "wrong type": (replaced("trials: 3", "trials: [3]"), ("search.yaml: search.trials: ", "[3]")),
    "wrong type in the recipe": (
        replaced("weight: 1.0", "weight: heavy"),
        ("search.yaml: recipe.models[0].parameters.weight: ", "'heavy'"),
    ),
    "low above high": (
        replaced("low: 0.2, high: 1.0", "low: 1.0, high: 0.2"),
        ("search.yaml: recipe.models[0].parameters.density: low (1) is above high (0.2)",),
    ),
    "one knot": (
        replaced("knots: 2", "knots: 1"),
        ("search.yaml: recipe.models[0].parameters.density.knots: ", "got 1"),
    ),
    "min and max": (
        replaced("{low: 0.0, high: 1.0}", "{min: 0.0, max: 1.0}"),
        ("search.yaml: recipe.models[1].parameters.weight.min: unknown key of a range; did you mean 'low'?",),
    ),
    "upper for high": (
        replaced("{low: 0.0, high: 1.0}", "{low: 0.0, upper: 1.0}"),
        ("search.yaml: recipe.models[1].parameters.weight.upper: unknown key of a range; did you mean 'high'?",),
    ),
    "options for choices in a filter": (
        replaced("weight: {low: 0.0, high: 1.0}", "weight: {filter: mlp, value: {options: [0.1, 0.2]}}"),
        ("search.yaml: recipe.models[1].parameters.weight.value.options: unknown key of a range", "'choices'"),
    ),
    "a layer range of from and to": (
        method("  merge_method: passthrough\n  slices: [{sources: [{model: a, layer_range: {from: 0, to: 2}}]}]"),
        ("search.yaml: recipe.slices[0].sources[0].layer_range.from: unknown key of a range", "'low'"),
    ),
    "unknown method": (
        replaced("merge_method: ties", "merge_method: tie"),
        ("search.yaml: recipe.merge_method: unknown method 'tie'", "did you mean 'ties'"),
    ),
    "missing required parameter": (
        method("  merge_method: linear\n  models: [{model: a, parameters: {weight: {low: 0, high: 1}}}, {model: b}]"),
        ("search.yaml: recipe.models[1].parameters.weight: linear needs the parameter 'weight'",),
    ),
    "no base model": (
        replaced("  base_model: base\n", ""),
        ("search.yaml: recipe.base_model: ties needs a base_model",),
    ),
    "slerp of three": (method(SLERP), ("search.yaml: recipe.models: slerp merges exactly 2 models, got 3",)),
    "no such model": (
        replaced("model: b\n", "model: ./nowhere\n"),
        ("search.yaml: recipe.models[1].model: model ./nowhere: no such folder",),
    ),
    "no such adapter": (
        replaced("model: b\n", "model: b+nowhere\n"),
        ("search.yaml: recipe.models[1].model: model nowhere: no such folder",),
    ),
    "no such tokenizer of the prompt": (
        replaced("workers: 1", "workers: 1, prompt: {tokenizer: nowhere}"),
        ("search.yaml: evaluation.prompt.tokenizer: model nowhere: no such folder",),
    ),
    "no tokenizer of the prompt": (
        replaced("workers: 1", "workers: 1, prompt: {tokenizer: .}"),
        ("search.yaml: evaluation.prompt.tokenizer: ", "has no tokenizer"),
    ),
    "problems that are a folder": (
        replaced("problems.jsonl", "a"),
        ("problems ", "/a: datasets cannot load it"),
    ),
    "truncated weights": (cut, ("a/model.safetensors: is not a complete safetensors file",)),
    "corrupted weights": (garbled, ("a/model.safetensors: is not a complete safetensors file",)),
    "missing tensor": (without_a_tensor, ("/b: ", "model.norm.weight")),
    "other shapes": (other_model(hidden=64), ("/b: ", "model.embed_tokens.weight", "[262, 64]", "[262, 32]")),
    "other depth": (other_model(layers=2), ("/b", "layers")),
    "other architecture": (other_model(architecture="qwen2"), ("/b: ", "qwen2", "llama")),
    "no problem file": (
        replaced("problems.jsonl", "nowhere.jsonl"),
        ("search.yaml: evaluation.problems: nowhere.jsonl: no such file",),
    ),
    "problem without a field": (
        problems(lambda line: line.replace('"entry_point"', '"entrypoint"')),
        ("problems.jsonl:7: field 'entry_point' is missing",),
    ),
    "broken line of a problem file": (problems(lambda line: line[:-1]), ("problems.jsonl:7: not valid JSON",)),
    "test of a problem that is not Python": (
        problems(lambda line: line.replace("def check(candidate)", "def check(")),
        ("problems.jsonl:7: field 'test' is not Python",),
    ),
    "prompt of a problem that is not Python": (
        problems(lambda line: line.replace('"prompt": "def ', '"prompt": "def (')),
        ("problems.jsonl:7: field 'prompt' does not begin a program",),
    ),
    "generation config of the base": (
        lambda family: (family.base / "generation_config.json").write_text("{") and None,
        ("/base/generation_config.json: cannot be used",),
    ),
    "another config": (replaced("high: 1.0", "high: 0.9"), ("run: was made by another config", "--fresh")),
    "no consent": (
        replaced("allow_code_execution: true", "allow_code_execution: false"),
        ("--allow-code-execution", "untrusted"),
    ),
}


@pytest.mark.parametrize("name", every(2, BAD))
def test_bad_input_is_named_and_leaves_the_results_as_they_were(
    command: Command, family: Family, finished: Path, tmp_path: Path, name: str
) -> None:
    spoil, words = BAD[name]
    shutil.copytree(finished, tmp_path / "run")
    was = fingerprint(tmp_path / "run")
    family.write()
    spoil(family)
    refused(command("run", family.folder / "search.yaml", "--out", tmp_path / "run"), *words)
    assert fingerprint(tmp_path / "run") == was
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    if name != "another config":
        refused(command("run", family.folder / "search.yaml", "--out", tmp_path / "run"), *words)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["leaderboard", "nowhere"], "nowhere: holds no search"),
        (["leaderboard", __file__], "test_cli.py: is a file; give a results folder, such as results/test_cli"),
        (["export", "nowhere", "--to", "out"], "nowhere: holds no search"),
        (["merge", "nowhere.yaml", "out"], "nowhere.yaml: cannot be read"),
        (["evaluate", "./nowhere"], "model ./nowhere: no such folder; give a folder, a hub id (owner/name) or a"),
        (["evaluate", ".", "here", "gone+away"], "models here, gone: no such folder; give a folder, a hub id"),
        (["evaluate", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["evaluate", "."], "--allow-code-execution"),
        (["score", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["score", os.devnull], f"{os.devnull}: holds no samples"),
    ],
)
def test_what_is_not_there_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command(*words), message)


def test_a_search_tells_of_a_missing_model_before_it_asks_for_consent(command: Command, family: Family) -> None:
    family.write()
    replaced("allow_code_execution: true", "allow_code_execution: false")(family)
    replaced("model: b\n", "model: ./nowhere\n")(family)
    refused(command("run", family.folder / "search.yaml"), "recipe.models[1].model: model ./nowhere: no such folder")


def test_what_needs_no_torch_does_not_wait_for_it(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("merge_method: linear\nmodel: []\n")
    commands = [
        ["run", "nowhere.yaml"],
        ["merge", "nowhere.yaml", "out"],
        ["merge", "bad.yaml", "out"],
        ["evaluate", "model"],
        ["evaluate", "model", "--problems", "nowhere.jsonl", "--allow-code-execution"],
        ["evaluate", "bad.yaml", "--allow-code-execution"],
        ["score", "nowhere.jsonl", "--allow-code-execution"],
        ["export", "nowhere", "--to", "out"],
        ["export", str(finished), "--trial", "99", "--to", "out"],
        ["leaderboard", str(finished)],
        ["list", str(finished)],
    ]
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from search.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = CliRunner().invoke(main, words).exit_code\n"
        "    print(code, sorted({'accelerate', 'datasets', 'torch'} & sys.modules.keys()), *words)"
    )
    words = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    codes = ["2"] * (len(commands) - 2) + ["0", "0"]
    assert done.stdout.splitlines() == [
        " ".join([code, "[]", *words]) for code, words in zip(codes, commands, strict=True)
    ]


@pytest.mark.sandbox
def test_a_run_in_json_lines_prints_nothing_else(
    command: Command, one_trial: tuple[SearchConfig, Path], shared_family: Family
) -> None:
    _, out = one_trial
    done = command("run", shared_family.write("finished.yaml"), "--out", out, "--trials", "2", "--log-json")
    assert (done.exit_code, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[0]["event"], events[0]["part"]) == ("begin", "starting")
    [scored] = [each for each in events if each["event"] == "scored" and each["part"] == "search"]
    assert (scored["model"], scored["done"], scored["complete"], scored["workers"]) == ("trial 1", 2, 2, 1)
    assert scored["tokens_per_second"] > 0
    assert 0 < scored["acceptance"] <= 1
    phases = [each["phase"] for each in events if each["event"] == "phase" and each["model"] == "trial 1"]
    assert phases[:2] == ["merging", "evaluating"]
    end = events[-1]
    assert (end["event"], end["results"], end["ended"]) == ("end", str(out), "all trials are over")
    assert end["best"] == json.loads(command("leaderboard", out, "--json").stdout)["best"]


def test_quiet_prints_only_the_leaderboard(command: Command, finished: Path, shared_family: Family) -> None:
    done = command("run", shared_family.write("finished.yaml"), "--out", finished, "--quiet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "a (best parent)" in done.stdout


@pytest.mark.parametrize("given", ["--log-json --quiet", "--log-json --dry-run", "--quiet --dry-run"])
def test_one_display_is_chosen(command: Command, tmp_path: Path, given: str) -> None:
    done = command("run", tmp_path / "none.yaml", *given.split())
    assert (done.exit_code, f"give {given.replace(' ', ' or ')}, not both" in done.stderr) == (2, True)


@pytest.mark.parametrize("value", ["soon", "0", "-1h"])
def test_a_timeout_that_is_none_is_refused(command: Command, family: Family, value: str) -> None:
    result = command("run", family.write(), "--timeout", value)
    assert result.exit_code == 2
    assert "8h, 1h30m, 90m or 45s" in result.stderr


@pytest.mark.sandbox
def test_a_run_ends_with_the_leaderboard_and_the_next_command(
    command: Command, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("run", family.write(), "--out", tmp_path / "my run", "--trials", "2")
    assert done.exit_code == 0, done.output
    assert "a (best parent)" in done.stdout
    assert "To continue" not in done.stdout
    assert f"\n  merge-search export '{tmp_path}/my run' --to 'my run-merged'" in done.stdout
    assert "\nended: all trials are over\n" in done.stdout
    lines = done.stderr.splitlines()
    progress = lines["works without bubblewrap" in lines[0] :]  # not every machine has one
    assert progress[0].startswith("parents 1/4: a  ")
    assert progress[4].startswith("8 report problems prove, in 8 of 10 searches, a merge that solves ")
    assert "search 2/2: trial 1" in done.stderr
    assert "best parent" in progress[6]
    assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []
    program, *words = shlex.split(done.stdout.splitlines()[-1])
    assert program == "merge-search"
    assert command(*words).exit_code == 0
    assert (tmp_path / "my run-merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_suggested_command_works_where_a_folder_begins_with_a_dash(
    command: Command, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = family.write()
    monkeypatch.chdir(tmp_path)
    done = command("run", config, "--out", "-dash", "--trials", "1")
    assert done.exit_code == 0, done.output
    _, *words = shlex.split(done.stdout.splitlines()[-1])
    assert command(*words).exit_code == 0
    assert (tmp_path / "-dash-merged" / "model.safetensors").is_file()


def test_the_leaderboard_is_json_and_csv_for_programs(command: Command, finished: Path) -> None:
    board = json.loads(command("leaderboard", finished, "--json").stdout)
    assert board["best"] in [row["trial"] for row in board["rows"] if row["kind"] == "trial"]
    rows = list(csv.DictReader(io.StringIO(command("leaderboard", finished, "--csv", "--top", "1").stdout)))
    assert [row["trial"] for row in rows if row["kind"] == "trial"] == [str(board["best"])]
    assert command("leaderboard", finished, "--csv", "--json").exit_code == 2


def test_trials_are_written_for_optuna_on_request(command: Command, finished: Path, tmp_path: Path) -> None:
    assert command("leaderboard", finished, "--optuna", tmp_path / "optuna.db").exit_code == 0
    study = optuna.load_study(study_name="finished", storage=f"sqlite:///{tmp_path}/optuna.db")
    rows = {row.record.number: row for row in Leaderboard.open(finished).rows if row.record.kind == "trial"}
    assert {trial.number: (trial.value, trial.params) for trial in study.trials} == {
        number: (row.record.search.score, row.record.parameters) for number, row in rows.items()
    }


@pytest.mark.sandbox
def test_a_plain_evaluation_gives_what_the_search_found(command: Command, family: Family, finished: Path) -> None:
    options = ["--problems", family.problems, "--max-new-tokens", "12", "--allow-code-execution"]
    with executed_anew():
        found = json.loads(command("evaluate", family.a, *options, "--json").stdout)
    assert found["pass@1"] == sum(problem["passed"] for problem in found["problems"].values()) / 16
    written = [json.loads(line) for line in (finished / "completions" / "parent-0.jsonl").read_text().splitlines()]
    assert {line["task_id"]: line["completion"] for line in written} == {
        line["task_id"]: found["problems"][line["task_id"]]["completion"] for line in written
    }
    plain = command("evaluate", family.a, *options)
    assert f"pass@1 {found['pass@1']:.1%}" in plain.stdout
    assert "Loading" not in plain.stderr


def test_a_model_that_lacks_a_tensor_is_not_scored_with_random_numbers(command: Command, family: Family) -> None:
    without_a_tensor(family)
    words = ["evaluate", family.b, "--problems", family.problems, "--allow-code-execution"]
    refused(command(*words), f"model {family.b}: has no tensor model.norm.weight")


@pytest.mark.parametrize(
    ("dtype", "rows_in_float32", "expected"),
    [("recipe", 82, "own"), ("auto", 82, "float32"), ("auto", 3, "own"), ("float32", 3, "float32")],
)
def test_an_evaluation_has_the_room_of_the_dtype_that_it_may_compute_in(
    dtype: str, rows_in_float32: int, expected: str, command: Command, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, wide = (MemoryPlan((), (), rows, Room(cache_bytes=rows), "model", 0, 0) for rows in (82, rows_in_float32))
    rooms: list[Room] = []

    def made(*_: object, room: Room, **__: object) -> None:
        rooms.append(room)
        raise EvaluationError("no more is wanted")

    monkeypatch.setattr("search.candidates.plans_of_evaluation", lambda *_: (own, wide))
    monkeypatch.setattr("evaluation.Evaluator", made)
    options = ["--problems", family.problems, "--device", "cpu", "--allow-code-execution"]
    command("evaluate", family.a, *options, "--compute-dtype", dtype)
    (room,) = rooms
    assert room is {"own": own, "float32": wide}[expected].room


@pytest.mark.slow
def test_a_merge_is_evaluated_without_being_written(command: Command, family: Family, tmp_path: Path) -> None:
    recipe = average(family, tmp_path)
    options = ["--problems", family.problems, "--max-new-tokens", "12", "--allow-code-execution", "--json"]
    live = json.loads(command("evaluate", recipe, *options).stdout)
    assert command("merge", recipe, tmp_path / "merged").exit_code == 0
    written = json.loads(command("evaluate", tmp_path / "merged", *options).stdout)
    assert live["problems"] == written["problems"]
    spread = json.loads(command("evaluate", tmp_path / "merged", *options, "--device-map", "auto").stdout)
    assert spread["problems"] == written["problems"]


@pytest.mark.slow
def test_a_pickle_is_merged_and_evaluated_behind_the_switch_that_mergekit_has(
    command: Command, family: Family, tmp_path: Path
) -> None:
    recipe = average(family, tmp_path)
    assert command("merge", recipe, tmp_path / "expected").exit_code == 0
    torch.save(load_file(family.a / "model.safetensors"), family.a / "pytorch_model.bin")
    (family.a / "model.safetensors").unlink()
    refused(command("merge", recipe, tmp_path / "merged"), "pass --lazy-unpickle", str(family.a))
    for words in (["merge", recipe, tmp_path / "merged", "--low-cpu-memory"], ["merge", recipe, "x", "--dry-run"]):
        assert command(*words, "--lazy-unpickle").exit_code == 0
    merged, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "expected"))
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    options = ["--problems", family.problems, "--max-new-tokens", "2", "--allow-code-execution"]
    refused(command("evaluate", family.a, *options), "pass --lazy-unpickle")
    assert command("evaluate", family.a, *options, "--lazy-unpickle").exit_code == 0


def test_a_dry_run_writes_nothing(command: Command, family: Family, tmp_path: Path) -> None:
    done = command("run", family.write(), "--out", tmp_path / "run", "--dry-run")
    assert done.exit_code == 0, done.output
    assert re.search(r"^a +density +0\.2 to 1 +2 +models\[0\]\.parameters\.density$", done.stdout, re.MULTILINE)
    assert "ties of a, b onto base: normalize true" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.sandbox
def test_completions_from_anywhere_are_scored_in_the_order_of_the_lines(
    command: Command, family: Family, tmp_path: Path
) -> None:
    samples = [
        ("two/beta", ""),
        ("one/alpha", "\n    return 0"),
        ("two/beta", "\nraise ValueError('x')"),
        ("one/rho", ""),
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps({"task_id": task, "completion": text}) + "\n" for task, text in samples))
    words = ["score", file, "--problems", family.problems, "--allow-code-execution"]
    scored = json.loads(command(*words, "--json").stdout)
    assert [verdict["task_id"] for verdict in scored["verdicts"]] == [task for task, _ in samples]
    assert [verdict["passed"] for verdict in scored["verdicts"]] == [True, True, False, True]
    assert scored["verdicts"][2].keys() == {"task_id", "passed", "status", "detail"}
    assert scored["verdicts"][2]["status"] == "failed"
    assert scored["pass@1"] == pytest.approx((1 + 0.5 + 1) / 3)
    low, high = scored["interval"]
    assert 0 < low < scored["pass@1"] <= high <= 1
    interval = f"(95% interval {low:.1%} to {high:.1%})"
    assert command(*words).stdout.endswith(f"pass@1 83.3% {interval} over 3 problems\n")


@pytest.mark.slow
def test_completions_of_a_trial_can_be_scored_again(
    command: Command, family: Family, finished: Path, tmp_path: Path
) -> None:
    file = finished / "completions" / "trial-0.jsonl"
    few = tmp_path / "few.jsonl"
    few.write_text(file.read_text().splitlines(keepends=True)[0])
    told = command("score", few, "--problems", family.problems, "--allow-code-execution").stderr
    assert f"{few}: 15 of 16 problems have no completion and do not count: " in told
    words = ["score", file, "--problems", family.problems, "--allow-code-execution", "--json"]
    with executed_anew():
        again = json.loads(command(*words).stdout)
    assert [verdict["status"] for verdict in again["verdicts"]] == [
        json.loads(line)["status"] for line in file.read_text().splitlines()
    ]


@pytest.mark.parametrize("program", ["merge", "evaluate"])
def test_what_belongs_to_a_search_is_not_merged(command: Command, family: Family, tmp_path: Path, program: str) -> None:
    model = "{model: a, parameters: {weight: {low: 0, high: 1}}}"
    texts = {
        "range.yaml": (f"merge_method: linear\nmodels: [{model}]\n", "models[0].parameters.weight: is a range"),
        "choices.yaml": ("merge_method: {choices: [ties, linear]}\nmodels: []\n", "merge_method: is a range"),
        "config.yaml": (family.config(), "is the config of a search; `merge-search run"),
        "filter.yaml": ("merge_method: linear\nmodels: [{model: a, parameters: {weight: {lo: 0}}}]\n", "unknown key"),
        "empty.yaml": ("", "expected a recipe (a mapping with 'merge_method'), got nothing"),
    }
    for name, (text, message) in texts.items():
        file = tmp_path / name
        file.write_text(text)
        more = [tmp_path / "out"] if program == "merge" else ["--allow-code-execution"]
        refused(command(program, file, *more), f"{file}: ", message)


def test_a_config_that_holds_nothing_is_told_in_words(command: Command, family: Family) -> None:
    file = family.folder / "search.yaml"
    for text, message in (
        ("", ": expected a mapping with the keys recipe, evaluation, search; got nothing"),
        ("recipe: {}\nevaluation:\n", ": evaluation: expected a mapping, got nothing"),
        ("recipe: {}\nsearch: {seed: x}\n", ": search.seed: expected a whole number, got 'x'"),
        ("recipe: {}\nsearch: {trials: 0}\n", ": search.trials: expected a number above 0, got 0"),
        ("recipe: {}\nmerging: {lazy_unpickle: 3}\n", ": merging.lazy_unpickle: expected true or false, got 3"),
        ("recipe: &a {b: *a}\n", ": is not valid YAML: an alias (*name) is inside the value that it names"),
    ):
        file.write_text(text)
        refused(command("run", file), f"{file}{message}")


def test_an_output_that_cannot_be_written_is_one_message(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/full")
    for options in ([], ["--json"], ["--csv"]):
        with running(tmp_path, "leaderboard", finished, *options) as process:
            assert process.wait() == 2
        assert process.errors == "merge-search: the output cannot be written: No space left on device\n"
        (tmp_path / "stderr").unlink()


def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "search", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: merge-search [OPTIONS] COMMAND")


@pytest.mark.slow
def test_samples_are_drawn_and_tries_are_counted(command: Command, family: Family) -> None:
    few = family.folder / "few.jsonl"
    few.write_text("".join(family.problems.read_text().splitlines(keepends=True)[:4]))
    options = ["--problems", few, "--max-new-tokens", "12", "--allow-code-execution"]
    drawn = ["--samples", "10", "--temperature", "0.8", "--top-p", "0.95"]
    found = json.loads(command("evaluate", family.a, *options, *drawn, "--json").stdout)
    assert 0 <= found["pass@1"] <= found["pass@10"] <= 1
    assert {len(problem["samples"]) for problem in found["problems"].values()} == {10}
    same = command("evaluate", family.a, *options, "--samples", "10")
    refused(same, "--samples 10: all samples are the same at temperature 0")
    refused(command("evaluate", family.a, *options, "--temperature", "1", "--top-p", "0"), "--top-p 0.0")


@pytest.mark.slow
def test_several_sets_are_scored_together(command: Command, family: Family, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(family.problems.read_text().splitlines()[0] + "\n")
    options = ["--problems", family.problems, "--problems", other, "--max-new-tokens", "12", "--allow-code-execution"]
    found = json.loads(command("evaluate", family.a, *options, "--json").stdout)
    assert found["scores"].keys() == {"problems.jsonl", "other.jsonl"}
    assert found["pass@1"] == pytest.approx(sum(found["scores"].values()) / 2)
    assert "\nother.jsonl: pass@1 " in command("evaluate", family.a, *options).stdout


@pytest.mark.slow
def test_every_prompt_format_is_compared_under_every_parents_tokenizer(
    command: Command, family: Family, tmp_path: Path
) -> None:
    recipe = average(family, tmp_path)
    file = Path(family.b) / "tokenizer_config.json"
    config = json.loads(file.read_text())
    template = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}<answer>"
    file.write_text(json.dumps(config | {"chat_template": template}))
    (Path(family.b) / "chat_template.jinja").unlink(missing_ok=True)
    options = ["--problems", family.problems, "--max-new-tokens", "12", "--allow-code-execution"]
    rows = json.loads(command("evaluate", recipe, *options, "--prompt-formats", "all", "--json").stdout)
    assert [(row["prompt"], Path(row["tokenizer"]).name) for row in rows] == [
        (prompt, name) for prompt in ("completion", "chat") for name in ("the merge", "a", "b")
    ]
    scored = {(row["prompt"], Path(row["tokenizer"]).name) for row in rows if "pass@1" in row}
    assert ("completion", "the merge") in scored
    assert ("chat", "b") in scored
    assert all(row["note"] for row in rows if "pass@1" not in row)
    shown = command("evaluate", recipe, *options, "--prompt-formats", "all").stdout
    assert "the same prompts as completion, the merge" in shown


def test_two_trials_or_reports_are_compared_problem_by_problem(
    command: Command, family: Family, finished: Path, tmp_path: Path
) -> None:
    board = {row["name"]: row for row in json.loads(command("leaderboard", finished, "--json").stdout)["rows"]}
    best_parent = next(row for row in board.values() if row["kind"] == "parent" and row["won"] == row["lost"] == 0)
    other = next(row for row in board.values() if row["report_score"] is not None and row["won"] + row["lost"])
    words = f"{finished}:{other['trial'] or other['name']}", f"{finished}:{Path(best_parent['name']).name}"
    found = json.loads(command("compare", *words, "--json").stdout)
    assert found["split"] == "report"
    assert (len(found["won"]), len(found["lost"])) == (other["won"], other["lost"])
    assert found["p_value"] == pytest.approx(other["p_value"])
    assert found["pass@1"][0] == pytest.approx(other["report_score"])
    assert found["intervals"][0] == pytest.approx(other["report_interval"])
    shown = command("compare", *words).stdout
    assert f"won {other['won']}" in shown
    assert "exact McNemar test: p = " in shown
    assert f"{words[1]}  pass@1" in shown

    options = ["--problems", family.problems, "--max-new-tokens", "12", "--allow-code-execution", "--json"]
    report = tmp_path / "a.json"
    report.write_text(command("evaluate", family.a, *options).stdout)
    same = json.loads(command("compare", report, f"{finished}:a", "--json").stdout)
    assert (same["problems"], same["won"], same["lost"], same["p_value"]) == (16, [], [], 1.0)


def test_what_cannot_be_compared_is_named(command: Command, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "empty.json").write_text('{"problems": {}}')
    refused(command("compare", "nowhere", "nowhere"), "nowhere: no such file; give a report")
    refused(command("compare", finished, f"{finished}:a"), f"{finished}: is a folder; give a report")
    refused(command("compare", tmp_path / "bad.json", f"{finished}:a"), "bad.json: holds no report")
    refused(
        command("compare", f"{finished}:99", f"{finished}:a"),
        ": has no trial or parent 99; the last trial that is over is 2; the parents are ",
    )
    refused(command("compare", tmp_path / "empty.json", f"{finished}:a"), "have no problem in common")


@pytest.mark.slow
def test_models_with_colons_in_their_names_are_compared(command: Command, family: Family, tmp_path: Path) -> None:
    family.b.rename(family.folder / "b:1")
    text = family.config(evaluation=NO_REPORT).replace("model: b\n", "model: b:1\n")
    run_search(SearchConfig.parse(text, folder=family.folder), tmp_path / "x:y", trials=0)
    shown = command("compare", f"{tmp_path / 'x:y'}:b:1", f"{tmp_path / 'x:y'}:a")
    assert shown.exit_code == 0, shown.stderr
    assert f"{tmp_path / 'x:y'}:b:1  pass@1" in shown.stdout


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]])
def test_help_that_cannot_be_written_is_said_in_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "search", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the output cannot be written: No space left on device" in done.stderr
