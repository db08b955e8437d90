"""A folder of statistics: what was computed from the parents, kept for the next process by a digest of its sources.

This saves time whenever a search is started again: tests/benchmarks/statistics_on_disk.py times the start with and
without it.

    numbers.json           statistics that are a few numbers
    NAME-KEY.safetensors   each of the others

Guarantees: a statistic that is found has the bits that were written for the same parents, code and version of torch, on
any device. Whatever happens to the folder (a killed or a second writer, a full disk, damage, removal) costs only time.
Large statistics are mapped, so that the system can take their memory back. Nothing is written before `writes` is set.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from merging.caches import put, sweep
from merging.checkpoints.headers import DTYPES, TensorEntry, header
from merging.checkpoints.weights import read_header, read_metadata
from merging.errors import MergingError
from merging.statistics.digests import FileChanged, FileDigests
from merging.statistics.forms import Named

# By title and name, as in numbers.json: the dtype, the shape and the bytes in hexadecimal.
_Few: TypeAlias = dict[str, dict[str, list[Any]]]

_LOG = logging.getLogger("merging.statistics")

_SUFFIX = ".safetensors"
# Statistics of fewer bytes share one file.
_SMALL = 1 << 12
# The bytes of the disk that are left free: the results need them.
_LEFT_FREE = 1 << 30
# Stands for the numbers of a statistic that was requested with different ones.
_VARYING = "varying"


@dataclass(frozen=True, slots=True)
class StatisticKey:
    """The identity of a statistic.

    Attributes:
        name: the statistic's name.
        key: a digest of what it is made of.
        numbers: the recipe's numbers that it also depends on, or None; the folder keeps it for one set of them.
    """

    name: str
    key: str
    numbers: str | None = None

    @property
    def title(self) -> str:
        """The name of its file, without the suffix."""
        return f"{self.name.partition(' ')[0]}-{self.key[:40]}"


class StatisticsFolder:
    """Statistics on disk. Safe to use from several threads and processes.

    Args:
        path: the folder.
        digests: the digests of the parents' files, made before the files were opened.

    Attributes:
        writes: whether computed statistics are written.
    """

    def __init__(self, path: Path, digests: FileDigests | None = None) -> None:
        self.writes = False
        self._path = path
        self._digests = digests or FileDigests()
        self._small: _Few = {}
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def identity(
        self, name: str, version: int, made_of: Callable[[Callable[[Path], str]], object], numbers: object = None
    ) -> StatisticKey | None:
        """Return a statistic's identity, or None if a file that it is made of has changed.

        Args:
            name: the statistic's name.
            version: the version of the code that computes it.
            made_of: returns plain data that identifies its sources, given a function that returns a file's digest.
            numbers: the recipe's numbers that it also depends on.
        """
        try:
            content = [name, version, torch.__version__, made_of(self._digests.of)]
        except FileChanged:
            return None
        key = sha256(json.dumps(content).encode()).hexdigest()
        return StatisticKey(name, key, None if numbers is None else repr(numbers))

    def read(self, identity: StatisticKey) -> Named | None:
        """Return a statistic's tensors, on the CPU, or None if they are not there."""
        if (few := self._found.get(identity.title)) is not None:
            return {name: _number(*each) for name, each in few.items()}
        file = self._file(identity)
        try:
            return _read(file, identity) if file.exists() else None
        except (MergingError, OSError, KeyError, ValueError):
            self._say(f"{file}: is damaged or not ours; it is computed again")
            return None

    def write(self, identity: StatisticKey, tensors: Named) -> None:
        """Keep a statistic's tensors; if they depend on numbers, only while the numbers stay the same."""
        if not self.writes:
            return
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if identity.numbers is None and sum(tensor.nbytes for tensor in flat.values()) < _SMALL:
            self._small[identity.title] = {name: _hex(tensor) for name, tensor in flat.items()}
            return
        self._try(lambda: self._write_file(identity, flat))

    def save(self) -> None:
        """Write the small statistics that share a file."""
        if not self.writes:
            return
        with self._lock:
            if self._small:
                content = {**self._read_numbers(), **self._small}
                self._try(lambda: self._write_numbers(content))
                self._found.update(self._small)
                self._small = {}

    def clean(self) -> None:
        """Remove what killed writers left unfinished."""
        sweep(self._path)

    @cached_property
    def _found(self) -> _Few:
        return self._read_numbers()

    def _file(self, identity: StatisticKey) -> Path:
        return self._path / (identity.title + _SUFFIX)

    def _write_file(self, identity: StatisticKey, tensors: Named) -> None:
        file = self._file(identity)
        if identity.numbers is not None and (there := _numbers_in(file)) is not None and there != identity.numbers:
            # The numbers are searched: one statistic per candidate would not be worth its space.
            if there != _VARYING:
                self._put(file, _content(StatisticKey(identity.name, identity.key, _VARYING), {}))
            return
        self._put(file, _content(identity, tensors))

    def _read_numbers(self) -> _Few:
        file = self._path / "numbers.json"
        try:
            checksum, _, text = file.read_bytes().partition(b"\n")
            if int(checksum) == zlib.crc32(text):
                found: _Few = json.loads(text)
                return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            pass
        self._say(f"{file}: is damaged or not ours; its numbers are computed again")
        return {}

    def _write_numbers(self, content: _Few) -> None:
        text = json.dumps(content).encode()
        self._put(self._path / "numbers.json", [b"%d\n" % zlib.crc32(text), text])

    def _put(self, file: Path, parts: Iterable[bytes | memoryview]) -> None:
        parts = list(parts)
        self._path.mkdir(exist_ok=True)
        if shutil.disk_usage(self._path).free < sum(map(len, parts)) + _LEFT_FREE:
            raise OSError(None, "the disk is nearly full")
        put(file, *parts)

    def _try(self, write: Callable[[], None]) -> None:
        """Write; on failure, say once why nothing more will be written."""
        try:
            if self.writes:
                write()
        except OSError as error:
            self.writes = False
            self._say(f"{self._path}: cannot be written ({error.strerror}); statistics are computed again next time")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _LOG.warning(message)


def _content(identity: StatisticKey, tensors: Named) -> list[bytes | memoryview]:
    # The largest comes first, where it is aligned, so that it can be mapped.
    items = sorted(tensors.items(), key=lambda item: -item[1].nbytes)
    entries = [TensorEntry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in items]
    parts = [_memory(tensor) for _, tensor in items]
    metadata = {"key": identity.key, "numbers": identity.numbers or "", "checksum": str(_checksum(entries, parts))}
    return [header(entries, metadata), *parts]


def _read(file: Path, identity: StatisticKey) -> Named | None:
    metadata = read_metadata(file)
    if metadata["key"] != identity.key:
        raise ValueError
    if metadata["numbers"] != (identity.numbers or ""):
        return None
    stored = read_header(file)
    tensors = {name: each.view() for name, each in stored.items()}
    if int(metadata["checksum"]) != _checksum(stored.values(), [_memory(tensor) for tensor in tensors.values()]):
        raise ValueError
    return tensors


def _numbers_in(file: Path) -> str | None:
    try:
        return read_metadata(file)["numbers"] if file.exists() else None
    except (MergingError, OSError, KeyError):
        return None


def _checksum(entries: Iterable[TensorEntry], parts: Iterable[memoryview]) -> int:
    described = [(entry.name, list(entry.shape), str(entry.dtype)) for entry in entries]
    checksum = zlib.crc32(repr(described).encode())
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _memory(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _hex(tensor: Tensor) -> list[object]:
    name = next(name for name, dtype in DTYPES.items() if dtype == tensor.dtype)
    return [name, list(tensor.shape), bytes(_memory(tensor)).hex()]


def _number(dtype: str, shape: list[int], content: str) -> Tensor:
    memory = torch.empty(shape, dtype=DTYPES[dtype])
    _memory(memory)[:] = bytes.fromhex(content)
    return memory
