"""Search: a config in, a leaderboard out.

from search import SearchConfig, run_search
leaderboard = run_search(SearchConfig.load("configs/quickstart.yaml"))
leaderboard.best, leaderboard.rows[0].record.search.score
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard, Row
    from search.callbacks.callback import Callback
    from search.callbacks.mlflow_tracker import MlflowTracker
    from search.callbacks.wandb_tracker import WandbTracker
    from search.errors import SearchError
    from search.run.worker import run_search
    from search.space.config import SearchConfig
    from search.trial_export import export_trial

# The public names of each module, imported on first use (PEP 562): `merge-search --help` must not wait for torch.
_NAMES = {
    "board.leaderboard": "Leaderboard Row",
    "callbacks.callback": "Callback",
    "callbacks.mlflow_tracker": "MlflowTracker",
    "callbacks.wandb_tracker": "WandbTracker",
    "errors": "SearchError",
    "run.worker": "run_search",
    "space.config": "SearchConfig",
    "trial_export": "export_trial",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(f"search.{_HOMES[name]}"), name)
