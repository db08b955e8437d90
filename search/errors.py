"""The errors of the search package. Each names the file and the key, or the folder, and what to do."""

from __future__ import annotations

from pathlib import Path

from evaluation.errors import ModelError
from merging.errors import MachineError, MergingError
from search.shell import shell_command

# The remedy for a results folder that cannot be written.
MAKE_ROOM = "what was scored is kept: make room (or the folder writable) and run the same command again"


class SearchError(Exception):
    """A config, a results folder or a search that cannot be used as requested."""


def start_over(folder: Path, config: str = "CONFIG") -> str:
    """Return the command that starts a search over in its results folder, and moves the old results aside."""
    return f"`{shell_command('run', config, '--out', folder, '--fresh')}`"


def restore(folder: Path) -> str:
    """Return the remedy for a damaged results folder."""
    return f"restore it from a copy, or start over with {start_over(folder)}"


class PrunedError(Exception):
    """A pruner has ended the scoring of a candidate early.

    Args:
        reason: why, in words for the user.
        log_likelihood: the mean log-likelihood of the reference completions, in nats per token, if it is known.
    """

    def __init__(self, reason: str, log_likelihood: float | None = None) -> None:
        super().__init__(reason)
        self.log_likelihood = log_likelihood


# Errors that end a worker but say nothing about its trial: the user stopped it (a second signal raises SystemExit in
# the command line), or the results folder cannot be used.
STOPS = (KeyboardInterrupt, SystemExit, SearchError)


def is_of_the_candidate(error: Exception) -> bool:
    """Whether an error is the candidate's, and so would occur on every machine; all others are this machine's."""
    if isinstance(error, MergingError):
        return not isinstance(error, MachineError)
    return isinstance(error, ModelError | PrunedError)
