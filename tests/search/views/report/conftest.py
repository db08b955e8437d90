"""Searches that never ran, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from search.views.report.evidence import SearchEvidence
from tests.search.views.report.ugly import CASES, make

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
