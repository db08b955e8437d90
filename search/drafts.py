"""The drafts of a search: what its models wrote, in a file beside the results that all workers share.

    drafts.jsonl           a line a completion that says something new: [prompt's key, token ids, parent?, passed?]

Guarantees: a worker that is killed while it writes leaves a torn line at most. Readers pass over it and whatever
else is no entry. The file is written anew, shorter, where it has grown; what is lost with it is time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from evaluation import Draft, DraftStore
from search.errors import SearchError
from search.locks import exclusive
from search.results import MAKE_ROOM, write_atomically

_MOST_BYTES = 64 * 2**20
_MOST_TOKENS = 2**31  # in a vocabulary, far beyond any


class SharedDrafts(DraftStore):
    """A book of drafts that other workers read from and write to.

    Args:
        file: where the entries are.
        most_bytes: how far the file may grow before it is written anew.
    """

    def __init__(self, file: Path, most_bytes: int = _MOST_BYTES) -> None:
        super().__init__()
        self._file = file
        self._lock = file.with_name(f".{file.name}.lock")
        self._most_bytes = most_bytes
        self._unsaved: list[Draft] = []
        self._read_to = 0
        self._inode = 0

    def add(self, entry: Draft) -> bool:
        """Put a completion first, to be saved if it says something new."""
        new = super().add(entry)
        if new:
            self._unsaved.append(entry)
        return new

    def sync(self) -> None:
        """Read what others have saved, and save what is new here. Raises SearchError if the file cannot be written."""
        try:
            with exclusive(self._lock):
                self._read()
                self._append()
                if self._read_to > self._most_bytes:
                    self._shorten()
        except OSError as error:
            raise SearchError(f"{self._file}: cannot be written: {error.strerror}; {MAKE_ROOM}") from None

    def _read(self) -> None:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            # Another worker has written the file anew: all of it is read again, which changes nothing but the order.
            file.seek(self._read_to if inode == self._inode else 0)
            for line in file.read().split(b"\n"):
                if entry := _parsed(line):
                    super().add(entry)
            self._inode, self._read_to = inode, file.tell()

    def _append(self) -> None:
        if not self._unsaved:
            return
        with self._file.open("ab") as file:
            # What a killed worker left of a line ends here.
            file.write(b"".join([b"\n", *(_line(entry) for entry in self._unsaved)]))
            self._inode, self._read_to = os.fstat(file.fileno()).st_ino, file.tell()
        self._unsaved = []

    def _shorten(self) -> None:
        text = b"".join(map(_line, self.entries()))
        write_atomically(self._file, text.decode("ascii"))
        self._inode, self._read_to = self._file.stat().st_ino, len(text)


def _line(entry: Draft) -> bytes:
    flat = [entry.prompt, list(entry.tokens), entry.parent, entry.passed]
    return json.dumps(flat, separators=(",", ":")).encode("ascii") + b"\n"


def _parsed(line: bytes) -> Draft | None:
    """Return the entry of a line; None for a line that is torn, blank or no entry."""
    try:
        prompt, tokens, parent, passed = json.loads(line)
        is_entry = isinstance(prompt, str) and isinstance(tokens, list) and {type(parent), type(passed)} == {bool}
        if not is_entry or not all(type(token) is int and 0 <= token < _MOST_TOKENS for token in tokens):
            return None
    except (ValueError, TypeError, RecursionError):
        return None
    return Draft(prompt, tuple(tokens), parent, passed)
