"""The commands that show results folders as they are: list, dashboard."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from search.cli import shared_options
from search.cli.given_values import GivenPath
from search.cli.printing import print_overview, tell
from search.shell import shell_command
from search.startup import quick_imports, without_collector


@click.command("list")
@click.argument("folder", type=GivenPath("the folder that holds your results folders"), default="results")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_searches(folder: Path, as_json: bool) -> None:
    """Show the searches below a folder (by default results): best trial, verdict, trials, state.

    \b
    Example:
      merge-search list results
    """
    with quick_imports(), without_collector():
        from search.overview import overviews

        found = overviews(folder)
    if found or as_json:
        print_overview(found, as_json)
    else:
        making = shell_command("run", "CONFIG", "--out", folder / "NAME")
        click.echo(f"{folder}: holds no search; `{making}` makes one")


@click.command()
@shared_options.RESULTS
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Where to serve it; 0: a free port."
)
def dashboard(results: Path, port: int) -> None:
    """Show a search in optuna-dashboard, also while it runs; needs pip install 'merge-search[dashboard]'.

    \b
    Example:
      merge-search dashboard results/quickstart
    """
    with quick_imports():
        from search.serving.dashboard import Dashboard, serve

    with serve(Dashboard(results, tell), port) as server:
        click.echo(f"http://localhost:{server.server_port}/ shows {results}, also while it runs; Ctrl-C ends it")
        # In a thread of its own: wsgiref swallows whatever a signal raises while it answers.
        answering = threading.Thread(target=server.serve_forever, daemon=True)
        answering.start()
        answering.join()
