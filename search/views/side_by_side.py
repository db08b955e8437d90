"""Candidates for parents side by side: tables and sentences for users, plain data for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from search.board.names import shorten
from search.board.search_verdict import shown_p
from search.views.json_csv import report_data
from search.views.table import SET_WIDTH, plain_table

if TYPE_CHECKING:
    from evaluation import Report
    from search.board.complements import Complements, Pair

_NUMERIC = ("pass@1 [95%]", "alone", "s", "either", "gain", "won:lost", "p")


def models_table(reports: Mapping[str, Report], found: Complements, names: Mapping[str, str]) -> Table:
    """Return the score of each model, the best first.

    Args:
        reports: the models' reports, by name.
        found: what they solve alone and in pairs.
        names: their displayed names, by name.
    """
    sets = list(next(iter(reports.values())).scores)
    titles = [shorten(each, SET_WIDTH) for each in sets]
    table = plain_table("", "pass@1 [95%]", *titles, "alone", "s", numeric=(*_NUMERIC, *titles))
    for name, report in sorted(reports.items(), key=lambda item: -item[1].pass_at_1):
        low, high = report.interval
        cells = [names[name], f"{report.pass_at_1:.1%} [{low:.0%}, {high:.0%}]"]
        cells += [f"{report.scores[each]:.1%}" for each in sets]
        table.add_row(*map(Text, [*cells, str(len(found.alone[name])), f"{report.seconds:.1f}"]))
    return table


def pairs_table(found: Complements, names: Mapping[str, str]) -> Table:
    """Return what each two models solve between them, the pair with the largest gain first."""
    table = plain_table("", "either", "gain", "won:lost", "p", numeric=_NUMERIC)
    for pair in found.pairs:
        counts = f"{len(pair.test.won)}:{len(pair.test.lost)}"
        cells = [f"{pair.either:.1%}", f"{pair.gain * 100:+.1f}", counts, shown_p(pair.test.p_value)]
        table.add_row(*map(Text, [_called(pair, names), *cells]))
    return table


def side_by_side_lines(found: Complements, names: Mapping[str, str]) -> Iterator[str]:
    """Yield what the tables show, in sentences, and the problems that only one model, or none, solves."""
    best, most = found.pairs[0], max(found.pairs, key=lambda pair: pair.either)
    if best.gain > 0:
        yield (
            f"most to gain: {_called(best, names)}; between them they solve {best.either:.1%}, {best.gain * 100:.1f} "
            "points more than the better one alone"
        )
    else:
        yield "no two of them solve more than the better one alone"
    if most.either > best.either:
        yield f"most solved by two: {_called(most, names)}, {most.either:.1%}"
    yield f"any of the {len(found.alone)} solves {found.any:.1%}"
    solved = {f"only {names[name]} solves": tasks for name, tasks in found.alone.items()}
    for who, tasks in {**solved, "none solves": found.unsolved}.items():
        if tasks:
            yield f"{who} {len(tasks)}: {', '.join(tasks)}"


def side_by_side_data(
    reports: Mapping[str, Report], failed: Mapping[str, Exception], found: Complements | None
) -> dict[str, Any]:
    """Return all of it as plain data; without reports there is nothing to compare."""
    if found is None:
        return {"models": [], "pairs": [], "failed": _reasons(failed)}
    models = [{"model": name, "alone": found.alone[name], **report_data(report)} for name, report in reports.items()]
    pairs = [
        {
            "models": pair.names, "either": pair.either, "gain": pair.gain, "won": pair.test.won,
            "lost": pair.test.lost, "p_value": pair.test.p_value,
        }
        for pair in found.pairs
    ]  # fmt: skip
    rest = {"any": found.any, "unsolved": found.unsolved, "failed": _reasons(failed)}
    return {"models": models, "pairs": pairs, **rest}


def _reasons(failed: Mapping[str, Exception]) -> dict[str, str]:
    return {name: str(error) for name, error in failed.items()}


def _called(pair: Pair, names: Mapping[str, str]) -> str:
    one, other = pair.names
    return f"{names[one]} + {names[other]}"
