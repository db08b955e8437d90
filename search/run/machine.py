"""The machine of a worker: whether it fails at one candidate or at all.

Guarantees: a machine that fails at several in a row ends its worker before it has done any of them wrong; one candidate
that it fails at again and again, and others not, is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.errors import SearchError
from search.study.store import TRIES

# At how many models in a row a machine may fail.
_IN_A_ROW = 3
# A machine that fails at everything is worth more tries than a candidate at which only it fails.
_MOST_TRIES = 3


class Machine:
    """What a worker's machine has failed at since it last scored a model.

    Args:
        log: where tracebacks are.

    Attributes:
        failed: by the record's key, and how the job is given up if it was tried so many times.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.failed: dict[str, Callable[[int], None]] = {}

    def has_scored(self) -> None:
        """Note that it works: its earlier failures were those of single candidates."""
        self._settle(TRIES)
        self.failed.clear()

    def has_failed(self, key: str, name: str, reason: str, device_lost: bool, give_up: Callable[[int], None]) -> None:
        """Note what it failed at. Raises SearchError if that ends the worker."""
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
