"""The errors of the search package: each names the file and the key, or the folder, and what to do."""

from __future__ import annotations

from evaluation.errors import ModelError, ScreenedError
from merging.errors import MachineError, MergingError


class SearchError(Exception):
    """A config, a results folder or a search that cannot be done as asked."""


# What ends a worker and says nothing of its trial: a person's doing (a second signal ends the command line by
# SystemExit), or the folder's.
STOPS = (KeyboardInterrupt, SystemExit, SearchError)


def is_of_the_candidate(error: Exception) -> bool:
    """Whether an error speaks of the candidate, which would meet it on any machine; every other is the machine's."""
    if isinstance(error, MergingError):
        return not isinstance(error, MachineError)
    return isinstance(error, ModelError | ScreenedError)
