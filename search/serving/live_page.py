"""The report, served while its search runs.

Guarantees: only this machine can reach the server, and other sites' pages cannot (other ``Host`` headers are refused).
A page is made only on request, if records have changed; making pages takes at most a tenth of a core's time.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from search.errors import SearchError
from search.evidence import SearchEvidence
from search.results import ResultsFolder
from search.views.report.page import page, page_of, utf8
from search.views.report.section import Section, rendered

ADDRESS: Final = "127.0.0.1"
PORT: Final = 8765
"""The port of the report if none is given and this one is free."""
_NAMES: Final = frozenset({ADDRESS, "localhost", "[::1]"})  # with any port: ssh may forward another
_PORT: Final = re.compile(r":[0-9]*\Z")
_PAUSE: Final = 9  # after a page is made, none is made for this many times as long
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class LivePage:
    """The page of a search, always up to date.

    Args:
        folder: the results folder, which need not exist yet.
        clock: returns the time in seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._version = ""
        self._content = b""
        self._rests_until = float("-inf")

    def version(self) -> str:
        """Return the version of the page that would be shown now; it changes with the records."""
        with self._lock:
            return self._version if self._rests else _version(self._folder)

    def content(self) -> bytes:
        """Return the page, made again if records have changed."""
        with self._lock:
            version = self._version if self._rests else _version(self._folder)
            if version != self._version:
                began = self._clock()
                self._content = self._made(version)
                self._version, ended = version, self._clock()
                self._rests_until = ended + _PAUSE * (ended - began)
            return self._content

    @property
    def _rests(self) -> bool:
        return self._clock() < self._rests_until

    def _made(self, version: str) -> bytes:
        try:
            return utf8(page(SearchEvidence.open(self._folder), live=version))
        except SearchError as error:
            is_there = ResultsFolder.is_one(self._folder)
            html = rendered("waiting.html", folder=self._folder, error=str(error) if is_there else "")
            section = Section("waiting", "Not yet", html)
            return utf8(page_of(self._folder.name, [section], figures=False, live=version))


def _version(folder: Path) -> str:
    """Return a text that changes whenever the page of a results folder would."""
    try:
        # A search that was started over has another folder, and counts its revisions from the beginning.
        place = folder.stat().st_ino
        with ResultsFolder.open(folder).reading() as store:
            revision, workers = store.changed(since=2**62)[1], len(store.at_work())
        now = f"{place} {revision} {workers}"
    except (SearchError, OSError) as error:
        now = str(error)
    return hashlib.sha256(now.encode(errors="replace")).hexdigest()


def server_of(live: LivePage, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on this machine; port 0 takes a free one. Raises OSError."""
    return ThreadingHTTPServer((ADDRESS, port), partial(_Handler, live))


class _Handler(BaseHTTPRequestHandler):
    """Answers ``/`` with the page, and ``/version`` with its version."""

    def __init__(self, live: LivePage, *given: object) -> None:
        self._live = live
        super().__init__(*given)  # type: ignore[arg-type]  # what the server gives

    def do_GET(self) -> None:
        """Answer a request."""
        if _PORT.sub("", self.headers.get("Host", "")) not in _NAMES:
            self._send(HTTPStatus.FORBIDDEN, b"open this page as localhost or 127.0.0.1\n", "text/plain; charset=utf-8")
        elif self.path == "/":
            self._send(HTTPStatus.OK, self._live.content(), "text/html; charset=utf-8")
        elif self.path == "/version":
            self._send(HTTPStatus.OK, self._live.version().encode(errors="replace"), "text/plain; charset=utf-8")
        elif self.path == "/favicon.ico":
            self._send(HTTPStatus.NO_CONTENT, b"", "image/png")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is only /\n", "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        with contextlib.suppress(ConnectionError):  # the client is gone
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests."""
