"""Hubs that give no model and no problem set: one never answers, the other is behind a proxy that refuses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

_SECONDS = 0.3  # how long clients wait for the answer that never comes


@contextmanager
def silent_hub(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let the hub be a server that takes connections and never answers; yield its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server, _hub(folder, patch):
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", _SECONDS)
        yield address


@contextmanager
def refusing_proxy(folder: Path, patch: pytest.MonkeyPatch, answer: bytes) -> Iterator[None]:
    """Let the hub be behind a proxy that answers every request so."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        for name in ("HTTPS_PROXY", "https_proxy"):
            patch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            patch.delenv(name, raising=False)
        with _hub(folder, patch):
            patch.setattr(constants, "ENDPOINT", "https://hub.invalid")
            yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@contextmanager
def _hub(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder))
    close_session()  # which knows the proxies of when it was opened
    yield
    close_session()
