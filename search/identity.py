"""The identity of a search: what must stay the same for its results to belong together.

It is plain data: the config's settings, the splits and, under ``contents``, the contents of the models and files that
the config names, by the names that they had when the search began:

    {"place": where it is, "beside": [its paths from the results folder and from the config], "digests": {...}}

Guarantees: two identities that differ only in where things lie are of one search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from merging import parts_named
from search.errors import SearchError, start_over

Identity: TypeAlias = dict[str, Any]
Names: TypeAlias = Mapping[str, str]

CONTENTS, PLACE, BESIDE, DIGESTS = "contents", "place", "beside", "digests"
# Kinds of digests besides those of a model's files: for models of the hub, and for files that are not models.
COMMIT, FILE, PROBLEMS = "commit", "file", "problems"
COMPUTE_DTYPE, PLAIN_ROWS = "compute_dtype", "plain_rows"
_EVALUATION = "evaluation"
# Part of the contents only under trust_remote_code, which may be switched between runs.
_CODE = "code"


def check(path: Path, there: Identity, here: Identity, source: str) -> None:
    """Raise SearchError, which says what differs, if two identities are not of one search.

    Args:
        path: the results folder.
        there: the identity of the search that it holds.
        here: the identity of the search that is to continue there.
        source: the config's file.
    """
    for key, one, other in _leaves(_settings(there), _settings(here), ""):
        if other == "auto" and key == f"{_EVALUATION}.{COMPUTE_DTYPE}":
            continue  # the dtype that was chosen when the search began holds, whatever is faster here
        if key == f"{_EVALUATION}.{PLAIN_ROWS}":
            continue  # the number from the search's beginning holds, however many have room here
        pairs = _pairs(one, other, there, here)
        for before, now in pairs:
            kinds = differing(there[CONTENTS][before][DIGESTS], here[CONTENTS][now][DIGESTS])
            place = here[CONTENTS][now][PLACE]
            if kinds and place in (there[CONTENTS][before][PLACE], before):
                remedy = "restore it"
                if commit := there[CONTENTS][before][DIGESTS].get(COMMIT):
                    remedy = f"name it as {place.partition('@')[0]}@{commit} in the config"
                what = f"{changed(place, kinds)} since this search began"
                raise SearchError(f"{path}: {what}; {remedy}, or start over with {start_over(path, source)}")
            if kinds:
                raise _of_another_config(path, source, key, one, f"{other!r} now, with other {' and '.join(kinds)}")
        if not pairs and one != other:
            raise _of_another_config(path, source, key, one, f"{other!r} now")


def moved(there: Identity, here: Identity) -> Names:
    """Return the names of models and files in the identity `here`, by their names in `there`.

    Empty if all have the same names in both.
    """
    leaves = _leaves(_settings(there), _settings(here), "")
    pairs = [pair for _, one, other in leaves for pair in _pairs(one, other, there, here)]
    return dict(reversed(pairs)) if any(one != other for one, other in pairs) else {}


def adopted(there: Identity, here: Identity) -> Identity:
    """Return the identity `there`, with the places where its models and files lie `here`."""
    if CONTENTS not in there or CONTENTS not in here:
        return here | there
    names = moved(there, here)
    places = {name: here[CONTENTS].get(names.get(name, name), {}) for name in there[CONTENTS]}
    return there | {CONTENTS: {name: held | places[name] for name, held in there[CONTENTS].items()}}


def computes_in(identity: Identity) -> str:
    """Return the dtype that models are scored in: ``recipe`` or ``float32``, or ``auto`` before one is chosen."""
    return str(identity[_EVALUATION][COMPUTE_DTYPE])


def plain_rows(identity: Identity, other: int) -> int:
    """Return how many problems of the report split are decoded at once; `other` if nothing is recorded."""
    return int(identity[_EVALUATION].get(PLAIN_ROWS, other))


def _settings(identity: Identity) -> Identity:
    return {key: value for key, value in identity.items() if key != CONTENTS}


def _leaves(there: object, here: object, key: str) -> Iterator[tuple[str, object, object]]:
    """Yield the keys of two trees of plain data, each with its two values; a value that one tree lacks is None."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*there, *(name for name in here if name not in there)]:
            yield from _leaves(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(there, list | tuple) and isinstance(here, list | tuple) and len(there) == len(here):
        for index, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _leaves(one, other, f"{key}[{index}]")
    else:
        yield key, there, here


def _pairs(one: object, other: object, there: Identity, here: Identity) -> list[tuple[str, str]]:
    """Return the models and files that two values name, in pairs: a model, and perhaps an adapter."""
    names = [parts_named(one, there.get(CONTENTS, {})), parts_named(other, here.get(CONTENTS, {}))]
    return list(zip(*names, strict=True)) if len(names[0]) == len(names[1]) else []


def _of_another_config(path: Path, source: str, key: str, there: object, now: str) -> SearchError:
    return SearchError(
        f"{path}: was made by another config than {source}: {key} was {there!r} there and is {now}; "
        f"give another folder with --out, or start over with {start_over(path, source)}, which moves this one aside"
    )


def differing(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Return the kinds of digests that differ."""
    optional = {_CODE} - (there.keys() & here.keys())
    kinds = (kind for kind in dict.fromkeys([*there, *here]) if kind not in optional)
    return [kind for kind in kinds if there.get(kind) != here.get(kind)]


def changed(place: str, kinds: list[str]) -> str:
    """Return the beginning of a sentence that says what has changed in a model or file."""
    if kinds[0] in (FILE, PROBLEMS):
        return f"file {place}: has changed"
    verb = "has" if len(kinds) == 1 and kinds != ["weights"] else "have"
    return f"model {place}: its {' and '.join(kinds)} {verb} changed"
