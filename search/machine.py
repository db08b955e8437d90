"""The machine of a worker: whether it fails at one candidate or at all.

Guarantees: a machine that fails at several in a row ends its worker before it has done any of them wrong; one candidate
that it fails at again and again, and others not, is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.errors import SearchError
from search.reruns import TRIES
from search.trial import Result

# At how many models in a row a machine may fail.
_IN_A_ROW = 3
# A machine that fails at everything is worth more tries than a candidate at which it alone fails.
_MOST_TRIES = 3


class Machine:
    """What a worker's machine has failed at since it last scored a model.

    Args:
        log: where tracebacks are.

    Attributes:
        failed: by number, and how each is given up if it was run so many times.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.failed: dict[int, Callable[[int], None]] = {}

    def has_scored(self) -> None:
        """Take note that it works: what it failed at before, it failed at alone."""
        self._settle(TRIES)
        self.failed.clear()

    def has_failed(self, number: int, name: str, result: Result, give_up: Callable[[int], None]) -> None:
        """Take note of what it failed at. Raises SearchError if that ends the worker."""
        self.failed[number] = give_up
        if not result.device_lost and len(self.failed) < _IN_A_ROW:
            return
        row = f"at {len(self.failed)} models in a row, the last one " if len(self.failed) > 1 else "at "
        if not result.device_lost:
            self._settle(_MOST_TRIES)
        raise SearchError(
            f"the machine fails {row}{name}: {result.note.partition(chr(10))[0]}; {self._log} tells more; what was "
            "scored is kept: put the machine right and run the same command again, which goes on"
        )

    def rests(self) -> None:
        """Take note that nothing is left to do: of a single failure there is no sign that it was more than that."""
        if len(self.failed) == 1:
            self._settle(TRIES)

    def _settle(self, tries: int) -> None:
        for give_up in self.failed.values():
            give_up(tries)
