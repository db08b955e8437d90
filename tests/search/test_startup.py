"""Start-up: streams that go away or were never there, and locales that know no UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search import SearchConfig
from tests.search.family import Family
from tests.search.jobs import forget_reports
from tests.search.processes import running

ROOT = Path(__file__).parents[2]
LEADERBOARD = [sys.executable, "-m", "search", "leaderboard"]


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program that has the command line's streams."""
    before = "from search.startup import secure_streams\nimport sys\n"
    return subprocess.run(
        [sys.executable, "-c", before + code], cwd=ROOT, text=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def test_a_stderr_that_cannot_be_written_ends_nothing_and_is_logged_once(tmp_path: Path) -> None:
    code = f"""
import logging
logging.basicConfig(filename={str(tmp_path / "log")!r})
secure_streams()
for number in range(1000):
    print(number, file=sys.stderr)
print("done")
"""
    with Path("/dev/full").open("w") as full:
        assert python(code, stdout=subprocess.PIPE, stderr=full).stdout == "done\n"
    log = (tmp_path / "log").read_text()
    assert log.count("stderr cannot be written (No space left on device)") == len(log.splitlines()) == 1


def test_a_stdout_for_events_that_cannot_be_written_ends_nothing_and_is_logged_once(tmp_path: Path) -> None:
    code = f"""
import logging
from search.startup import lasting_stdout
logging.basicConfig(filename={str(tmp_path / "log")!r})
secure_streams()
events = lasting_stdout()
for number in range(1000):
    print(number, file=events, flush=True)
print("done", file=sys.stderr)
"""
    with Path("/dev/full").open("w") as full:
        done = python(code, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "done\n")
    log = (tmp_path / "log").read_text()
    assert log.count("stdout cannot be written (No space left on device)") == len(log.splitlines()) == 1


@pytest.mark.parametrize("wait", [True, False])
def test_a_stderr_whose_reader_has_gone_or_reads_no_more_ends_nothing(wait: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, wait)
    if wait:
        os.close(reading)
    code = "secure_streams()\nfor _ in range(2000):\n    print('x' * 100, file=sys.stderr)\nprint('done')"
    assert python(code, stdout=subprocess.PIPE, stderr=writing).stdout == "done\n"
    os.close(writing)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_a_file_that_is_opened_is_never_taken_for_a_stream_that_was_closed(tmp_path: Path, closed: str) -> None:
    file = tmp_path / "database"
    code = (
        "from search.startup import secure_streams; import sys, os\n"
        f"secure_streams(); file = open({str(file)!r}, 'w'); assert file.fileno() > 2\n"
        "print('to stdout'); print('to stderr', file=sys.stderr); os.system('echo to both; echo to both >&2')\n"
        "file.write('whole')\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], cwd=ROOT, capture_output=True, check=True)
    assert file.read_text() == "whole"


@pytest.mark.slow
def test_what_the_config_and_the_folder_tell_is_refused_before_transformers_is_imported(
    shared_family: Family, finished: Path, tmp_path: Path
) -> None:
    plain = shared_family.config()
    refusals = {
        "was made by another config": (plain, finished, 7),
        "no such folder": (plain.replace("model: b", "model: ./nowhere"), tmp_path / "run", None),
        "is not empty and holds no search": (plain, shared_family.folder, None),
        "--allow-code-execution": (plain.replace(", allow_code_execution: true", ""), tmp_path / "run", None),
    }
    given = [(text, str(out), seed) for text, out, seed in refusals.values()]
    code = f"""
from pathlib import Path
from search import SearchConfig, run_search
for text, out, seed in {given!r}:
    try:
        run_search(SearchConfig.parse(text, folder=Path({str(shared_family.folder)!r})), out, seed=seed)
    except Exception as error:
        print("transformers" in sys.modules, error)
"""
    told = python(code, capture_output=True).stdout.splitlines()
    assert [line.partition(" ")[0] for line in told] == ["False"] * len(refusals)
    assert [message for message, line in zip(refusals, told, strict=True) if message not in line] == []


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_search_goes_on_where_nothing_can_be_written_to_a_stream(
    one_trial: tuple[SearchConfig, Path], tmp_path: Path, stream: str
) -> None:
    config, out = one_trial
    forget_reports(out)
    (tmp_path / stream).symlink_to("/dev/full")
    with running(tmp_path, "run", config.source, "--out", out, "--trials", "2") as process:
        assert process.wait() == (0 if stream == "stderr" else 2)
    names = {file.stem for file in (out / "completions").iterdir()}
    references = {"report-parent-0", "report-parent-1", "report-parent-2", "report-average"}
    assert {"trial-1", "report-trial-0", "report-trial-1"} | references <= names
    log = (out / "worker.log").read_text()
    assert ("stderr cannot be written" in log) == (stream == "stderr")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "POSIX"}])
def test_paths_are_read_and_printed_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = tmp_path / "größe €"
    environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **locale}
    done = subprocess.run([*LEADERBOARD, folder], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert f"{folder}: holds no search" in done.stderr.decode()


def test_a_path_that_is_no_text_is_printed_as_it_is() -> None:
    code = "secure_streams()\nprint(os.fsdecode(b'a\\xff'))\nprint(os.fsdecode(b'a\\xff'), file=sys.stderr)"
    before = "from search.startup import secure_streams\nimport os, sys\n"
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", before + code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"a\xff\n", b"a\\udcff\n")
