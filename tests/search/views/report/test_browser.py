"""The report in a real browser: it draws, sorts, searches and prints, at the width of a desk and of a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.search.views.report.ugly import CASES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Make = Callable[[str], Path]
Visit = Callable[..., "Page"]
_WIDER = """() => [...document.querySelectorAll("main *")].filter((each) => {
  for (let box = each.parentElement; box; box = box.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(box).overflowX)) return false;
  return !each.closest("svg, .tip") && each.getBoundingClientRect().right > innerWidth + 1;
}).map((each) => each.outerHTML.slice(0, 120))"""
_OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll("main > section")].map((each) => each.getBoundingClientRect());
  return boxes.slice(1).filter((box, place) => box.top < boxes[place].bottom - 1).length;
}"""

_LABELS = """() => [...document.querySelectorAll("[data-figure]")].flatMap((figure) => {
  const labels = [...figure.querySelectorAll(".xtick text, .g-xtitle text, .legendtext")].flatMap((each) => {
    const lines = [...each.querySelectorAll("tspan.line")];
    return lines.length ? lines : [each];
  }).map((each) => [each.textContent, each.getBoundingClientRect()]);
  return labels.flatMap(([name, box], place) => labels.slice(place + 1).filter(([, other]) =>
    Math.min(box.right, other.right) - Math.max(box.left, other.left) > 2
    && Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top) > 2
  ).map(([other]) => `${figure.dataset.figure}: ${name} on ${other}`));
})"""


def scrolled(page: Page) -> Page:
    """Scroll through the whole page, until all of its figures are drawn."""
    for section in page.locator("main > section").all():
        section.scroll_into_view_if_needed()
    for figure in page.locator("[data-figure], #layers-figure, #parallel-figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator("xpath=self::*[contains(@class, 'drawn')]").wait_for()
    return page


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_wider_than_the_window_and_nothing_overlaps(made: Make, visit: Visit, name: str, width: int) -> None:
    page = scrolled(visit(made(name), width))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(_WIDER) == []
    assert page.evaluate(_OVERLAPS) == 0
    assert page.evaluate(_LABELS) == []
    assert page.get_by_text("could not be drawn").count() == 0


def test_the_longer_labels_of_a_search_of_seconds_fit_a_phone(finished: Path, visit: Visit) -> None:
    assert scrolled(visit(finished, 390)).evaluate(_LABELS) == []


def test_tables_are_sorted_by_a_click_and_by_the_keyboard(made: Make, visit: Visit) -> None:
    page = visit(made("eight_parents"))
    heading = page.locator("#leaderboard-table thead th").nth(1)
    scores = page.locator("#leaderboard-table tbody td:nth-child(2)")
    before = scores.all_inner_texts()
    heading.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert scores.all_inner_texts() == before  # it was sorted so
    heading.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    numbers = [float(text.rstrip("%")) for text in scores.all_inner_texts() if text.endswith("%")]
    assert numbers == sorted(numbers)
    assert not scores.last.inner_text().endswith("%")  # without a score it comes last, either way


def test_rows_are_found_by_words(made: Make, visit: Visit) -> None:
    page = visit(made("eight_parents"))
    page.get_by_placeholder("a name, a state").fill("failed")
    shown = page.locator("#leaderboard-table tbody tr:visible").all_inner_texts()
    assert len(shown) == 3
    assert all("failed" in text for text in shown)


def test_a_point_of_the_history_tells_its_trial(made: Make, visit: Visit) -> None:
    page = visit(made("eight_parents"))
    figure = page.locator("[data-figure=history]")
    figure.scroll_into_view_if_needed()
    figure.locator(".scatterlayer .trace .point").first.hover(force=True)
    assert "trial" in page.locator("[data-figure=history] .hovertext").first.text_content()  # type: ignore[operator]


def test_another_trial_is_drawn_over_the_layers(made: Make, visit: Visit) -> None:
    page = visit(made("eight_parents"))
    figure = page.locator("#layers-figure.drawn")
    page.locator("#layers").scroll_into_view_if_needed()
    figure.wait_for()
    lines = "document.querySelector('#layers-figure').data.map((each) => [...each.y])"
    winner = page.evaluate(lines)
    number = page.locator("#layers-trial option").nth(3).get_attribute("value")
    page.locator("#layers-trial").select_option(number)
    page.wait_for_function(f"JSON.stringify({lines}) !== {str(winner).replace(' ', '')!r}")
    page.locator("#layers-other").select_option(page.locator("#layers-trial option").nth(1).get_attribute("value"))
    page.wait_for_function(f"{lines}.length === {2 * len(winner)}")


def test_the_best_are_shown_alone_and_brushes_are_told(made: Make, visit: Visit) -> None:
    page = scrolled(visit(made("eight_parents")))
    chosen = page.locator("#parallel-chosen")
    assert chosen.inner_text().startswith("35 of 35 trials: trial 17")
    page.locator("#parallel-share").select_option("0.1")
    page.wait_for_function("!document.querySelector('#parallel-chosen').textContent.startsWith('35 of')")
    count = int(chosen.inner_text().split()[0])
    assert 3 <= count < 35  # ties with the fourth count
    page.evaluate("Plotly.restyle('parallel-figure', {'dimensions[0].constraintrange': [[0, 0.5]]}, [0])")
    page.wait_for_function("document.querySelector('#parallel-chosen').textContent.startsWith('0 of')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_switch_turns_all_colours(made: Make, visit: Visit, scheme: str) -> None:
    page = scrolled(visit(made("running"), color_scheme=scheme))
    axis = "getComputedStyle(document.querySelector('[data-figure=history] .xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(axis), page.evaluate(ground)
    page.locator("#theme").click()
    page.wait_for_function(f"{axis} !== {before[0]!r}")
    assert page.evaluate(ground) != before[1]
    assert page.locator("#theme").inner_text() == scheme


def test_everything_is_drawn_for_print_in_light_colours_and_fits(made: Make, visit: Visit) -> None:
    page = visit(made("running"), color_scheme="dark")
    page.wait_for_function("'ready' in document.documentElement.dataset")
    figures = page.locator("[data-figure], #layers-figure, #parallel-figure").count()
    page.evaluate("addEventListener('beforeprint', () => queueMicrotask(() => window.printed = true))")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.printed")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(f"document.querySelectorAll('.figure.drawn').length === {figures}")
    page.emulate_media(media="print")
    assert (
        page.evaluate(
            "Math.max(...[...document.querySelectorAll('.figure .main-svg')].map((each) => each.clientWidth))"
        )
        <= 720
    )
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_all_figures_are_drawn_though_nobody_scrolls(made: Make, visit: Visit) -> None:
    page = visit(made("large"))
    figures = page.locator("[data-figure], #layers-figure, #parallel-figure")
    page.wait_for_function(f"document.querySelectorAll('.figure.drawn').length === {figures.count()}")
    marks = ".trace path, .parcoords"
    assert [figure.get_attribute("id") for figure in figures.all() if not figure.locator(marks).count()] == []
    assert page.evaluate("scrollY") == 0
    assert page.get_by_text("could not be drawn").count() == 0


def test_without_scripts_the_verdict_and_the_tables_are_read(made: Make, visit: Visit) -> None:
    page = visit(made("eight_parents"), java_script_enabled=False)
    assert page.locator(".verdict").inner_text().startswith("not proven: trial 17")
    assert page.locator("#leaderboard-table tbody tr").count() == 40 + 10
    assert page.locator("#theme").is_hidden()


def test_text_is_painted_before_the_library_is_there(made: Make, visit: Visit) -> None:
    page = visit(made("large"))
    page.locator("#history").scroll_into_view_if_needed()
    page.locator("[data-figure=history].drawn").wait_for()
    painted, drawn = (
        page.evaluate(f"performance.getEntriesByName({name!r})[0].startTime")
        for name in ("first-contentful-paint", "drawn")
    )
    assert painted < drawn
