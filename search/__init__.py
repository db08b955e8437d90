"""Search: a config in, a leaderboard out.

from search import SearchConfig, run_search
leaderboard = run_search(SearchConfig.load("configs/quickstart.yaml"))
leaderboard.best, leaderboard.rows[0].search_score
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard, Row
    from search.errors import SearchError
    from search.export import export_trial
    from search.run.worker import run_search
    from search.space.config import SearchConfig

# Imported on first use: `merge-search --help` waits for none of torch, transformers and optuna.
_HOMES = {
    "Leaderboard": "search.board.leaderboard",
    "Row": "search.board.leaderboard",
    "SearchConfig": "search.space.config",
    "SearchError": "search.errors",
    "export_trial": "search.export",
    "run_search": "search.run.worker",
}

__all__ = ["Leaderboard", "Row", "SearchConfig", "SearchError", "export_trial", "run_search"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
