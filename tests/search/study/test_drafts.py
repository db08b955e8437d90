"""Workers share what their models generated through the store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from evaluation import Draft
from search.study.drafts import SharedDrafts
from search.study.local_store import LocalStore
from tests.search.study.memory_store import MemoryStore


def test_workers_read_what_the_others_shared() -> None:
    store = MemoryStore(lambda: 0.0)
    one, other = SharedDrafts(store), SharedDrafts(store)
    one.add(Draft("p", (1, 2), parent=True, passed=True))
    one.sync()
    other.add(Draft("p", (3,)))
    other.sync()
    one.sync()
    assert one.drafts("p") == other.drafts("p") == [(3,), (1, 2)]
    assert other.reference("p") == (1, 2)


def test_workers_that_score_parents_at_once_have_the_same_references() -> None:
    store = MemoryStore(lambda: 0.0)
    one, other = SharedDrafts(store), SharedDrafts(store)
    one.add(Draft("p", (5,), parent=True, passed=True))
    other.add(Draft("p", (1,), parent=True, passed=True))
    other.add(Draft("q", (2,), parent=True, passed=True))
    one.add(Draft("q", (3,), parent=True, passed=False))
    for drafts in (one, other, one):
        drafts.sync()
    resumed = SharedDrafts(store)
    resumed.sync()
    for drafts in (one, other, resumed):
        assert (drafts.reference("p"), drafts.reference("q")) == ((5,), (2,))


def test_workers_whose_trials_pass_at_once_have_the_same_solutions() -> None:
    store = MemoryStore(lambda: 0.0)
    one, other = SharedDrafts(store), SharedDrafts(store)
    one.add(Draft("p", (5,), passed=True))
    other.add(Draft("p", (1,), passed=True))
    for drafts in (one, other, one):
        drafts.sync()
    resumed = SharedDrafts(store)
    resumed.sync()
    assert [drafts.solution("p") for drafts in (one, other, resumed)] == [(5,)] * 3


def test_a_worker_that_begins_late_has_the_solution_of_those_before(tmp_path: Path) -> None:
    with closing(LocalStore.create(tmp_path, "run", {})) as store:
        drafts = SharedDrafts(store)
        for number in range(300):
            drafts.add(Draft("p", (number,), passed=number in (7, 20)))
            drafts.sync()
        kept, _ = store.share_drafts([])
        late = SharedDrafts(store)
        late.sync()
    assert len(kept) < 30
    assert late.solution("p") == drafts.solution("p") == (7,)


def test_what_says_nothing_new_is_not_shared() -> None:
    store = MemoryStore(lambda: 0.0)
    drafts = SharedDrafts(store)
    for _ in range(2):
        drafts.add(Draft("p", (1, 2)))
        drafts.sync()
    assert store.share_drafts([])[0] == [Draft("p", (1, 2))]


def test_a_prompt_has_the_last_drafts_and_those_of_its_parents(tmp_path: Path) -> None:
    with closing(LocalStore.create(tmp_path, "run", {})) as store:
        drafts = SharedDrafts(store)
        drafts.add(Draft("p", (1, 2), parent=True, passed=True))
        for number in range(300):
            drafts.add(Draft("p", (number,)))
            drafts.add(Draft("q", (number % 3,)))
            drafts.sync()
        kept, _ = store.share_drafts([])
        again = SharedDrafts(store)
        again.sync()
    assert len(kept) < 60
    assert again.drafts("p") == drafts.drafts("p")
    assert again.drafts("q") == [(2,), (1,), (0,)]
    assert again.reference("p") == (1, 2)
