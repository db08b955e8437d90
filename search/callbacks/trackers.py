"""The trackers by name, each of which needs its own extra."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from search.errors import SearchError

if TYPE_CHECKING:
    from search.callbacks.callback import Callback

TRACKERS: Final = {"mlflow": "MlflowTracker", "wandb": "WandbTracker"}
"""The class of each tracker, by the name of the extra and of the package that it needs."""


def trackers(names: Iterable[str]) -> list[Callback]:
    """Return new trackers; imports what they need. Raises SearchError if one is not installed."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb's runs, is not a package
            raise SearchError(f"--track {name}: is not installed; run pip install 'merge-search[{name}]'")
    return [getattr(import_module(f"search.callbacks.{name}_tracker"), TRACKERS[name])() for name in wanted]
