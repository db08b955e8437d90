"""The report as a server shows it: always as the search stands, and only to this machine."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.serving.live_page import LivePage, server_of
from tests.search.conftest import Command
from tests.search.views.report.ugly import Search, at_work, make

SMALL = Search(trials=2, problems=4, failed=0.0, pruned=0.0)


@contextmanager
def served(live: LivePage) -> Iterator[int]:
    """Serve a page while this lasts; yield the port."""
    with server_of(live, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, host: str, path: str = "/version") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    with connection.getresponse() as answer:
        return answer.status, answer.read().decode()


def test_a_search_may_begin_after_its_page_was_opened(tmp_path: Path) -> None:
    live = LivePage(tmp_path / "run", clock=lambda: 0.0)
    before = live.version()
    assert "No search has begun" in live.content().decode()
    assert live.version() == before
    make(tmp_path / "run", SMALL)
    after = live.version()
    assert after != before
    page = live.content().decode()
    assert 'id="leaderboard"' in page
    assert f'id="live">{after}<' in page
    with at_work(tmp_path / "run"):
        assert live.version() != after
        assert "The search is running" in live.content().decode()
    assert "The search is running" not in live.content().decode()


def test_pages_take_at_most_a_tenth_of_the_time(tmp_path: Path) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    live = LivePage(tmp_path / "run", clock)
    live.content()
    made, before = now, live.version()  # it took a second
    make(tmp_path / "run", SMALL)
    while live.version() == before:
        assert now < 100.0
    assert now == made + 9.0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:80", "[::1]", "localhost"])
def test_this_machine_is_answered_through_any_port(tmp_path: Path, host: str) -> None:
    live = LivePage(tmp_path / "run")
    with served(live) as port:
        assert ask(port, host) == (200, live.version())


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost@evil:1", "localhost:x"]
)
def test_other_hosts_are_refused(tmp_path: Path, host: str) -> None:
    with served(LivePage(tmp_path / "run")) as port:
        for path in ("/", "/version"):
            status, text = ask(port, host, path)
            assert (status, "localhost" in text) == (403, True)


def test_there_is_no_other_file(tmp_path: Path) -> None:
    with served(LivePage(tmp_path / "run")) as port:
        assert ask(port, "localhost", "/../search.db")[0] == 404
        assert "run yet" in ask(port, "localhost", "/")[1]


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("report", tmp_path, "--live", "--port", str(port))
    assert (done.exit_code, f"--port {port}: Address already in use; give another one" in done.output) == (2, True)


@pytest.mark.parametrize("words", [["--live", "--to", "page.html"], ["--port", "80"]])
def test_options_of_a_page_and_of_a_server_exclude_each_other(
    tmp_path: Path, command: Command, words: list[str]
) -> None:
    done = command("report", tmp_path, *words)
    assert (done.exit_code, "--live" in done.output) == (2, True)
