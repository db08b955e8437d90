"""Files of JSON objects: JSON lines and JSON arrays, gzipped or not.

Guarantees: an error names the line or the item that is wrong.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from evaluation.errors import EvaluationError

JsonObject = Mapping[str, object]


def read_rows(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yield ("FILE:LINE", object) from JSON lines, or ("FILE[INDEX]", object) from a JSON array, as the name says.

    Raises EvaluationError if the file cannot be read, or a line or an item is not a JSON object.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _read_array(path)
    else:
        yield from read_lines(path)


def read_lines(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yield ("FILE:LINE", object) for each line of a .jsonl or .jsonl.gz file that is not blank.

    Raises EvaluationError if the file cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate(_text_lines(path), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _object(_loads(line, where), where)


def _read_array(path: Path) -> Iterator[tuple[str, JsonObject]]:
    items = _loads("".join(_text_lines(path)), str(path))
    if not isinstance(items, list):
        raise EvaluationError(f"{path}: expected an array of problems, got {type(items).__name__}; lines are .jsonl")
    for index, item in enumerate(items):
        yield f"{path}[{index}]", _object(item, f"{path}[{index}]")


def _text_lines(path: Path) -> Iterator[str]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        # Editors on Windows put a byte order mark first.
        with opener(path, "rt", encoding="utf-8-sig") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from None


def _loads(text: str, where: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise EvaluationError(f"{where}: not valid JSON: {error.msg} at {line}column {error.colno}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise EvaluationError(f"{where}: JSON that cannot be read: {error}") from None
    return value


def _object(value: object, where: str) -> JsonObject:
    if not isinstance(value, dict):
        raise EvaluationError(f"{where}: expected an object with task_id, prompt, ..., got {type(value).__name__}")
    return value
