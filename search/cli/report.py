"""The command that writes the report of a search."""

from __future__ import annotations

from pathlib import Path

import click

from search.cli import shared_options
from search.errors import SearchError
from search.startup import quick_imports, without_collector


@click.command()
@shared_options.RESULTS
@click.option("--to", type=click.Path(path_type=Path), help="The file to write; by default RESULTS/report.html.")
def report(results: Path, to: Path | None) -> None:
    """Write one HTML file that shows a search: opens in a browser, needs no network; also while the search runs.

    \b
    Example:
      merge-search report results/quickstart
      merge-search report results/quickstart --to quickstart.html
    """
    with quick_imports(), without_collector():
        from search.views.report.evidence import SearchEvidence
        from search.views.report.page import page, utf8

        content = utf8(page(SearchEvidence.open(results)))
    file = to or results / "report.html"
    try:
        file.write_bytes(content)
    except OSError as error:
        raise SearchError(f"{file}: cannot be written: {error.strerror}; give another file with --to") from None
    click.echo(f"{file}: {len(content) / 1e6:.1f} MB; open it in a browser")
