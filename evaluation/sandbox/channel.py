"""Framed messages over a stream descriptor: four bytes of length, then the message.

Guarantees: a reader takes no message beyond MAX_MESSAGE_BYTES, and no descriptor is passed along. It uses only
``read`` and ``write``, which the seccomp filter allows; the filter allows no call for sockets only.
"""

from __future__ import annotations

import os

MAX_MESSAGE_BYTES = 64 << 20


class ChannelClosed(Exception):
    """The other side is gone, or has sent something that is not a message."""


class Channel:
    """One end of a two-way connection."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # Bound before any solution runs, since a solution may replace functions of os.
        self._read = os.read
        self._write = os.write

    def send(self, message: bytes) -> None:
        """Write one message. Raises ChannelClosed."""
        view = memoryview(len(message).to_bytes(4, "big") + message)
        try:
            while view:
                view = view[self._write(self._descriptor, view) :]
        except OSError:
            raise ChannelClosed("it has gone") from None

    def receive(self) -> bytes:
        """Read one message. Raises ChannelClosed."""
        size = int.from_bytes(self._exactly(4), "big")
        if size > MAX_MESSAGE_BYTES:
            raise ChannelClosed(f"it sent a value of more than {MAX_MESSAGE_BYTES >> 20} MiB")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._read(self._descriptor, size)
            except OSError:
                part = b""
            if not part:
                raise ChannelClosed("it has gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
