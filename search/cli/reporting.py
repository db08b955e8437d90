"""The command that writes the report of a search, or serves it while the search runs."""

from __future__ import annotations

from pathlib import Path

import click

from search.cli import shared_options
from search.cli.given_values import GivenPath
from search.cli.written_file import write_whole
from search.errors import SearchError
from search.startup import quick_imports, without_collector


@click.command()
@shared_options.RESULTS
@click.option("--to", type=GivenPath("a file"), help="The file to write; by default RESULTS/report.html.")
@click.option("--live", is_flag=True, help="Serve the page on this machine, always up to date, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port to serve it on; by default 8765, or a free one.")
def report(results: Path, to: Path | None, live: bool, port: int | None) -> None:
    """Write one HTML file that shows a search: opens in a browser, needs no network; also while the search runs.

    \b
    Example:
      merge-search report results/quickstart
      merge-search report results/quickstart --to quickstart.html
      merge-search report results/quickstart --live
    """
    if live and to:
        raise click.UsageError("--live serves the page, and --to writes it; give one of them")
    if port is not None and not live:
        raise click.UsageError("--port is where the page is served; give --live, too")
    if live:
        _serve(results, port)
        return
    with quick_imports(), without_collector():
        from search.evidence import SearchEvidence
        from search.views.report.page import page, utf8

        content = utf8(page(SearchEvidence.open(results)))
    file = to or results / "report.html"
    write_whole(file, content, "--to")
    click.echo(f"{file}: {len(content) / 1e6:.1f} MB; open it in a browser")


def _serve(results: Path, port: int | None) -> None:
    """Serve the page until a signal ends the process. Raises SearchError."""
    with quick_imports():
        from search.results import require_no_file
        from search.serving.live_page import PORT, LivePage, server_of
    require_no_file(results)
    page = LivePage(results)
    try:
        server = server_of(page, PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise SearchError(f"--port {port}: {error.strerror}; give another one, or none") from None
        server = server_of(page, 0)
    with server:
        click.echo(f"{results}: http://127.0.0.1:{server.server_port}/ shows it, always up to date; Ctrl-C ends this")
        server.serve_forever()
