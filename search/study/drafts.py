"""The drafts of a search: its models' completions, shared by all workers through the store."""

from __future__ import annotations

from evaluation import Draft, DraftStore
from search.study.store import Store


class SharedDrafts(DraftStore):
    """Drafts that other workers read and add to."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._unsaved: list[Draft] = []
        self._read_to = 0

    def add(self, entry: Draft) -> bool:
        """Add a completion as the most recent one; it will be shared if it changes the drafts."""
        new = super().add(entry)
        if new:
            self._unsaved.append(entry)
        return new

    def sync(self) -> None:
        """Take over the drafts that others have shared, and share the new ones. Raises SearchError."""
        others, self._read_to = self._store.share_drafts(self._unsaved, self._read_to)
        mine, self._unsaved = [entry for entry in self._unsaved if entry.parent], []
        # The order of sharing decides for all workers, so that they compare likelihoods of the same references.
        for entry in mine:
            self.withdraw(entry)
        for entry in [*others, *mine]:
            super().add(entry)
