"""The machine of a worker: whether it fails at one candidate or at every one.

Guarantees: a machine that fails at several candidates in a row ends its worker before they are blamed for it. If it
fails at a single candidate again and again, that candidate is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.errors import SearchError
from search.study.store import TRIES

# A machine that fails at this many models in a row ends its worker.
_IN_A_ROW = 3
# If the machine fails at everything, its models get more tries than a candidate that is the only one to fail.
_MOST_TRIES = 3


class Machine:
    """The models at which a worker's machine has failed since it last scored one.

    Args:
        log: the file with the tracebacks.

    Attributes:
        failed: by the record's key, a function that gives the job up if it was tried at least this many times.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.failed: dict[str, Callable[[int], None]] = {}

    def has_scored(self) -> None:
        """Note that the machine works, so that its earlier failures are the candidates' own."""
        self._settle(TRIES)
        self.failed.clear()

    def has_failed(self, key: str, name: str, reason: str, device_lost: bool, give_up: Callable[[int], None]) -> None:
        """Note a model at which the machine failed. Raises SearchError if that ends the worker."""
        self.failed[key] = give_up
        if not device_lost and len(self.failed) < _IN_A_ROW:
            return
        row = f"at {len(self.failed)} models in a row, the last one " if len(self.failed) > 1 else "at "
        if not device_lost:
            self._settle(_MOST_TRIES)
        raise SearchError(
            f"the machine fails {row}{name}: {reason.partition(chr(10))[0]}; see {self._log}; what was "
            "scored is kept: fix the machine and run the same command again, which continues"
        )

    def rests(self) -> None:
        """Note that nothing is left to do: a single failure then counts as the candidate's."""
        if len(self.failed) == 1:
            self._settle(TRIES)

    def _settle(self, tries: int) -> None:
        for give_up in self.failed.values():
            give_up(tries)
