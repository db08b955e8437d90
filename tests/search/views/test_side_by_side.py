"""What people read of candidates for parents."""

from __future__ import annotations

from rich.console import Console

from evaluation.problems import Part
from search.board.complements import complements
from search.views.side_by_side import models_table, pairs_table, side_by_side_lines
from tests.search.board.test_complements import report

_NAMES = {"/models/strong": "strong", "/models/one": "one", "/models/two": "two"}


def test_the_pair_with_the_largest_gain_is_named_and_the_one_that_solves_most() -> None:
    solved = [range(10), range(3), range(3, 6)]
    reports = {name: report([[task in own] for task in range(12)]) for name, own in zip(_NAMES, solved, strict=True)}
    assert list(side_by_side_lines(complements(reports), _NAMES)) == [
        "most to gain: one + two; between them they solve 50.0%, 25.0 points more than the better one alone",
        "most solved by two: strong + one, 83.3%",
        "any of the 3 solves 83.3%",
        "only strong solves 4: t/6, t/7, t/8, t/9",
        "none solves 2: t/10, t/11",
    ]
    same = {name: report([[task < 3] for task in range(12)]) for name in _NAMES}
    first, *_ = side_by_side_lines(complements(same), _NAMES)
    assert first == "no two of them solve more than the better one alone"


def test_names_and_scores_have_room_on_a_narrow_terminal() -> None:
    parts = [Part("a-set-whose-name-is-longer-than-any-column.jsonl", 1.0, ("t/0",)), Part("mbpp+", 1.0, ("t/1",))]
    reports = {name: report([[True], [name == "/models/one"]], parts) for name in _NAMES}
    found = complements(reports)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(models_table(reports, found, _NAMES))
        console.print(pairs_table(found, _NAMES))
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(line.split()[:1] == ["one"] and "100.0% [" in line for line in lines)
    assert any(line.startswith("one + strong") and "+0.0" in line for line in lines)
