"""The command that writes ready-to-run configs where a person is: init."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from search.errors import SearchError

_QUICKSTART, _LARGE = "quickstart.yaml", "ds-trinity-7b.yaml"
_EXAMPLES = (_QUICKSTART, "quickstart", _LARGE)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="configs")
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
        for name in _EXAMPLES:
            source = _shipped() / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    except OSError as error:
        raise SearchError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    quickstart, large = folder / _QUICKSTART, folder / _LARGE
    click.echo(f"{quickstart}: a search over the three tiny models beside it; seconds on a CPU")
    click.echo(f"{large}: a search over models of 7B parameters, to be changed to your own; one GPU")
    click.echo(f"\nNext, run a search:\n  merge-search run {quickstart}")


def _shipped() -> Path:
    """Return where the configs lie: in the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.exists() else package.parent / "configs"
