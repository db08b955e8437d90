"""`merge-search check CONFIG`: the exit code, what is printed, and the command that it ends with."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.search.conftest import Command
from tests.search.family import Family


@pytest.mark.sandbox
def test_all_green_ends_with_the_command_to_run(shared_family: Family, command: Command) -> None:
    config = shared_family.write("night.yaml", evaluation=", report_fraction: 0.75")
    words = [config, "--out", shared_family.folder / "night", "--device", "cpu"]
    done = command("check", *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[-1] == f"All green: merge-search run {' '.join(map(str, words))}"
    assert {"memory, in GB", "free now"} <= {line.partition("  ")[0] for line in lines}
    assert not (shared_family.folder / "night").exists()


def test_a_problem_is_told_to_people_and_to_programs(family: Family, command: Command) -> None:
    text = family.config().replace("model: b\n", "model: nowhere\n").replace(", allow_code_execution: true", "")
    config = family.folder / "broken.yaml"
    config.write_text(text)
    done = command("check", config)
    assert done.exit_code == 2
    assert done.stdout.splitlines()[-1] == "Not ready: 1 problem (parents); fix what is listed above"
    done = command("check", config, "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)
    assert (told["ready"], told["memory"]) == (False, None)
    assert told["command"] == f"merge-search run {config} --allow-code-execution"
    assert [each["what"] for each in told["findings"] if each["level"] == "problem"] == ["parents"]


def test_of_a_search_that_has_ended_it_says_what_goes_on(
    shared_family: Family, finished: Path, command: Command
) -> None:
    config = shared_family.folder / "finished.yaml"
    told = json.loads(command("check", config, "--out", finished, "--json").stdout)
    assert (told["ready"], told["ended"]) == (True, "all trials are over")
    done = command("check", config, "--out", finished)
    assert done.exit_code == 0, done.output
    run = f"merge-search run {config} --out {finished}"
    assert done.stdout.splitlines()[-5:] == [
        f"The search in {finished} has ended: all trials are over. What you can do now:",
        f"  its results:  merge-search leaderboard {finished}",
        f"  a model:      merge-search export {finished} --to finished-merged",
        f"  more trials:  {run} --trials 6",
        f"  start over:   {run} --fresh",
    ]
    assert "All green" not in done.stdout


def test_a_search_whose_report_is_left_has_not_ended(
    shared_family: Family, finished: Path, command: Command, tmp_path: Path
) -> None:
    unreported = Path(shutil.copytree(finished, tmp_path / "unreported"))
    with contextlib.closing(sqlite3.connect(unreported / "search.db")) as database, database:
        database.execute("DELETE FROM scorings WHERE split = 'report'")
    config = shared_family.folder / "finished.yaml"
    told = json.loads(command("check", config, "--out", unreported, "--json").stdout)
    assert told["ended"] == ""
    assert told["findings"][0]["detail"].endswith("the results of 3 trials; a run continues it")


def test_a_search_that_a_rule_has_ended_needs_another_rule_to_go_on(
    shared_family: Family, finished: Path, command: Command
) -> None:
    text = shared_family.config().replace("search: {", "search: {stop: {target: 0.01}, ", 1)
    (config := shared_family.folder / "target.yaml").write_text(text)
    more = f"  more trials:  let search.stop in {config} end it later, and merge-search run {config} --out {finished}"
    assert f"{more} --trials 6\n" in command("check", config, "--out", finished).stdout
    config.write_text(text.replace("trials: 3", "trials: 9"))
    assert f"{more}\n" in command("check", config, "--out", finished).stdout


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_run(
    shared_family: Family, command: Command
) -> None:
    done = command("check", shared_family.write("night.yaml"), "--out", "/proc/night", "--probe", "--json")
    assert done.exit_code == 2
    told = {each["what"]: each for each in json.loads(done.stdout)["findings"]}
    assert told["results"]["level"] == "problem"
    assert told["results"]["detail"].startswith("/proc/night: cannot be written: ")
    assert told["not checked"]["detail"].startswith("probe: ")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_a_backend_that_is_missing_is_told_by_its_key_by_check_and_run(
    family: Family, command: Command, tmp_path: Path
) -> None:
    config, out = family.write("night.yaml", evaluation=", backend: vllm"), tmp_path / "run"
    told = "evaluation.backend: backend vllm is not installed; pip install 'merge-search[vllm]'"
    done = command("check", config, "--out", out, "--probe", "--json")
    assert done.exit_code == 2
    found = {each["what"]: each for each in json.loads(done.stdout)["findings"]}
    assert (found["backend"]["level"], found["memory"]["level"]) == ("problem", "ok")
    assert found["backend"]["detail"].startswith(told)
    assert found["not checked"]["detail"].startswith("probe: ")
    done = command("run", config, "--out", out)
    assert done.stderr.splitlines()[-1].startswith(f"merge-search: {config}: {told}")
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_probe_says_how_many_trials_the_night_has_time_for(shared_family: Family, command: Command) -> None:
    done = command("check", shared_family.write("night.yaml"), "--probe", "--json")
    assert done.exit_code == 0, done.output
    probed = [each["detail"] for each in json.loads(done.stdout)["findings"] if each["what"] == "probe"]
    assert [each.partition(" ")[0] for each in probed] == ["a", "3", "until"]


def test_what_makes_no_sense_is_refused(shared_family: Family, command: Command) -> None:
    done = command("check", "--probe")
    assert done.exit_code == 2
    assert "--probe needs a config" in done.stderr
    config = shared_family.folder / "no-consent.yaml"
    config.write_text(shared_family.config().replace(", allow_code_execution: true", ""))
    done = command("check", config, "--probe")
    assert done.exit_code == 2
    assert "--allow-code-execution" in done.stderr
