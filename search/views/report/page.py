"""The page: the sections of the report, in their order, and one HTML file of them.

Guarantees: the file needs no other file and no network. It has text and tables as HTML; scripts draw the figures, first
those that are scrolled into view, then the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from search.views.report.about import about, ran
from search.views.report.colours import COLOURS
from search.views.report.history import history
from search.views.report.importances import importances
from search.views.report.layers_section import layers
from search.views.report.leaderboard_section import leaderboard
from search.views.report.optimism import optimism
from search.views.report.parallel import parallel
from search.views.report.pareto import pareto
from search.views.report.problems import matrix, problems
from search.views.report.section import Section, embedded, rendered, safe
from search.views.report.time import time
from search.views.report.verdict_section import verdict

if TYPE_CHECKING:
    from markupsafe import Markup

    from search.evidence import SearchEvidence

SECTIONS: list[Callable[[SearchEvidence], Section | None]] = [
    verdict,
    leaderboard,
    history,
    layers,
    problems,
    matrix,
    pareto,
    importances,
    parallel,
    optimism,
    time,
    about,
]
"""The functions that make the sections, in the order of the page; each returns None if it has nothing to show."""
_FRAME_SCRIPTS = ("report.js", "tables.js")


def page(evidence: SearchEvidence, live: str = "") -> str:
    """Return the report of a search; see `page_of`."""
    found = [section for make in SECTIONS if (section := make(evidence))]
    hosts = {place.host for place in evidence.workplaces.values()}
    subtitle = " · ".join([f"merge search, {ran(evidence)}", *sorted(hosts)])
    return page_of(evidence.name, found, subtitle=subtitle, live=live)


def page_of(
    title: str, sections: Iterable[Section], *, subtitle: str = "", figures: bool = True, live: str = ""
) -> str:
    """Return a page of some sections.

    Args:
        title: the title of the window.
        sections: the sections, in their order.
        subtitle: a line below the title.
        figures: whether the page has figures, which need plotly.js.
        live: the version of a page that is served, which reloads itself when there is another; empty for a file.
    """
    sections = list(sections)
    own = [section.script for section in sections if section.script] + ["live.js"] * bool(live)
    text = rendered(
        "page.html",
        title=title,
        subtitle=subtitle,
        sections=sections,
        style=asset("report.css") + asset("problems.css"),
        scripts=[asset(name) for name in dict.fromkeys([*_FRAME_SCRIPTS, *own])],
        plotly=plotly() if figures else None,
        live=live,
        colours=_colours,
        palette=safe(json.dumps({name: light for name, (light, _) in COLOURS.items()})),
    )
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


@cache
def asset(name: str) -> Markup:
    """Return a file of ``assets/`` as the page has it."""
    from markupsafe import Markup

    return Markup(files("search.views.report").joinpath("assets", name).read_text(encoding="utf-8"))


@cache
def plotly() -> Markup:
    """Return plotly.js, deflated."""
    from plotly.offline import get_plotlyjs

    return embedded(get_plotlyjs())


def _colours(theme: int) -> str:
    return " ".join(f"--{name}: {both[theme]};" for name, both in COLOURS.items())


def utf8(text: str) -> bytes:
    """Return the bytes of a page; half of a surrogate pair, which UTF-8 cannot encode, becomes a question mark."""
    return text.encode(errors="replace")
