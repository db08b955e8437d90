"""On a terminal a panel shows what runs and how the search stands, whatever its size."""

from __future__ import annotations

import io
import os
import pty
import re
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.text import Text

from search.progress import SearchStatus
from search.study.record import ASCENT, Scoring, TrialRecord
from search.study.store import Workplace
from search.views.live_panel import LivePanel
from search.views.reflowed import ReflowedLive
from tests.search.records import RECORDS, trial

UGLY = "/models/深度求索-代码-模型-指令-微调-" + "x" * 80 + "-\x1b[31m-第二版"
SIZES = [(40, 8), (40, 24), (80, 8), (80, 24), (200, 8), (200, 50), (12, 3), (1, 1)]


def search(blocks: bool = True) -> LivePanel:
    """Return the panel of a search under way."""
    shown = LivePanel(io.StringIO(), blocks)
    shown.begin("search", 40)
    shown.trial("trial 9", 4)
    shown.phase("evaluating")
    shown.step(10, 82)
    shown.status = SearchStatus.of(RECORDS)
    return shown


def screen(shown: LivePanel, width: int, height: int) -> list[str]:
    """Return the lines of the panel on a terminal of that size."""
    shown.console.size = ConsoleDimensions(width, height)
    lines = shown.console.render_lines(shown.panel(), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def crowd(count: int) -> SearchStatus:
    """Return how a search stands with several workers, and trials of three objectives with an unprintable parent."""
    parent = replace(RECORDS[1], name=UGLY)
    done = Scoring(
        "complete", score=0.8, scores=(0.9, 0.8, 0.7), seconds={"generation": 2.0}, tokens=3000, guessed=100,
        accepted=84, started=1.0,
    )  # fmt: skip
    over = [trial(place, {1}, search=replace(done, worker=f"{place:02d}abcdef0123")) for place in range(count)]
    at_it = Scoring("running", started=time.time())
    running = [
        TrialRecord("trial", 50 + place, search=replace(at_it, worker=f"{place:02d}abcdef0123"))
        for place in range(count - 1)
    ]
    alive = {f"{place:02d}abcdef0123": Workplace(f"host{place}", {f"cuda:{place}": ""}) for place in range(count)}
    return SearchStatus.of([parent, *over, *running], alive, "01abcdef0123")


def test_it_shows_what_runs_and_how_the_search_stands() -> None:
    shown = search()
    shown.status = SearchStatus.of([*RECORDS, trial(8, {1}, proposed_by=ASCENT), trial(10, None)])
    lines = [re.sub("[─━]+", "─", line.strip("│ ")) for line in screen(shown, 80, 24)]
    assert lines == [
        "╭─╮",
        "search       ─   4/40",
        "now          trial 9  evaluating  ─  10/82  0s",
        "best         80.0%  trial 1  +30.0 points",
        "best parent  50.0%  b",
        "history      ▅█x▂▁x  10.0% to 80.0%",
        "trials       4 scored, 2 failed  ·  1 by the ascent",
        "╰─╯",
    ]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("blocks", [True, False])
def test_it_fits_every_terminal(width: int, height: int, blocks: bool) -> None:
    shown = search(blocks)
    shown.trial(UGLY, 5)
    shown.stopping()
    for status in (SearchStatus(), SearchStatus.of([trial(0, None)] * 40), SearchStatus.of(RECORDS * 60), crowd(40)):
        shown.status = status
        for part in ("search", "reading the parents"):
            shown.part = part
            lines = screen(shown, width, height)
            assert len(lines) <= max(1, height - 1)
            assert max(map(cell_len, lines)) <= max(1, width - len("^C"))
            assert "\x1b" not in "".join(lines)
            assert blocks or "".join(lines).isascii() or width >= 60
        assert not status.best or width < 40 or any("80.0%" in line for line in lines)


def test_where_the_encoding_has_no_blocks_it_is_ascii() -> None:
    assert "".join(screen(search(blocks=False), 50, 24)).isascii()
    assert any("~#x_" in line for line in screen(search(blocks=False), 50, 24))


def test_several_workers_are_rows_and_the_own_one_is_the_first() -> None:
    shown = search()
    shown.status = crowd(3)
    lines = screen(shown, 90, 24)
    place = next(place for place, line in enumerate(lines) if "workers" in line)
    cells = [re.split(r" {2,}", line.strip("│ ").removeprefix("workers").strip()) for line in lines[place : place + 3]]
    assert cells == [
        ["this one", "trial 9", "0s", "1,500 tokens/s", "cuda:1 on host1"],
        ["00abcdef", "trial 50", "0s", "1,500 tokens/s", "cuda:0 on host0"],
        ["02abcdef", "between models", "1,500 tokens/s", "cuda:2 on host2"],
    ]
    assert any("4,500 tokens/s  ·  84% of drafts accepted" in line for line in lines)
    assert any("80.0%  trial 0  +30.0 points  (90.0%, 80.0%, 70.0%)" in line for line in lines)
    shown.status = crowd(40)
    assert any("and 33 more" in line for line in screen(shown, 90, 16))


def test_the_store_is_read_now_and_then_by_who_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[float] = []

    def read() -> SearchStatus:
        reads.append(time.monotonic())
        return SearchStatus(complete=len(reads))

    shown = search()
    shown.watch(read)
    for now in (1000.0, 1000.1, 1001.9, 2000.0, 2000.1):
        monkeypatch.setattr("search.views.live_panel.time.monotonic", lambda now=now: now)
        shown.step(1, 2)
        screen(shown, 80, 24)
    assert (reads, shown.status.complete) == ([1000.0, 2000.0], 2)


def test_on_a_real_terminal_it_is_drawn_and_leaves_the_lines_of_what_is_over() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, LivePanel(stream) as shown:
        shown.begin("search", 40)
        shown.trial("trial 9", 5)
        shown.phase("evaluating")
        shown.step(10, 82)
        shown.stopping()
        read = ""
        while not re.search("stopping; once more: at once.*trial 9  evaluating", read, re.DOTALL):
            read += os.read(ours, 4096).decode()
        shown.scored(0.525, 1.25, SearchStatus.of(RECORDS))
        while "search 6/40: trial 9  52.5%  1.2 s" not in read:
            read += os.read(ours, 4096).decode()
    os.close(ours)


def test_what_a_narrower_terminal_has_wrapped_is_erased() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40, height=20)
    live = ReflowedLive(lambda: Text("x" * 40 + "\n" + "y" * 5), console, 0.001)
    with live:
        live.refresh()
        drawn = len(stream.getvalue())
        console.size = ConsoleDimensions(15, 20)
        live.refresh()
        assert stream.getvalue()[drawn:].count("\x1b[1A") == 3  # the first line takes three rows now, the second one
