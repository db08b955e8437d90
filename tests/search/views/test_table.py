"""The leaderboard's table fits its terminal, and tells its models apart."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search.board.leaderboard import Leaderboard
from search.study.record import Scoring
from search.views.table import best_parameters, leaderboard_table
from tests.search.records import RECORDS, board, parent, trial


def shown(found: Leaderboard, width: int) -> list[str]:
    text = io.StringIO()
    Console(width=width, file=text).print(leaderboard_table(found, width=width))
    return [line.rstrip().replace("\N{NO-BREAK SPACE}", " ") for line in text.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_fits_its_terminal_with_a_line_per_row(width: int) -> None:
    title, header, *lines = shown(board(), width)
    assert title == "run"
    assert header.endswith("parameters") is (width == 160)
    assert len(lines) == len(board().rows)
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:5] == ["trial", "1", "80.0%", "80.0%", "[58%,"]
    assert "b (best parent)" in lines[1]
    assert ("density" in lines[0]) is (width == 160)


@pytest.mark.parametrize("width", [30, 40, 47, 54, 66, 79])
def test_names_and_scores_stay_where_a_narrow_terminal_has_room_for_little_else(width: int) -> None:
    title, header, *lines = shown(board(), width)
    assert header.split()[0] == "search"
    assert ("report [95%]" in header) is (width > 45)
    assert max(map(len, (title, header, *lines))) <= width
    for row, line in zip(board().rows, lines, strict=True):
        name = "b (best parent)" if row.name == board().best_parent else row.name.rpartition("/")[2]
        assert re.match(rf"{re.escape(name)} +({row.record.search.score or 0:.1%}|failed)", line), line


@pytest.mark.parametrize("width", [40, 60])
def test_long_names_keep_both_ends_on_a_narrow_terminal(width: int) -> None:
    names = [f"a-long-name-{size}-of-a-model-that-was-tuned-v{size}" for size in ("1.5B", "3B")]
    _, _, *lines = shown(board(*(parent(number, f"/x/{name}", range(8)) for number, name in enumerate(names))), width)
    assert re.match(r"\S+…\S*B \(best parent\) +80.0%", lines[0])
    assert re.match(r"a-lo\S+…\S*v3B +80.0%", lines[1])


@pytest.mark.parametrize("width", [100, 160])
def test_parameters_are_those_of_the_models_by_name(width: int) -> None:
    _, _, best, *_ = shown(board(), width)
    assert best.startswith("trial 1  ")
    assert best.endswith("  a: density 0.26 0.50  b: weight 0.75") is (width == 160)


def test_a_terminal_without_room_for_them_has_the_parameters_of_the_best_below() -> None:
    below = [line.replace("\N{NO-BREAK SPACE}", " ") for line in best_parameters(board(), 80)]
    assert below == ["trial 1:", "a: density 0.26 0.50  b: weight 0.75"]
    assert best_parameters(board(), 160) == []
    assert best_parameters(board(*RECORDS[:4]), 80) == []


def test_what_looks_like_markup_in_a_name_is_shown() -> None:
    assert shown(board(parent(0, "/x/[red]a", {0})), 80)[2].startswith("[red]a (best parent)")


def test_parents_of_one_name_are_told_apart() -> None:
    records = [parent(number, name, {0}) for number, name in enumerate(["/x/family/a", "/x/other/a", "/x/base"])]
    assert [line.split()[0] for line in shown(board(*records), 80)[2:]] == ["family/a", "other/a", "base"]


def test_a_pruned_trial_and_a_repeated_one_say_so() -> None:
    pruned = replace(RECORDS[4], number=8, search=Scoring("pruned", log_likelihood=-2.0))
    lines = shown(board(*RECORDS, pruned, trial(9, range(5), same_as=0)), 80)
    assert re.match(r"trial 8 +pruned", lines[-2])
    assert any(line.startswith("trial 9 (= 0) ") for line in lines)


def test_proposals_that_are_not_the_samplers_say_whose_they_are() -> None:
    sources = ["ascent", "warm start: trial 3 of results/earlier", "tpe"]
    found = shown(board(*(trial(number, {number}, proposed_by=source) for number, source in enumerate(sources))), 120)
    names = [re.split(r"  +", line)[0] for line in found[2:]]
    assert list(filter(None, names)) == ["trial 0 (ascent)", "trial 1 (warm start)", "trial 2"]


@pytest.mark.parametrize("width", [80, 120, 160])
def test_a_long_name_pushes_no_score_off_the_screen(width: int) -> None:
    long = "/x/a-model-whose-name-is-longer-than-anything-that-anybody-would-type-v1.5-instruct"
    best = shown(board(parent(0, long, range(10), range(20))), width)[2]
    assert best.startswith("a-")
    assert "ct (best parent)" in best
    assert "100.0%  100.0% [84%, 100%]" in best
    assert "…" not in best.partition(" (best parent)")[2]


def test_of_many_trials_the_best_are_shown_at_once() -> None:
    some = board()
    more = (replace(some.records[0], number=number) for number in range(1_000, 20_000))
    many = replace(some, records=(*some.records, *more))
    began = time.process_time()
    assert leaderboard_table(many, 10).row_count == 10 + 4  # the reference models
    assert time.process_time() - began < 5


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_the_parameters_of_the_best_whatever_its_width(finished: Path, width: int) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as reader, os.fdopen(terminal, "wb") as stdout:
        words = [sys.executable, "-m", "search", "leaderboard", str(finished)]
        subprocess.run(
            words, stdout=stdout, env=os.environ | {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}, check=True
        )
        text = reader.read(65_536).decode().replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("density ") == (1 if width == 80 else 3)
    best = Leaderboard.open(finished).best
    assert re.search(rf"trial {best}:\s+a: density \d.*\s+b: weight \d", text) if width == 80 else True
