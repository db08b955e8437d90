"""The config of a command, with the command's options applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from search.startup import quick_imports

if TYPE_CHECKING:
    from search.space.config import SearchConfig


def given_config(
    file: Path,
    around: float | None,
    allow_code_execution: bool,
    device: str | None,
    tell: Callable[[str], object] = lambda _: None,
) -> SearchConfig:
    """Read a config.

    Args:
        file: the config, or with `around` a recipe.
        around: the fraction around a recipe's numbers that is searched.
        allow_code_execution: whether the user agrees to that.
        device: the device of this worker, instead of the config's.
        tell: called with the text of the config that `around` makes.

    Raises:
        SearchError, MergingError: it cannot be used.
    """
    with quick_imports():
        from search.space.around import config_around
        from search.space.config import SearchConfig

        if around is None:
            loaded = SearchConfig.load(file)
        else:
            made = config_around(file, around)
            tell(made)
            loaded = SearchConfig.parse(made, str(file), file.parent)
    if allow_code_execution:
        loaded = loaded.updated("evaluation", allow_code_execution=True)
    if device is not None:
        from search.devices import with_device

        section = with_device(loaded.merging, device, loaded.evaluation.backend, loaded.source)
        loaded = replace(loaded, merging=section)
    return loaded
