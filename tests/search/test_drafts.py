"""Workers share what their models wrote through a file that any of them may be killed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation import Draft
from search.drafts import SharedDrafts
from search.errors import SearchError


def test_workers_read_what_the_others_saved(tmp_path: Path) -> None:
    one, other = SharedDrafts(tmp_path / "drafts.jsonl"), SharedDrafts(tmp_path / "drafts.jsonl")
    one.add(Draft("p", (1, 2), parent=True, passed=True))
    one.sync()
    other.add(Draft("p", (3,)))
    other.sync()
    one.sync()
    assert one.drafts("p") == other.drafts("p") == [(3,), (1, 2)]
    assert other.reference("p") == (1, 2)


def test_what_says_nothing_new_is_not_saved(tmp_path: Path) -> None:
    drafts = SharedDrafts(tmp_path / "drafts.jsonl")
    drafts.add(Draft("p", (1, 2)))
    drafts.sync()
    size = (tmp_path / "drafts.jsonl").stat().st_size
    drafts.add(Draft("p", (1, 2)))
    drafts.sync()
    assert (tmp_path / "drafts.jsonl").stat().st_size == size


@pytest.mark.parametrize("cut", range(1, 24, 3))
def test_a_torn_line_costs_its_entry_alone(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "drafts.jsonl"
    killed = SharedDrafts(file)
    killed.add(Draft("p", (1, 2)))
    killed.sync()
    killed.add(Draft("p", (3, 4)))
    killed.sync()
    file.write_bytes(file.read_bytes()[:-cut])
    after = SharedDrafts(file)
    after.add(Draft("p", (5, 6)))
    after.sync()
    again = SharedDrafts(file)
    again.sync()
    assert again.drafts("p")[0] == (5, 6)
    assert again.drafts("p")[-1] == (1, 2)


@pytest.mark.parametrize(
    "line",
    [
        "null", "7", '"text"', "{}", "[]", '["p", [1], true]', '["p", [1], true, false, 0]', '["p", null, true, true]',
        '["p", ["1"], true, true]', '["p", [1.5], true, true]', '["p", [true], true, true]', '["p", [-1], true, true]',
        '["p", [99999999999], true, true]', '[["p"], [1], true, true]', '[{}, [1], true, true]', '["p", [1], 1, 0]',
        '{"prompt": 1, "tokens": [2], "parent": 3, "passed": 4}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_entry_costs_nothing_else(tmp_path: Path, line: str) -> None:
    (tmp_path / "drafts.jsonl").write_text(f'["p",[1,2],true,true]\n{line}\n["p",[3],false,false]\n')
    drafts = SharedDrafts(tmp_path / "drafts.jsonl")
    drafts.sync()
    assert drafts.drafts("p") == [(3,), (1, 2)]
    assert [entry.prompt for entry in drafts.entries()] == ["p", "p"]


def test_a_file_that_has_grown_is_written_anew_and_read_by_all(tmp_path: Path) -> None:
    file = tmp_path / "drafts.jsonl"
    one, other = SharedDrafts(file, most_bytes=2_000), SharedDrafts(file, most_bytes=2_000)
    for number in range(300):
        one.add(Draft("p", (number,)))
        one.sync()
        assert file.stat().st_size < 2_100
        if number % 50 == 0:
            other.sync()
    other.sync()
    assert other.drafts("p")[0] == (299,)
    assert len(other.drafts("p")) > 5


def test_a_file_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    drafts = SharedDrafts(tmp_path / "missing" / "drafts.jsonl")
    with pytest.raises(SearchError, match=r"cannot be written: No such file or directory; .*make room"):
        drafts.sync()
