"""A page in a real Chromium; playwright is imported on demand, since the default suite only collects its tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, LocatorAssertions, Page


@contextmanager
def chromium(width: int = 1280, height: int = 900, ignored: str = "") -> Iterator[Page]:
    """Open an empty page; its end fails if a page has reported an error other than the ignored one."""
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
        yield page
        browser.close()
    assert not [error for error in errors if not ignored or ignored not in error]


def expect(locator: Locator) -> LocatorAssertions:
    """Return what can be expected of a part of a page, within some seconds."""
    from playwright.sync_api import expect as expect_of

    return expect_of(locator)


def show(page: Page, part: str) -> None:
    """Scroll to a section until it is drawn and stays: those above it grow while they are drawn."""
    page.wait_for_function(
        """(part) => {
            const section = document.getElementById(part), before = section.getBoundingClientRect().top;
            section.scrollIntoView();
            return section.querySelector(".bar") && before === section.getBoundingClientRect().top;
        }""",
        arg=part,
        polling=200,
    )
