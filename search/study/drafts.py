"""The drafts of a search: its models' completions, shared by all workers through the store.

Guarantees: workers that have read the same drafts have the same references and solutions, whenever they began.
"""

from __future__ import annotations

from evaluation import Draft, DraftStore
from search.study.store import Store


class SharedDrafts(DraftStore):
    """Drafts that other workers read and add to. Those that are added here count from the next `sync` on."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._unsaved: dict[Draft, None] = {}
        self._read_to = 0

    def add(self, entry: Draft) -> None:
        """Add a completion as the most recent one; it will be shared if it changes the drafts."""
        self._unsaved[entry] = None

    def sync(self) -> None:
        """Take over the drafts that others have shared, and share the new ones. Raises SearchError."""
        new = list(filter(self.is_new, self._unsaved))
        others, self._read_to = self._store.share_drafts(new, self._read_to)
        # The order of sharing decides for all workers, so that they compare models by the same references.
        for entry in [*others, *self._unsaved]:
            super().add(entry)
        self._unsaved = {}
