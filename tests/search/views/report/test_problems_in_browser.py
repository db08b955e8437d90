"""The problems of the report in a real browser: what a person can do with them, and what a model cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evaluation.problems import Problem
from search.completion_files import Completion
from search.evidence import SearchEvidence
from search.study.record import SplitName, TrialRecord
from search.views.report.page import page, utf8
from tests.search.records import RECORDS, SPLITS, board
from tests.search.views.report.chromium import chromium, expect, show
from tests.search.views.report.conftest import Shown
from tests.search.views.report.test_problems import TASKS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>alert('completion')</script>",
    "<!-- <script> <img src=x onerror=alert('image')>",
    "access = 'user\u202e \u2066# admin only\u2069 \u2066'",
    "one\0two\x1b[31m\u2028three\ud800",
    "x" * 1_000_000,
    "\n" * 100_000,
    "",
)


def hostile(record: TrialRecord, split: SplitName) -> Sequence[Completion]:
    status = {"p": "passed", "f": "failed"}
    return [
        Completion(
            task, HOSTILE[place % len(HOSTILE)] + "\n" * (record.kind == "trial"), status[sign], 3, HOSTILE[place % 4]
        )
        for place, (task, sign) in enumerate(zip(TASKS[split], record.on(split).outcomes, strict=True))
    ]


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a search whose models, problems and prompts are hostile."""
    tasks = {split: [f"{task} {HOSTILE[place % 4]}" for place, task in enumerate(ids)] for split, ids in TASKS.items()}
    problems = {task: Problem(task, HOSTILE[0] + task, "f", "", "") for ids in tasks.values() for task in ids}

    def completions(record: TrialRecord, split: SplitName) -> list[Completion]:
        return [
            Completion(task, each.completion, each.status, each.tokens, each.detail)
            for task, each in zip(tasks[split], hostile(record, split), strict=True)
        ]

    evidence = SearchEvidence(
        "run", Path("r"), board(), RECORDS, SPLITS, tasks, completions=completions, problems=problems
    )
    file = tmp_path_factory.mktemp("page") / "hostile.html"
    file.write_bytes(utf8(page(evidence)))
    return file


@pytest.fixture(scope="module")
def large(shown: Shown, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a search of 500 trials on 164 problems."""
    file = tmp_path_factory.mktemp("large") / "report.html"
    file.write_bytes(utf8(page(shown("large"))))
    return file


@pytest.fixture
def browser() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


def wider(browser: Page) -> int:
    return int(browser.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_what_hostile_models_wrote_stays_text(browser: Page, hostile_page: Path) -> None:
    browser.goto(hostile_page.as_uri())
    show(browser, "problems")
    shown = ""
    for mode in ("won", "lost", "both pass", "neither passes"):
        browser.locator("#problems .modes button").filter(has_text=re.compile(f"^{mode}")).click()
        for summary in browser.locator("#problems .list > details > summary").all():
            summary.click()
        shown += browser.locator("#problems").inner_text()
    for text in (
        r"</script><script>alert('completion')</script>",
        r"onerror=alert('image')>",
        r"user\u202e \u2066# admin",
        r"one\x00two\x1b[31m\u2028three\ud800",
    ):
        assert text in shown
    assert not re.search("[\u202e\u2066\u2028\0]", shown)
    assert re.search("cut: it has 1,000,00. characters, and the first 8,000 are shown", shown)
    assert browser.locator("img").count() == 0
    assert wider(browser) <= 0


def test_the_list_shows_both_answers_as_a_diff(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    show(browser, "problems")
    browser.locator("#problems .list summary").first.click()
    opened = browser.locator("#problems .list > details[open]").first
    expect(opened.locator("pre.diff del").first).to_contain_text("return")
    expect(opened.locator("pre.diff ins").first).to_contain_text("return")
    expect(opened.locator(".status").first).to_have_text(re.compile("failed|timeout"))
    expect(opened.locator(".status").nth(1)).to_have_text("passed")
    assert "AssertionError" in opened.locator(".outcome").first.inner_text()


def test_a_trial_without_texts_names_the_command_that_shows_them(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    show(browser, "problems")
    choice = browser.locator("#problems select").first
    choice.select_option(index=choice.locator("option").count() // 2)
    browser.locator("#problems .list summary").first.click()
    command = browser.locator("#problems .list > details[open] code").first
    expect(command).to_have_text(re.compile(r"merge-search compare .*large:\d+ .*large:\w+ --html compare\.html"))


def test_an_answer_that_was_deleted_is_missing_for_that_reason(browser: Page, tmp_path: Path) -> None:
    evidence = SearchEvidence(
        "run", Path("r"), board(), RECORDS, SPLITS, TASKS, completions=hostile,
        has_completions=lambda record, _: record.kind != "trial",
    )  # fmt: skip
    (tmp_path / "report.html").write_bytes(utf8(page(evidence)))
    browser.goto((tmp_path / "report.html").as_uri())
    show(browser, "problems")
    browser.locator("#problems .list summary").first.click()
    shown = browser.locator("#problems .list > details[open] .note").filter(has_text="is not here")
    expect(shown).to_have_text(re.compile(r"^What trial 1 wrote is not here: its file in r/completions was deleted,"))


def test_searching_shows_the_problems_that_match(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    for part in ("problems", "matrix"):
        show(browser, part)
        box = browser.locator(f"#{part} input[type=search]")
        box.fill("/set0.1[0-3]$|case 15\\b/")
        text = "2 problems" if part == "matrix" else "of the 82 problems"
        expect(browser.locator(f"#{part} [role=status]")).to_contain_text(re.compile(r"\d+ " + text.removeprefix("2 ")))
        box.fill("/[/")
        expect(box).to_have_attribute("aria-invalid", "true")
        box.fill("no such word")
        expect(browser.locator(f"#{part} [role=status]")).to_contain_text(re.compile("^0 "))


def test_the_matrix_tells_what_the_mouse_is_on_and_opens_it(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    show(browser, "matrix")
    told, grid = browser.locator("#matrix-cell"), browser.locator("#matrix .grid")
    expect(told).to_contain_text("82 problems, ")
    grid.hover(position={"x": 230, "y": 60})
    expect(browser.locator("#matrix .tip")).to_contain_text(re.compile(r"trial \d+: (passed|failed|timeout)"))
    expect(told).to_contain_text(re.compile(r"Set0/\d+ · trial \d+: \w+.* · \d+ of \d+ models pass it"))
    grid.click(position={"x": 230, "y": 60})
    answer = browser.locator("dialog[open]")
    expect(answer.locator("h2")).to_have_text(re.compile(r"Set0/\d+, trial \d+"))
    expect(answer.locator("details.prompt pre")).to_contain_text("def solve_")
    browser.keyboard.press("Escape")
    expect(answer).to_have_count(0)


def test_the_matrix_is_read_by_keyboard(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    show(browser, "matrix")
    grid, told = browser.locator("#matrix .grid"), browser.locator("#matrix-cell")
    grid.focus()
    browser.keyboard.press("ArrowDown")
    first = told.inner_text()
    browser.keyboard.press("End")
    assert told.inner_text() != first
    assert grid.evaluate("element => element.scrollLeft") > 0
    browser.keyboard.press("Home")
    assert told.inner_text() == first
    browser.keyboard.press("PageDown")
    browser.keyboard.press("Enter")
    expect(browser.locator("dialog[open]")).to_be_visible()


def test_the_matrix_draws_what_comes_into_view_at_once(browser: Page, large: Path) -> None:
    browser.goto(large.as_uri())
    show(browser, "matrix")
    drawn = """(where) => new Promise((resolve) => {
        const box = document.querySelector("#matrix .grid"), canvas = box.querySelector("canvas");
        [box.scrollLeft, box.scrollTop] = where;
        requestAnimationFrame(() => requestAnimationFrame(() => {
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let painted = 0;
            for (let i = 3; i < pixels.length; i += 4) painted += pixels[i] > 0;
            resolve(painted / (pixels.length / 4));
        }));
    })"""
    assert browser.evaluate(drawn, [0, 0]) > 0.6
    assert browser.evaluate(drawn, [1200, 700]) > 0.6


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(large: Path, width: int, theme: str) -> None:
    with chromium(width) as browser:
        browser.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        browser.goto(large.as_uri())
        for part in ("problems", "matrix"):
            show(browser, part)
        assert wider(browser) <= 0
        passed, failed = (
            browser.evaluate(f"getComputedStyle(document.querySelector('.swatch.{sign}')).backgroundColor")
            for sign in "pf"
        )
        assert passed != failed
