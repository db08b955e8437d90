"""Ctrl-C and SIGTERM at any instant of a command: the documented exit code, and no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parametrization import every

ROOT = Path(__file__).parents[2]
# Sends a signal to the process in which the command line is imported and runs, at one of the events that Python tells.
AT_AN_EVENT = """
import os, runpy, signal, sys
number, left, begun = int(sys.argv[1]), int(sys.argv[2]), False
def told(event, arguments):
    global left, begun
    begun = begun or (event == "import" and arguments[0] == "search.cli")
    left -= begun
    if begun and left == 0:
        os.kill(os.getpid(), number)
sys.addaudithook(told)
sys.argv[:] = ["merge-search", *sys.argv[3:]]
runpy.run_module("search", run_name="__main__", alter_sys=True)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has the command line's signals."""
    before = "from search.signals import stopped_by_signals\nimport os, signal, sys\n"
    return subprocess.run(
        [sys.executable, "-c", before + code], cwd=ROOT, text=True, timeout=60, check=False, capture_output=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "module",
    [
        # What C code that starts up makes of an exception: another one, none, or an abort.
        "try:\n    {kill}\n    time.sleep(5)\nexcept BaseException:\n    raise ImportError('cut short') from None\n",
        "try:\n    {kill}\n    time.sleep(5)\nexcept BaseException:\n    pass\n",
        "try:\n    {kill}\n    time.sleep(5)\nexcept BaseException:\n    os.abort()\n",
        "class Caught:\n    def __del__(self):\n        {kill}\n        time.sleep(5)\nCaught()\n",
    ],
)
def test_a_signal_in_the_middle_of_an_import_ends_the_process_at_once(
    tmp_path: Path, number: signal.Signals, module: str
) -> None:
    kill = f"os.kill(os.getpid(), {number.value})"
    (tmp_path / "slow_import.py").write_text("import os, time\n" + module.format(kill=kill))
    done = python(
        f"sys.path.insert(0, {str(tmp_path)!r})\nwith stopped_by_signals():\n    import slow_import\nprint('went on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_elsewhere_lets_what_was_begun_be_cleaned_up(number: signal.Signals) -> None:
    code = f"""
with stopped_by_signals():
    try:
        os.kill(os.getpid(), {number.value})
        print("went on")
    finally:
        print("cleaned up")
"""
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "stopped\n")


@pytest.mark.parametrize(
    ("number", "event"),
    every(3, [(number, event) for event in (1, 2, 50, 200, 500, 800) for number in (signal.SIGINT, signal.SIGTERM)]),
)
def test_a_command_that_starts_ends_at_once(tmp_path: Path, number: signal.Signals, event: int) -> None:
    words = [sys.executable, "-c", AT_AN_EVENT, str(number.value), str(event), "init", str(tmp_path / "configs")]
    done = subprocess.run(words, cwd=ROOT, text=True, timeout=60, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
    assert not (tmp_path / "configs").exists()


def test_a_signal_after_the_end_of_a_command_prints_nothing() -> None:
    code = "import atexit; atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    done = python(code + "sys.argv[:] = ['merge-search', '--version']\nfrom search.__main__ import main\nmain()")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout.startswith("merge-search")
