"""Room: what to do where memory runs out while parents are merged or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from merging.errors import OutOfMemory, first_line
from merging.residency.memory import is_out_of_memory

T = TypeVar("T")


def with_room(work: Callable[[], T], give_up: Callable[[], int], what: str) -> T:
    """Do some work; where memory runs out, something is given up and it is done again.

    Args:
        work: may be done again from its beginning.
        give_up: frees memory that can be spared, and returns its bytes; 0 where none is left.
        what: of the work, for people: where, and what it does.

    Raises:
        OutOfMemory: nothing is left to give up.
    """
    is_last = False
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        # Only here: the error held what its frames held.
        if give_up():
            continue
        if is_last:
            raise OutOfMemory(f"{what}: {reason}; choose another device (device: cpu), or fewer parents")
        is_last = True  # another thread may have given up what was left, or ended
