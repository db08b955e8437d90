"""The connection between a pool and a zygote: messages (see `control_messages`), some with a descriptor.

Guarantees: both ends are our own code; the processes that run foreign code do not hold it.
"""

from __future__ import annotations

import contextlib
import socket

from evaluation.sandbox.channel import read_exactly
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
        """Send a message, with a descriptor if one is given. Raises ControlClosed."""
        body = dumped(message)
        size = len(body).to_bytes(4, "big")
        try:
            if descriptor is None:
                self._connection.sendall(size + body)
            else:
                # The descriptor goes with the size, which is short enough never to be split.
                socket.send_fds(self._connection, [size], [descriptor])
                self._connection.sendall(body)
        except OSError:
            raise ControlClosed from None

    def receive(self) -> tuple[Message, int | None]:
        """Wait for a message, and return it with the descriptor that came along. Raises ControlClosed."""
        try:
            head, descriptors, _, _ = socket.recv_fds(self._connection, 4, 1)
            head += read_exactly(self._connection.recv, 4 - len(head))
            body = read_exactly(self._connection.recv, int.from_bytes(head, "big"))
        except (OSError, EOFError):
            raise ControlClosed from None
        return loaded(body), descriptors[0] if descriptors else None

    def wait_at_most(self, seconds: float) -> None:
        """Make a receive that takes longer raise ControlClosed."""
        self._connection.settimeout(seconds)

    def interrupt(self) -> None:
        """End the connection for both ends; a receive that is waiting in another thread raises ControlClosed."""
        with contextlib.suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
