"""Statistics of a parent set: found in memory by name, tensors and parents, else on disk, else computed.

Guarantees: a value with a form has the same bits whether it was computed or found. Without a folder or a form, no file
is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from merging.residency.memory_errors import return_freed_memory
from merging.statistics.digests import FileDigests
from merging.statistics.folder import StatisticKey, StatisticsFolder
from merging.statistics.forms import Form, Named

_LOG = logging.getLogger("merging.statistics")

T = TypeVar("T")

Placing: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]

_NOTHING: Named = {}
# From this size on, a written statistic is mapped from its file, so that it takes no memory of its own.
_LARGE = 1 << 16


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """How a statistic is kept beyond the process.

    Attributes:
        name: the statistic's name.
        form: its form on disk.
        made_of: returns plain data that identifies its sources, given a function that returns a file's digest.
        place: puts a tensor where there is room for it, given the tensor that it replaces, whose memory it may take
            over; None if tensors stay where they are made.
    """

    name: str
    form: Form[T]
    made_of: Callable[[Callable[[Path], str]], object]
    place: Placing | None


class Statistics:
    """The statistics of a parent set.

    Args:
        folder: the folder that keeps them on disk, or None.
        digests: the digests of the parents' files, made before the files were opened.
    """

    def __init__(self, folder: Path | None = None, digests: FileDigests | None = None) -> None:
        self._memo: dict[Hashable, tuple[Hashable, Any]] = {}  # the numbers that a value depends on, and the value
        self._folder = StatisticsFolder(folder, digests) if folder else None
        self._unwritten: dict[Hashable, tuple[StatisticKey, Kept[object]]] = {}
        self._found = self._computed = 0

    def once(self, key: Hashable, compute: Callable[[], T], kept: Kept[T] | None = None) -> T:
        """Return what `compute` returned the first time for this key, from disk if it is kept there."""
        return self.last(key, None, compute, kept)

    def last(self, key: Hashable, numbers: Hashable, compute: Callable[[], T], kept: Kept[T] | None = None) -> T:
        """Return the value for this key and these numbers, computed again only if the numbers changed since last time.

        For large values that depend on numbers which may be searched: only one value is held.
        """
        entry = self._memo.get(key)
        if entry is None or entry[0] != numbers:
            self._memo.pop(key, None)  # frees its memory before the next value is made, unless that takes it over
            is_placed = kept is not None and kept.form.is_placed and kept.place is not None
            old = kept.form.tensors(entry[1]) if entry and kept and is_placed else _NOTHING
            entry = None
            entry = (numbers, compute() if kept is None else self._find(key, numbers, compute, kept, old))
            self._memo[key] = entry
        value: T = entry[1]
        return value

    def write(self) -> None:
        """From now on, write statistics that have a form; those computed before are written at once."""
        if self._folder is None:
            return
        self._folder.writes = True
        self._folder.clean()
        for key, (identity, kept) in self._unwritten.items():
            if key in self._memo:
                numbers, value = self._memo[key]
                self._memo[key] = numbers, self._mapped(identity, kept, self._write(identity, kept, value))
        self._unwritten.clear()
        self.save()

    def save(self) -> None:
        """Write the small statistics gathered so far, and log how many were found and computed."""
        if self._folder is not None and self._found + self._computed:
            self._folder.save()
            _LOG.info("statistics: %d found on disk, %d computed", self._found, self._computed)
            self._found = self._computed = 0

    def clear(self) -> None:
        """Forget everything."""
        self.save()
        self._memo.clear()
        self._unwritten.clear()

    def _find(
        self, key: Hashable, numbers: object, compute: Callable[[], T], kept: Kept[T], old: Named = _NOTHING
    ) -> T:
        self._unwritten.pop(key, None)
        folder = self._folder if kept.form.is_written else None
        identity = folder.identity(kept.name, kept.form.version, kept.made_of, numbers) if folder else None
        if folder is None or identity is None:
            return _placed(compute(), kept, old)
        if found := self._read(identity, kept):
            self._found += 1
            return _placed(found[0], kept, old)
        self._computed += 1
        made = compute()
        if folder.identity(kept.name, kept.form.version, kept.made_of, numbers) is None:
            return _placed(made, kept, old)  # a file changed meanwhile: what was read may be its old content or its new
        if folder.writes:
            self._write(identity, kept, made)
            return self._mapped(identity, kept, _placed(made, kept, old))
        self._unwritten[key] = identity, kept  # type: ignore[assignment]
        return _placed(made, kept, old)

    def _read(self, identity: StatisticKey, kept: Kept[T]) -> tuple[T] | None:
        assert self._folder is not None
        # The first caller may be in inference mode, but kept tensors must also work outside of it.
        with torch.inference_mode(False), torch.no_grad():
            tensors = self._folder.read(identity)
            return None if tensors is None else (kept.form.value(tensors),)

    def _write(self, identity: StatisticKey, kept: Kept[T], value: T) -> T:
        assert self._folder is not None
        self._folder.write(identity, kept.form.tensors(value))
        return value

    def _mapped(self, identity: StatisticKey, kept: Kept[T], value: T) -> T:
        """Return a written value; if it is large on the host, its file is mapped, so that the system may free it.

        Tensors on a device or in pinned memory stay there.
        """
        own = kept.form.tensors(value)
        in_memory = {name for name, each in own.items() if each.device.type == "cpu" and not each.is_pinned()}
        is_large = sum(own[name].nbytes for name in in_memory) >= _LARGE
        again = self._read(identity, kept) if is_large else None
        if again is None:
            return value
        return_freed_memory()  # of the statistics before this one, which the C library keeps
        mapped = kept.form.tensors(again[0])
        return kept.form.value({name: mapped[name] if name in in_memory else each for name, each in own.items()})


def _placed(made: T, kept: Kept[T], old: Named) -> T:
    """Return a value whose tensors lie where there is room for them."""
    place = kept.place
    if place is None or not kept.form.is_placed:
        return made
    return kept.form.value({name: place(each, old.get(name)) for name, each in kept.form.tensors(made).items()})
