"""The fields of a row: asked for by name, refused by name."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.errors import EvaluationError
from evaluation.problems.files import JsonObject


class Fields:
    """One row of a file or a data set.

    Args:
        row: its fields.
        where: the file and the line, for errors.
        schema: what rows of its format have, for errors.
    """

    def __init__(self, row: JsonObject, where: str, schema: Sequence[str]) -> None:
        self._row = row
        self.where = where
        self._schema = ", ".join(schema)

    def text(self, name: str) -> str:
        """Return a field that must be text. Raises EvaluationError."""
        value = self._row.get(name)
        if not isinstance(value, str):
            raise self._error("no text", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(f"half of a surrogate pair in field {name!r}, which is no character") from None
        return value

    def texts(self, name: str) -> list[str]:
        """Return a field that must be a list of texts. Raises EvaluationError."""
        value = self._row.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error("no list of texts", name)
        return value

    def optional_texts(self, name: str) -> list[str]:
        """Return a list of texts, which may be missing or empty. Raises EvaluationError for anything else."""
        return self.texts(name) if self._row.get(name) else []

    def number(self, name: str) -> float:
        """Return a field that must be a number. Raises EvaluationError."""
        value = self._row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error("no number", name)
        return value

    def calls(self, name: str) -> list[list[object]]:
        """Return a field that must be a list of the arguments of calls, or empty. Raises EvaluationError."""
        value = self._row.get(name)
        if value == {}:  # some of EvalPlus' problems have this for none
            return []
        if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
            raise self._error("no list of lists of arguments", name)
        return value

    def error(self, what: str) -> EvaluationError:
        """Return an error of this row."""
        return EvaluationError(f"{self.where}: {what}")

    def _error(self, what: str, name: str) -> EvaluationError:
        found = "missing field" if name not in self._row else f"{what} in field"
        return self.error(f"{found} {name!r}; a problem has {self._schema}")
