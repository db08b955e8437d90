"""Workers may be stopped and killed at any time, and work side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from search import Leaderboard, SearchConfig, SearchError, run_search
from tests.search.family import Family

PATIENCE_SECONDS = 120.0
# Completions of this length take a tiny model several seconds: there is time to interrupt them.
LONG = "max_new_tokens: 900"


@contextmanager
def worker(config: Path, out: Path, *options: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start `merge-search run` in a process of its own, after some Python."""
    code = f"{before}\nfrom search.cli import main\nmain()"
    words = [sys.executable, "-c", code, "run", str(config), "--out", str(out), *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], line: str) -> str:
    """Read the process's stderr until a line matches, and return it."""
    assert process.stderr
    for read in process.stderr:
        if re.search(line, read):
            return read
    raise AssertionError(f"ended without {line!r}")


def wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until something is so, as long as the process lives."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def scored(out: Path) -> dict[int, float | None]:
    """Return the scores of a search that may be running, by trial."""
    try:
        return {row.trial: row.search_score for row in Leaderboard.open(out).rows}
    except SearchError:
        return {}


def test_the_first_signal_lets_the_trial_finish(family: Family, tmp_path: Path) -> None:
    config = family.write()
    with worker(config, tmp_path / "my run", "--trials", "1000") as process:
        until(process, "search 2/1000: trial 5 ")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "stopping when this trial is done" in errors
    ended = len(scored(tmp_path / "my run")) - 4
    assert 2 <= ended < 20
    assert (
        f"{ended} of 1000 trials are over. To go on:\n  merge-search run {config} --out '{tmp_path}/my run'" in output
    )
    assert f"merge-search export '{tmp_path}/my run' --to 'my run-merged'" in output
    resumed = run_search(SearchConfig.load(config), tmp_path / "my run", trials=ended + 1)
    assert sorted(row.trial for row in resumed.rows) == list(range(ended + 5))


def test_the_second_signal_stops_at_once_and_the_trial_is_run_again(family: Family, tmp_path: Path) -> None:
    config = family.write()
    config.write_text(config.read_text().replace("max_new_tokens: 12", LONG))
    with worker(config, tmp_path / "run") as process:
        until(process, "parents 1/4: a ")
        process.send_signal(signal.SIGTERM)
        until(process, "stopping when this trial is done; once more")
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert time.monotonic() - sent < 5
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors + output
    assert not list((tmp_path / "run" / ".workers").iterdir())


def test_a_killed_worker_loses_no_scored_trial(family: Family, tmp_path: Path) -> None:
    config, out = family.write(), tmp_path / "run"
    with worker(config, out, "--trials", "1000") as process:
        wait(process, lambda: len(scored(out)) >= 6)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = scored(out)
    total = len(before) - 4 + 2
    board = run_search(SearchConfig.load(config), out, trials=total)
    after = {row.trial: row.search_score for row in board.rows}
    assert {number: after[number] for number in before} == before
    assert len(after) == 4 + total
    assert len({str(row.recipe) for row in board.rows}) == len(board.rows)
    assert board.best is not None


def test_two_workers_share_a_folder(family: Family, tmp_path: Path) -> None:
    config, out = family.write(), tmp_path / "run"

    def at_work() -> set[str]:
        lines = (out / "worker.log").read_text().splitlines() if (out / "worker.log").exists() else []
        return {line.split()[2] for line in lines}

    with worker(config, out, "--trials", "1000") as one, worker(config, out, "--trials", "1000") as other:
        wait(one, lambda: len(at_work()) == 2)
        for process in (one, other):
            process.send_signal(signal.SIGINT)
        results = [process.communicate(timeout=PATIENCE_SECONDS) for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], results
    board = Leaderboard.open(out)
    assert sorted(row.trial for row in board.rows) == list(range(len(board.rows)))
    assert [row.kind for row in board.rows].count("trial") == len(board.rows) - 4
    assert all(row.state == "complete" for row in board.rows)
    assert len({str(row.recipe) for row in board.rows}) == len(board.rows)


def test_a_full_disk_ends_the_search_with_what_to_do_and_keeps_what_was_scored(family: Family, tmp_path: Path) -> None:
    config, out = family.write(), tmp_path / "run"
    first = run_search(SearchConfig.load(config), out, trials=1)
    # No file may grow beyond the size that the database has.
    limit = (out / "study.db").stat().st_size
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    with worker(config, out, "--trials", "200", before=before) as process:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert re.search(r"merge-search: .*study\.db: .*make room .* run the same command again", errors)
    kept = scored(out)
    assert {row.trial: row.search_score for row in first.rows}.items() <= kept.items()
    resumed = run_search(SearchConfig.load(config), out, trials=len(kept) - 4 + 1)
    assert kept.items() <= {row.trial: row.search_score for row in resumed.rows}.items()
