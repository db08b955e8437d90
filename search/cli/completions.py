"""What a shell completes: results folders, and the names of the models in one."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from search.errors import SearchError


def results_folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the results folders that fit, here or one folder deeper; if none does, the shell completes folders."""
    from search.study.stores import kinds

    folder, _, begin = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else ""))
    patterns = [f"{deep}/{kind.FILE}" for deep in ("*", "*/*") for kind in kinds()]
    found = {str(file.parent) for pattern in patterns for file in place.glob(pattern)}
    fitting = sorted(each for each in found if each.startswith(str(place / begin) if begin or folder else ""))
    return [CompletionItem(each) for each in fitting] or [CompletionItem(incomplete, type="dir")]


def scored_models(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the trials and reference models of the results folder on the line, best first, with their scores."""
    from search.board.leaderboard import Leaderboard
    from search.callbacks.entries import names_of_parents

    # click stops reading a line at an option without its value, and leaves the words before it in `args`.
    given = ctx.params.get("results") or next(iter(ctx.args), None)
    try:
        records = Leaderboard.open(given).records if given else ()
    except SearchError:  # a completion has no place for an error
        return []
    names = names_of_parents(records)
    called = {str(it.number) if it.kind == "trial" else names.get(it.name, it.name): it.search.score for it in records}
    shown = {name: "" if score is None else f"{score:.1%}" for name, score in called.items()}
    return [CompletionItem(name, help=score) for name, score in shown.items() if name.startswith(incomplete)]
