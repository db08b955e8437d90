"""The command that writes ready-to-run configs: init."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from merging.caches import part_folder
from search.cli.given_values import GivenPath
from search.errors import SearchError
from search.shell import shell_command

_QUICKSTART, _LARGE = "quickstart.yaml", "ds-trinity-7b.yaml"
_EXAMPLES = (_QUICKSTART, "quickstart", _LARGE)


@click.command()
@click.argument("folder", type=GivenPath("a folder to write into"), default="configs")
def init(folder: Path) -> None:
    """Write configs to begin with, and three tiny models, into a folder (by default configs).

    \b
    Example:
      merge-search init configs
      merge-search run configs/quickstart.yaml
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := [name for name in _EXAMPLES if (folder / name).exists()]:
            raise SearchError(
                f"{folder / there[0]}: exists; remove it, or give another folder: merge-search init FOLDER"
            )
        _copy(folder)
    except OSError as error:
        raise SearchError(
            f"{folder}: cannot be written: {error.strerror}; give another folder: merge-search init FOLDER"
        ) from None
    quickstart, large = folder / _QUICKSTART, folder / _LARGE
    click.echo(f"{quickstart}: a search over the three tiny models beside it; seconds on a CPU")
    click.echo(f"{large}: a search over models of 7B parameters, to be changed to your own; one GPU")
    click.echo(f"\nNext, run a search:\n  {shell_command('run', quickstart)}")


def _copy(folder: Path) -> None:
    """Copy the examples into a folder, whole or not at all. Raises OSError."""
    shipped = _shipped()
    with part_folder(folder / _QUICKSTART) as part:
        for name in _EXAMPLES:
            for source in sorted((shipped / name).rglob("*")) or [shipped / name]:
                copy = part / source.relative_to(shipped)
                if source.is_file():  # file by file: the error of shutil.copytree does not say why
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, copy)
        for name in _EXAMPLES:
            (part / name).rename(folder / name)


def _shipped() -> Path:
    """Return where the configs lie: in the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.exists() else package.parent / "configs"
