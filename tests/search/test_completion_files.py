"""What models wrote is kept, read again and removed with lost scores."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation import Outcome
from search import SearchError
from search.completion_files import Completion, CompletionFiles
from search.study.record import TrialRecord
from search.study.store import Proposal
from tests.search.study.memory_store import MemoryStore

TRIAL = TrialRecord("trial", 3)


@pytest.fixture
def files(tmp_path: Path) -> CompletionFiles:
    (tmp_path / "run" / "completions").mkdir(parents=True)
    return CompletionFiles(tmp_path / "run" / "completions")


def outcome(text: str) -> Outcome:
    return Outcome("one/alpha", False, "failed", "AssertionError", text, 7)


def kept(text: str) -> Completion:
    return Completion("one/alpha", text, "failed", 7, "AssertionError")


def test_each_split_and_round_has_its_own_file(files: CompletionFiles) -> None:
    files.save(TRIAL, "search", [outcome("a\x85b"), outcome("c")])
    files.save(TRIAL, "report", [outcome("d")])
    for number in (1, 2):
        files.save(TRIAL, "confirm", [outcome(f"e{number}")], number)
    assert sorted(file.name for file in files.folder.iterdir()) == [
        "confirm-1-trial-3.jsonl", "confirm-2-trial-3.jsonl", "report-trial-3.jsonl", "trial-3.jsonl",
    ]  # fmt: skip
    assert files.read(TRIAL, "search") == [kept("a\x85b"), kept("c")]
    assert files.read(TRIAL, "report") == [kept("d")]
    assert files.read(TRIAL, "confirm", 2) == [kept("e2")]


def test_the_same_merge_wrote_the_same(files: CompletionFiles) -> None:
    files.save(TRIAL, "search", [outcome("a")])
    same, other = TrialRecord("trial", 5, same_as=3), TrialRecord("trial", 5)
    assert (files.has(same, "search"), files.has(other, "search")) == (True, False)
    assert files.read(same, "search") == [kept("a")]
    assert not files.read(other, "search")


@pytest.mark.parametrize("text", ["{", '{"task_id": "a"}', "[1]", "\xff"])
def test_a_damaged_file_is_named_with_the_remedy(files: CompletionFiles, text: str) -> None:
    (files.folder / "trial-3.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(SearchError, match=r"completions/trial-3\.jsonl: is damaged: .*--out \S*/run --fresh`"):
        files.read(TRIAL, "search")


def test_a_kept_completion_tells_what_became_of_it(finished: Path) -> None:
    lines = [
        json.loads(line)
        for file in sorted((finished / "completions").iterdir())
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert {each["status"] for each in lines} == {"passed", "failed"}
    assert all(bool(each["detail"]) == (each["status"] != "passed") for each in lines)


def test_completions_that_fill_the_disk_are_one_message(files: CompletionFiles) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(
            SearchError, match=r"completions/trial-3\.jsonl: cannot be written: .*; what was scored is kept"
        ):
            files.save(TRIAL, "search", [outcome("x" * 100_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(files.folder.iterdir())


def test_completions_whose_scores_were_lost_are_removed(files: CompletionFiles) -> None:
    store = MemoryStore(lambda: 0.0)
    references = [*(TrialRecord("parent", number, name) for number, name in enumerate("abc")), TrialRecord("average")]
    with store.sign_in() as living:
        store.begin(references, [Proposal({"density": value}, "warm start") for value in (0.1, 0.2)])
        running = store.claim(living, 9)
        assert running
        files.save(running.record, "search", [])
        with store.sign_in() as dying:
            for state in ("complete", "failed", "lost", "complete", "lost"):
                job = store.claim(dying, 9)
                assert job
                files.save(job.record, "search", [])
                if state != "lost":
                    store.keep(job, job.record.scored("search", replace(job.record.search, state=state)))
        files.save(TrialRecord("trial", 9), "report", [])
        files.remove_lost(store)
    names = sorted(file.name for file in files.folder.iterdir())
    assert names == ["parent-0.jsonl", "parent-1.jsonl", "report-trial-9.jsonl", "trial-0.jsonl"]
