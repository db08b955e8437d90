"""Framed messages over a stream descriptor: four bytes of length, then the message.

Guarantees: a reader accepts no message beyond MAX_MESSAGE_BYTES, and no descriptor is passed along. It uses only
``read`` and ``write``, because the seccomp filter refuses the calls that are for sockets only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

MAX_MESSAGE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


class ChannelClosed(Exception):
    """The other side is gone, or has sent something other than a message."""


class Channel:
    """One end of a two-way connection."""

    def __init__(self, descriptor: int) -> None:
        # Bound before any solution runs, since a solution may replace functions of os.
        self._read = partial(os.read, descriptor)
        self._write = partial(os.write, descriptor)

    def send(self, message: bytes) -> None:
        """Write one message. Raises ChannelClosed."""
        view = memoryview(len(message).to_bytes(4, "big") + message)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError:
            raise ChannelClosed("it has gone") from None

    def receive(self) -> bytes:
        """Read one message. Raises ChannelClosed."""
        try:
            size = int.from_bytes(read_exactly(self._read, 4), "big")
            if size <= MAX_MESSAGE_BYTES:
                return read_exactly(self._read, size)
        except (OSError, EOFError):
            raise ChannelClosed("it has gone") from None
        raise ChannelClosed(f"it sent a value of more than {MAX_MESSAGE_BYTES >> 20} MiB")


def read_exactly(read: Callable[[int], bytes], size: int) -> bytes:
    """Return the next `size` bytes of a stream; `read` may return fewer than it is asked for. Raises EOFError."""
    parts = []
    while size:
        # Not min(): in the solution's process foreign code may have replaced builtins.
        part = read(size if size < _CHUNK_BYTES else _CHUNK_BYTES)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
