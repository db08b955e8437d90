"""Workers may be stopped and killed at any time, and work side by side."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from merging import Merger
from search import Leaderboard, SearchConfig, SearchError, run_search
from search.results import ResultsFolder
from search.run.trial import Bench
from tests.search.family import Family
from tests.search.jobs import forget_reports
from tests.search.processes import running

# The models that a search of the family begins with.
REFERENCES = 4


def scored(out: Path) -> dict[str, float | None]:
    """Return the scores of a search that may be running, by trial."""
    try:
        return {row.name: row.record.search.score for row in Leaderboard.open(out).rows}
    except SearchError:
        return {}


@pytest.mark.slow
def test_the_first_signal_lets_the_trial_finish(one_trial: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    config = one_trial[0].source
    one_trial[1].rename(tmp_path / "my run")
    words = ["run", config, "--out", tmp_path / "my run", "--trials", "1000"]
    with running(tmp_path, *words, held_at=(Bench.score, 0)) as command:
        command.until_held()
        command.send(signal.SIGINT)
        command.until_told("stopping when this trial is done")
        command.release()
        assert command.wait() == 0
    ended = len(scored(tmp_path / "my run")) - REFERENCES
    assert ended == 2
    again = f"merge-search run {config} --out '{tmp_path}/my run' --trials 1000"
    assert f"{ended} of 1000 trials are over. To continue:\n  {again}\n" in command.output
    assert f"merge-search export '{tmp_path}/my run' --to 'my run-merged'" in command.output
    resumed = run_search(one_trial[0], tmp_path / "my run", trials=ended + 1)
    assert sorted(row.record.number for row in resumed.rows if row.record.kind == "trial") == list(range(ended + 1))


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("held_at", [(Merger.apply, 1), (LlamaForCausalLM.forward, 9)], ids=["merging", "generating"])
def test_the_second_signal_stops_at_once_and_the_trial_is_run_again(
    family: Family, tmp_path: Path, held_at: tuple[Callable[..., object], int]
) -> None:
    config = family.write()
    with running(tmp_path, "run", config, "--out", tmp_path / "run", held_at=held_at) as command:
        command.until_held()
        command.send(signal.SIGTERM)
        command.until_told("stopping when this trial is done; once more")
        command.send(signal.SIGINT)
        assert command.wait() == 130  # of a trial that never ends
    assert "stopped" in command.errors
    assert f"To continue:\n  merge-search run {config} --out {tmp_path}/run\n" in command.errors
    assert "Traceback" not in command.errors + command.output
    assert not list((tmp_path / "run" / ".workers").iterdir())
    begun = [record.search for record in ResultsFolder.open(tmp_path / "run").read()[1] if record.search.started]
    # A worker that died would be counted against it.
    assert [scoring.tries for scoring in begun if scoring.state != "complete"] == [()]


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_killed_worker_loses_no_scored_trial(one_trial: tuple[SearchConfig, Path], tmp_path: Path) -> None:
    config, out = one_trial
    with running(tmp_path, "run", config.source, "--out", out, "--trials", "1000") as command:
        command.until(lambda: len(scored(out)) >= 6)
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
    before = scored(out)
    total = len(before) - REFERENCES + 1
    board = run_search(config, out, trials=total)
    after = {row.name: row.record.search.score for row in board.rows}
    assert {number: after[number] for number in before} == before
    assert len(after) == REFERENCES + total
    assert len({str(row.record.recipe) for row in board.rows}) == len(board.rows)
    assert board.best is not None


@pytest.mark.slow
def test_two_workers_share_a_folder(family: Family, tmp_path: Path) -> None:
    config, out = family.write(), tmp_path / "run"

    def at_work() -> set[str]:
        text = (out / "worker.log").read_text() if (out / "worker.log").exists() else ""
        return set(re.findall(r"(\d+) INFO trial", text))

    words = ["run", str(config), "--out", str(out), "--trials", "1000"]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with running(tmp_path / "one", *words) as one, running(tmp_path / "other", *words) as other:
        one.until(lambda: len(at_work()) == 2 and len(scored(out)) >= 6)
        for command in (one, other):
            command.send(signal.SIGINT)
        assert [one.wait(), other.wait()] == [0, 0], one.errors + other.errors
    assert "damaged" not in (out / "worker.log").read_text()
    board = Leaderboard.open(out)
    assert sorted(row.record.number for row in board.rows if row.record.kind == "trial") == list(
        range(len(board.rows) - REFERENCES)
    )
    assert [row.record.kind for row in board.rows].count("trial") == len(board.rows) - 4
    assert all(row.record.search.state == "complete" for row in board.rows)
    assert len({str(row.record.recipe) for row in board.rows}) == len(board.rows)


@pytest.mark.slow
def test_the_trial_of_a_worker_that_was_killed_is_run_once_more_by_the_other(
    one_trial: tuple[SearchConfig, Path], tmp_path: Path
) -> None:
    (config, out), total = one_trial, 4
    words = ["run", config.source, "--out", str(out), "--trials", str(total)]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with running(tmp_path / "one", *words, held_at=(Bench.score, 0)) as one:
        one.until_held()
        with running(tmp_path / "other", *words, held_at=(Bench.score, 1)) as other:
            other.until_held()
            one.send(signal.SIGKILL)
            assert one.wait() == -signal.SIGKILL
            other.release()
            assert other.wait() == 0, other.errors
    board = Leaderboard.open(out)
    assert [row.record.search.state for row in board.rows] == ["complete"] * (REFERENCES + total)
    assert len({str(row.record.recipe) for row in board.rows}) == len(board.rows)
    assert sorted(row.record.number for row in board.rows if row.record.kind == "trial") == list(range(total))


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_fails_and_the_search_ends(
    one_trial: tuple[SearchConfig, Path], tmp_path: Path
) -> None:
    config, out = one_trial
    words = ["run", config.source, "--out", out, "--trials", "3"]
    for call in (0, 1):  # the second time after the other one, which is scored
        with running(tmp_path, *words, held_at=(Bench.score, call)) as command:
            command.until_held()
            command.send(signal.SIGKILL)
            assert command.wait() == -signal.SIGKILL
            command.release()
    board = run_search(config, out, trials=3)
    trials = {row.record.number: row.record.search.state for row in board.rows if row.record.kind == "trial"}
    assert trials == {0: "complete", 1: "failed", 2: "complete"}
    assert "run 2 times and never finished (its worker died; its worker died)" in (
        board.rows[-1].record.search.error or ""
    )
    assert board.unfinished == ""


@pytest.mark.slow
def test_a_full_disk_ends_the_search_with_what_to_do_and_keeps_what_was_scored(
    one_trial: tuple[SearchConfig, Path], tmp_path: Path
) -> None:
    config, out = one_trial
    first = Leaderboard.open(out)
    # No file may grow beyond the size that the database has.
    limit = (out / "search.db").stat().st_size
    with running(tmp_path, "run", config.source, "--out", out, "--trials", "200", file_limit=limit) as command:
        assert command.wait() == 2, command.errors
    assert "Traceback" not in command.errors
    assert re.search(r"merge-search: .*search\.db: .*make room .* run the same command again", command.errors)
    kept = scored(out)
    assert {row.name: row.record.search.score for row in first.rows}.items() <= kept.items()
    resumed = run_search(config, out, trials=len(kept) - 4 + 1)
    assert kept.items() <= {row.name: row.record.search.score for row in resumed.rows}.items()


@pytest.mark.slow
def test_completions_that_cannot_be_written_end_the_search_with_what_to_do(
    one_trial: tuple[SearchConfig, Path], tmp_path: Path
) -> None:
    config, out = one_trial
    first = Leaderboard.open(out)
    (out / "completions").chmod(0o555)
    with running(tmp_path, "run", config.source, "--out", out, heed_permissions=True) as command:
        assert command.wait() == 2, command.errors
    (out / "completions").chmod(0o755)
    assert "Traceback" not in command.errors
    assert re.search(r"merge-search: .*completions/trial-1\.jsonl: cannot be written: .*make room", command.errors)
    assert scored(out).keys() == {row.name for row in first.rows}
    assert run_search(config, out, trials=2).best is not None


@pytest.mark.slow
def test_a_search_that_is_stopped_at_the_report_split_says_so_and_how_to_go_on(
    finished: Path, shared_family: Family, tmp_path: Path
) -> None:
    config, out = shared_family.write("finished.yaml"), Path(shutil.copytree(finished, tmp_path / "run"))
    forget_reports(out)
    with running(tmp_path, "run", config, "--out", out, held_at=(Bench.weights_digest, 1)) as command:
        command.until_held()  # at the second model of the report split
        command.send(signal.SIGINT)
        command.until_told("stopping when this trial is done")
        command.release()
        assert command.wait() == 0
    left = sum(row.record.on("report").score is None for row in Leaderboard.open(out).top(2))
    assert left == 4
    again = f"merge-search run {config} --out {out}"
    expected = f"The report split is not finished: {left} models wait to be scored on it. To continue:\n  {again}\n"
    assert expected in command.output
    ended = run_search(SearchConfig.load(config), out)
    assert ended.unfinished == ""
    assert all(row.record.on("report").score is not None for row in ended.top(2))
