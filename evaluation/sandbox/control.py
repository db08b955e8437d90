"""The connection between a pool and a zygote: messages (see `control_messages`), some with a descriptor.

Guarantees: both ends run only our own code; processes with foreign code do not hold it.
"""

from __future__ import annotations

import contextlib
import socket

from evaluation.sandbox.control_messages import Message, dumped, loaded


class ControlClosed(Exception):
    """The other end is gone."""


class Control:
    """One end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._connection.fileno()

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message, perhaps with a descriptor. Raises ControlClosed."""
        body = dumped(message)
        size = len(body).to_bytes(4, "big")
        try:
            if descriptor is None:
                self._connection.sendall(size + body)
            else:
                # Four bytes are never split; the rest of the message follows.
                socket.send_fds(self._connection, [size], [descriptor])
                self._connection.sendall(body)
        except OSError:
            raise ControlClosed from None

    def receive(self) -> tuple[Message, int | None]:
        """Wait for a message, and return it with its descriptor, if any. Raises ControlClosed."""
        try:
            head, descriptors, _, _ = socket.recv_fds(self._connection, 4, 1)
            head += self._exactly(4 - len(head)) if head else b""
            if not head:
                raise ControlClosed
            body = self._exactly(int.from_bytes(head, "big"))
        except OSError:
            raise ControlClosed from None
        return loaded(body), descriptors[0] if descriptors else None

    def wait_at_most(self, seconds: float) -> None:
        """Let `receive` raise ControlClosed if it takes longer."""
        self._connection.settimeout(seconds)

    def interrupt(self) -> None:
        """End the connection for both ends; a `receive` in another thread raises ControlClosed."""
        with contextlib.suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._connection.recv(min(size, 1 << 20))
            if not part:
                raise ControlClosed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
