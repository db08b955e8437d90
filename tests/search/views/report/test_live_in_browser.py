"""A served report in a real browser: it follows the search, and stays where its reader is."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from search.serving.live_page import LivePage
from tests.search.serving.test_live_page import served
from tests.search.views.report.chromium import chromium, expect, show
from tests.search.views.report.ugly import Search, at_work, make

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LONG = Search(trials=30, problems=240)


def loaded(page: Page) -> None:
    """Wait until the page has loaded itself again."""
    page.wait_for_function("!window.sameDocument", timeout=30_000)


def test_the_page_shows_a_search_that_begins_later_and_keeps_its_readers_place(tmp_path: Path) -> None:
    elsewhere, folder = make(tmp_path / "elsewhere" / "run", LONG), tmp_path / "run"
    live = LivePage(folder, clock=lambda: 0.0)
    with served(live) as port, chromium() as page:
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator(".verdict")).to_contain_text("No search has begun")
        shutil.copytree(elsewhere, folder)
        expect(page.locator("#leaderboard-table")).to_be_visible(timeout=30_000)

        show(page, "problems")
        show(page, "matrix")
        page.locator("#problems .modes button").filter(has_text=re.compile("^both")).click()
        page.locator("#problems .list summary").nth(3).click()
        page.locator("#problems .list").evaluate("element => { element.scrollTop = 40 }")
        page.locator("#matrix .grid").evaluate("element => { element.scrollTop = 60 }")
        page.locator("#matrix").evaluate("element => scrollTo(0, element.offsetTop + 25)")
        page.evaluate("window.sameDocument = true; document.activeElement.blur()")
        opened = page.locator("#problems .list > details[open]").inner_text()
        top = page.locator("#matrix").evaluate("element => element.getBoundingClientRect().top")
        with at_work(folder):
            loaded(page)
            expect(page.locator("#problems .list > details[open]")).to_have_count(1)
            assert page.locator("#problems .list > details[open]").inner_text() == opened
            expect(page.locator("#problems [aria-pressed=true]")).to_contain_text("both")
            at = "element => Math.abs(element.getBoundingClientRect().top - {}) < 3".format
            page.wait_for_function(f"({at(top)})(document.querySelector('#matrix'))")
            page.wait_for_function("document.querySelector('#problems .list').scrollTop === 40")
            page.wait_for_function("document.querySelector('#matrix .grid').scrollTop === 60")


def test_the_page_waits_while_an_answer_is_open(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", LONG)
    with served(LivePage(folder, clock=lambda: 0.0)) as port, chromium() as page:
        page.goto(f"http://127.0.0.1:{port}/")
        show(page, "matrix")
        page.locator("#matrix .grid").click(position={"x": 200, "y": 100})
        page.evaluate("window.sameDocument = true")
        with at_work(folder):
            expect(page.locator(".live")).to_have_text("show new results", timeout=30_000)
            expect(page.locator("dialog[open]")).to_be_visible()
            page.keyboard.press("Escape")
            page.evaluate("document.activeElement.blur()")
            loaded(page)


def test_a_page_that_draws_only_what_is_seen_is_printed_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", LONG)
    drawn = "document.querySelectorAll('.figure.drawn').length"
    with served(LivePage(folder, clock=lambda: 0.0)) as port, chromium() as page:
        page.goto(f"http://127.0.0.1:{port}/")
        figures = page.locator("[data-figure], #layers-figure, #parallel-figure").count()
        page.wait_for_function("'ready' in document.documentElement.dataset")
        page.evaluate("new Promise((resolve) => requestIdleCallback(() => requestIdleCallback(resolve)))")
        assert page.evaluate(drawn) < figures
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(f"{drawn} === {figures}")


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", LONG)
    words = [sys.executable, "-m", "search", "report", str(folder), "--live", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        with chromium(ignored="ERR_CONNECTION_REFUSED") as page:
            page.goto(address[0])
            expect(page.locator("#verdict .verdict")).to_be_visible()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "stopped\n")
            assert process.returncode == 130
            expect(page.locator(".live")).to_contain_text("the server has stopped", timeout=30_000)
