"""A finished search can be looked at and exported on systems other than Linux."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Runs a command with what only Linux has hidden from our own modules: other packages look out for themselves.
HIDING = """
import builtins, os, runpy, sys

OURS, HIDDEN = ("search", "merging", "evaluation"), ("fcntl", "resource", "pwd", "grp")
importing = builtins.__import__

def import_elsewhere(name, scope=None, *rest, **more):
    if name in HIDDEN and str((scope or {}).get("__name__", "")).partition(".")[0] in OURS:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return importing(name, scope, *rest, **more)

def open_elsewhere(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

builtins.__import__ = import_elsewhere
sys.addaudithook(open_elsewhere)
runpy.run_module("search", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["leaderboard"], ["leaderboard", "--json"], ["export", "--anyway", "--to", "merged"]]
)
def test_a_finished_search_is_read_and_exported_without_linux(finished: Path, tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-c", HIDING, words[0], str(finished), *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert "trial" in done.stdout or (tmp_path / "merged" / "config.json").exists()
