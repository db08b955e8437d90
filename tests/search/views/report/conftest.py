"""Searches that never ran, made once, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from search.evidence import SearchEvidence
from search.views.report.page import page, utf8
from tests.search.views.report.ugly import CASES, make

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Shown = Callable[[str], SearchEvidence]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes the results folder of a case, once."""
    folder, known = tmp_path_factory.mktemp("ugly"), dict[str, Path]()

    def once(name: str) -> Path:
        if name not in known:
            known[name] = make(folder / name, CASES[name])
        return known[name]

    return once


@pytest.fixture(scope="session")
def shown(made: Callable[[str], Path]) -> Shown:
    """Return a function that opens the evidence of a case, once."""
    known = dict[str, SearchEvidence]()

    def once(name: str) -> SearchEvidence:
        if name not in known:
            known[name] = SearchEvidence.open(made(name))
        return known[name]

    return once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium; it ends with its module: playwright runs once at a time in a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the report of a results folder from the disk; no page may complain or go online."""
    complaints: list[str] = []

    def opened(results: Path, width: int = 1280, **options: Any) -> Page:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.html"
        file.write_bytes(utf8(page(SearchEvidence.open(results))))
        found = browser.new_page(viewport={"width": width, "height": 900}, **options)
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        found.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        found.goto(file.as_uri())
        return found

    yield opened
    for context in browser.contexts:
        context.close()
    assert complaints == []
