"""The gate of a pool: it lets checks in together, or a single one alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Lets many threads in at once, or one alone, which waits until the others have left."""

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._left = threading.Condition()
        self._inside = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Be inside together with others. A thread that is inside alone, or waits to be, goes first."""
        with self._door, self._left:
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                self._left.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone."""
        with self._door:
            with self._left:
                self._left.wait_for(lambda: not self._inside)
            yield
