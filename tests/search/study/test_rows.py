"""A record that is read from its rows is the one that was written, and reading it decodes only what is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.errors import SearchError
from search.study.record import Scoring, TrialRecord
from search.study.rows import RECORD_COLUMNS, SCORING_COLUMNS, encoded, record_of

FILE = Path("run/search.db")
SCORED = Scoring(
    "complete", "pf", 0.5, (0.25, 0.75), -1.5, {"merging": 0.25, "total": 1.0}, 7, 3, 2, "worker", 1e9, "a note",
    ("it died",), 1, (0.5, 0.25),
)  # fmt: skip
WHOLE = TrialRecord(
    "trial", 4, "", {"density": 0.3, "method": "ties"}, {"models": [{"model": "größer"}]}, SCORED, SCORED,
    Scoring("waiting"), 2, (0, 7), "digest", "tpe", 3, {"generation": [1, 2]},
)  # fmt: skip


def row_of(record: TrialRecord) -> list[Any]:
    scorings = [record.search, record.report, record.confirm]
    nothing: Sequence[object] = [None] * len(SCORING_COLUMNS)
    on_splits = [encoded(each, SCORING_COLUMNS) if each else nothing for each in scorings]
    return [*encoded(record, RECORD_COLUMNS), *(value for each in on_splits for value in each)]


@pytest.mark.parametrize("record", [WHOLE, TrialRecord("parent", 0, "a"), TrialRecord("average", report=SCORED)])
def test_a_record_comes_back_from_its_row(record: TrialRecord) -> None:
    row = row_of(record)
    assert all(value is None or isinstance(value, str | int | float) for value in row)
    assert record_of(row, FILE) == record


def test_a_mapping_is_decoded_when_it_is_used() -> None:
    row = row_of(WHOLE)
    row[RECORD_COLUMNS.index("recipe")] = '{"models": '
    found = record_of(row, FILE)
    assert found.parameters == WHOLE.parameters
    with pytest.raises(SearchError, match=r"search\.db: holds a damaged value; restore it"):
        dict(found.recipe)


@pytest.mark.parametrize(("column", "word"), [("kind", "trail"), ("kind", None), ("state", "complet"), ("state", None)])
def test_a_word_that_no_record_has_is_damage(column: str, word: str | None) -> None:
    row = row_of(WHOLE)
    row[[*RECORD_COLUMNS, *SCORING_COLUMNS].index(column)] = word
    with pytest.raises((ValueError, LookupError)):
        record_of(row, FILE)
