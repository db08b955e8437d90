"""The commands about results folders as they are: list, dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from search.cli.printing import print_standings
from search.startup import quick_imports, without_collector


@click.command("list")
@click.argument("folder", type=click.Path(path_type=Path), default="results")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_searches(folder: Path, as_json: bool) -> None:
    """Show the searches below a folder (by default results): best trial, verdict, trials, state.

    \b
    Example:
      merge-search list
    """
    with quick_imports(), without_collector():
        from search.standing import standings

        found = standings(folder)
    if found or as_json:
        print_standings(found, as_json)
    else:
        click.echo(f"{folder}: holds no search; `merge-search run CONFIG --out {folder / 'NAME'}` makes one")
