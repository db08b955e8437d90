"""The command that reads the config of another program: import-evolve."""

from __future__ import annotations

from pathlib import Path

import click

from evaluation.problems import SOURCES
from search.cli import shared_options
from search.cli.given_values import GivenPath
from search.cli.printing import tell
from search.cli.written_file import write_whole
from search.counts import counted
from search.shell import shell_command
from search.startup import quick_imports


@click.command()
@click.argument("genome", type=GivenPath("a config of mergekit-evolve"))
@click.option("--to", type=GivenPath("a file"), help="The config to write; by default it is printed.")
@click.option(
    "--problems",
    type=shared_options.SOURCE,
    multiple=True,
    help=f"What is scored in place of the genome's tasks: {SOURCES}. The option may be repeated.",
)
@click.option(
    "--slices",
    is_flag=True,
    help="Give each group of layers a slice of its own, as in mergekit-evolve, in place of a gradient.",
)
@shared_options.TRUST
def import_evolve(
    genome: Path, to: Path | None, problems: tuple[str, ...], slices: bool, trust_remote_code: bool
) -> None:
    """Turn a config of mergekit-evolve into one of merge-search, and say how they differ.

    \b
    Example:
      merge-search import-evolve genome.yaml --to search.yaml
    """
    with quick_imports():
        from search.errors import SearchError
        from search.space.genome import translated

    if to is not None and to.exists():
        raise SearchError(f"{to}: is there already; remove it, or give another file with --to")
    found = translated(genome, to or Path("config.yaml"), problems, slices, trust_remote_code)
    if to is None:
        click.echo(found.text, nl=False)
        return
    write_whole(to, found.text.encode(), "--to")
    tell(*found.notes)
    count = sum(len(each.names) for each in found.config.space.ranges)
    click.echo(f"{to}: searches {counted(count, 'value')}; next:\n  {shell_command('run', to, '--dry-run')}")
