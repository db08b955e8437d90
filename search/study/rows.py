"""Rows: records as a database holds them, a row per model, and a row per model and split.

Guarantees: a record that is read equals the one that was written. A damaged value, such as an unknown kind or state, is
an error at the latest when it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, get_args

from search.study.database import damage
from search.study.record import Kind, Scoring, SplitName, State, TrialRecord

SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
"""The splits, in the order of a record's fields."""
RECORD_COLUMNS: Final = [each.name for each in fields(TrialRecord) if each.name not in SPLITS]
"""The columns of a model."""
SCORING_COLUMNS: Final = [each.name for each in fields(Scoring)]
"""The columns of a model on a split."""
# How many fields of a record come before its splits; the rest follow them.
_BEFORE_SPLITS = [each.name for each in fields(TrialRecord)].index(SPLITS[0])
# The columns that hold JSON.
_MAPPINGS = ("parameters", "recipe", "sampler_notes", "seconds")
_TUPLES = ("end_tokens", "scores", "tries", "by_seed")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_Decoder: TypeAlias = Callable[[str, Path], Any]


def encoded(data: TrialRecord | Scoring, columns: Sequence[str]) -> list[object]:
    """Return the values of some columns."""
    values = {name: getattr(data, name) for name in columns}
    return [_text(value) if name in _MAPPINGS + _TUPLES else value for name, value in values.items()]


def record_of(row: Sequence[Any], file: Path) -> TrialRecord:
    """Return the record of a row. Raises ValueError, TypeError or LookupError if a value is damaged.

    Args:
        row: the columns of the model, then those on each split; None in all columns of a split without scoring.
        file: the database, which errors name.
    """
    own = _decoded(row[: len(RECORD_COLUMNS)], _DECODERS_OF_RECORD, file)
    starts = range(len(RECORD_COLUMNS), len(row), len(SCORING_COLUMNS))
    search, report, confirm = [_scoring(row[start : start + len(SCORING_COLUMNS)], file) for start in starts]
    if search is None:
        raise LookupError("each model has a scoring on the search split")
    return TrialRecord(*[*own[:_BEFORE_SPLITS], search, report, confirm, *own[_BEFORE_SPLITS:]])


class _Kept(Mapping[str, Any]):
    """A stored mapping, decoded at the first access, because a leaderboard shows few of the recipes that it loads."""

    __slots__ = ("_file", "_plain", "_text")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str, file: Path) -> None:
        self._text, self._file = text, file
        self._plain: dict[str, Any] | None = None

    def __eq__(self, other: object) -> bool:
        return self._read() == (other._read() if isinstance(other, _Kept) else other)

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, Any]:
        if self._plain is None:
            with damage(self._file):
                self._plain, self._text = dict(json.loads(self._text)), ""
        return self._plain

    def __repr__(self) -> str:
        return repr(self._read())


def _text(value: object) -> str:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value)


def _scoring(row: Sequence[Any], file: Path) -> Scoring | None:
    return None if row[0] is None else Scoring(*_decoded(row, _DECODERS_OF_SCORING, file))


def _decoded(row: Sequence[Any], decoders: Mapping[int, _Decoder], file: Path) -> list[Any]:
    values = list(row)
    for place, decoder in decoders.items():
        values[place] = decoder(values[place], file)
    return values


def _mapping(text: str, file: Path) -> Mapping[str, Any]:
    return _NOTHING if text == "{}" else _Kept(text, file)


def _tuple(text: str, _file: Path) -> tuple[Any, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def _one_of(*words: str) -> _Decoder:
    def known(word: str, _file: Path) -> str:
        if word not in words:
            raise ValueError(word)
        return word

    return known


def _decoders(names: Sequence[str]) -> Mapping[int, _Decoder]:
    """Return the decoders of the columns whose values are not taken as they are, by their places."""
    of_name = {
        **dict.fromkeys(_MAPPINGS, _mapping),
        **dict.fromkeys(_TUPLES, _tuple),
        "kind": _one_of(*get_args(Kind)),
        "state": _one_of(*get_args(State)),
    }
    return {place: of_name[name] for place, name in enumerate(names) if name in of_name}


_DECODERS_OF_RECORD, _DECODERS_OF_SCORING = _decoders(RECORD_COLUMNS), _decoders(SCORING_COLUMNS)
