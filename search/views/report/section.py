"""A section of the report, and how the page holds its data.

Guarantees: whatever is in the data (``</script>``, NUL, a lone surrogate) stays data.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from merging.checkpoints.references import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_DEFLATED_FROM: Final = 20_000
"""Data of this many characters or more is deflated in the page."""
_SPECIAL: Final = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: its name in links and for its script, such as ``leaderboard``.
        title: its heading.
        html: what it shows before any script runs.
        data: what its script reads, as JSON has it. Without a script of its own, ``{"figures": {NAME: FIGURE}}`` is
            drawn into the elements with ``data-figure="NAME"``.
        script: the file in ``assets/`` that draws it, which calls ``report.section(KEY, draw)``.
    """

    key: str
    title: str
    html: Markup
    data: Any = field(default=None, repr=False)
    script: str = ""

    @property
    def is_deflated(self) -> bool:
        """Whether its data is deflated in the page."""
        return len(self._json) >= _DEFLATED_FROM

    @property
    def embedded(self) -> Markup:
        """Its data as text that is safe in a ``script`` element of any type."""
        return embedded(self._json) if self.is_deflated else safe(self._json)

    @property
    def _json(self) -> str:
        return json.dumps(self.data, allow_nan=False, separators=(",", ":"))


def safe(text: str) -> Markup:
    """Return JSON, all of which must be ASCII, as text that cannot end an element."""
    from markupsafe import Markup

    return Markup(text.translate(_SPECIAL))


def embedded(text: str) -> Markup:
    """Return a text deflated and in base64, as ``report.inflated`` reads it."""
    from markupsafe import Markup

    return Markup(base64.b64encode(zlib.compress(text.encode(), 9)).decode())


@cache
def templates() -> Environment:
    """Return the environment that renders ``templates/``; whatever is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("search.views.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters["percent"] = lambda share: "" if share is None else f"{share:.1%}"
    found.filters["printable"] = printable
    return found


def rendered(template: str, **values: object) -> Markup:
    """Return a template of ``templates/`` with values filled in."""
    from markupsafe import Markup

    return Markup(templates().get_template(template).render(values))
