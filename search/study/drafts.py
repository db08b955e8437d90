"""The drafts of a search: what its models generated, shared by all workers through the store."""

from __future__ import annotations

from evaluation import Draft, DraftStore
from search.study.store import Store


class SharedDrafts(DraftStore):
    """Drafts that other workers read, and add to."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._unsaved: list[Draft] = []
        self._read_to = 0

    def add(self, entry: Draft) -> bool:
        """Put a completion first, to be shared if it says something new."""
        new = super().add(entry)
        if new:
            self._unsaved.append(entry)
        return new

    def sync(self) -> None:
        """Take over what others have shared, and share what is new here. Raises SearchError."""
        others, self._read_to = self._store.share_drafts(self._unsaved, self._read_to)
        mine, self._unsaved = [entry for entry in self._unsaved if entry.parent], []
        # Who shares first is first for all: otherwise two workers would compare likelihoods of other references.
        for entry in mine:
            self.withdraw(entry)
        for entry in [*others, *mine]:
            super().add(entry)
