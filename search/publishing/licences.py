"""Licences: which family each belongs to, and which families go together in one merge.

Guarantees: says "check" if it is not sure; licences that it does not know never pass as going together. It reads only
the metadata of model cards, and no licence's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, Literal, TypeAlias

Family: TypeAlias = Literal[
    "permissive", "copyleft", "non-commercial", "no derivatives",
    "Llama community", "DeepSeek", "Gemma", "Qwen", "OpenRAIL", "unknown",
]  # fmt: skip

# A licence belongs to the first family that has a word which it begins with.
_FAMILIES: Final[Mapping[Family, tuple[str, ...]]] = {
    "no derivatives": ("cc-by-nd", "cc-by-nc-nd"),
    "non-commercial": ("cc-by-nc", "qwen-research", "mrl", "mnpl", "fair-noncommercial", "apple-amlr"),
    "copyleft": ("gpl", "agpl", "lgpl", "cc-by-sa", "osl", "eupl", "mpl"),
    "permissive": (
        "apache-2.0", "mit", "bsd", "isc", "unlicense", "cc0", "cc-by-2", "cc-by-3", "cc-by-4", "zlib", "bsl-1.0",
        "afl-3.0", "artistic-2.0", "ecl-2.0", "ms-pl", "ncsa", "wtfpl", "cdla-permissive", "odc-by", "pddl",
    ),
    "Llama community": ("llama",),
    "DeepSeek": ("deepseek",),
    "Gemma": ("gemma",),
    "Qwen": ("qwen", "tongyi-qianwen"),
    "OpenRAIL": ("openrail", "bigscience-openrail", "bigcode-openrail", "bigscience-bloom-rail", "creativeml-openrail"),
}  # fmt: skip
# Each of these adds restrictions of its own that every derived model must carry, too.
_COMMUNITY: Final[frozenset[Family]] = frozenset(("Llama community", "DeepSeek", "Gemma", "Qwen", "OpenRAIL"))


@dataclass(frozen=True, slots=True)
class Licence:
    """What a model card's metadata says about the licence.

    Attributes:
        name: its identifier on the hub (``apache-2.0``), or its own name if that is ``other``.
        is_listed: whether the hub knows the name as an identifier.
        link: the link to its text, if the card gives one.
    """

    name: str
    is_listed: bool = True
    link: str = ""

    @property
    def identifier(self) -> str:
        """Its name as the hub writes identifiers: ``Apache 2.0`` is ``apache-2.0``."""
        return self.name.lower().replace(" ", "-").replace("_", "-")

    @property
    def family(self) -> Family:
        """The family that it is known to belong to."""
        known = self.identifier
        return next((family for family, starts in _FAMILIES.items() if known.startswith(starts)), "unknown")


def concerns(licences: Sequence[Licence | None]) -> tuple[str, ...]:
    """Return, in sentences, what may forbid sharing a merge of models under these licences; None is an unknown one."""
    known = list(dict.fromkeys(licence for licence in licences if licence))
    found = [f"`{it.name}` forbids sharing changed versions, and a merge is one." for it in known if _forbids(it)]
    found += [f"`{it.name}`: no rule for it is known here: check its terms." for it in known if it.family == "unknown"]
    if None in licences:
        found.append("The licence of a parent is not known: check it.")
    pairs = combinations((it for it in known if it.family not in ("unknown", "no derivatives")), 2)
    found += filter(None, (_between(one, other) for one, other in pairs))
    if any(it.family == "non-commercial" for it in known) and len(known) > 1:
        found.append("One of the licences allows no commercial use, so neither does the merge.")
    return tuple(found)


def _forbids(licence: Licence) -> bool:
    return licence.family == "no derivatives"


def _between(one: Licence, other: Licence) -> str:
    """Return why two licences do not, or may not, go together, in a sentence; empty if they do."""
    families = {one.family, other.family}
    names = f"`{one.name}` and `{other.name}`"
    if "permissive" in families:
        is_old = {one.identifier, other.identifier} == {"gpl-2.0", "apache-2.0"}
        return f"{names} do not go together: the older GPL has no place for Apache's patent terms." if is_old else ""
    if "copyleft" in families and families & (_COMMUNITY | {"non-commercial"}):
        strict, added = (one.name, other.name) if one.family == "copyleft" else (other.name, one.name)
        return f"{names} do not go together: `{strict}` allows no further restrictions, and `{added}` adds some."
    if families == {"non-commercial"}:
        return ""
    return f"{names}: each requires that its own terms go with the merge: check whether both can."


def merged(licences: Sequence[Licence | None]) -> Licence:
    """Return what a merge's metadata says: the one licence that all have, or that adds to permissive ones."""
    known = list(dict.fromkeys(licence for licence in licences if licence))
    if None in licences or not known:
        return Licence("unknown")
    if len(known) == 1:
        return known[0]
    stricter = [licence for licence in known if licence.family != "permissive"]
    if len(stricter) == 1 and not concerns(licences):
        return stricter[0]
    return Licence("see-the-parents", is_listed=False)
