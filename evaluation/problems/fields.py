"""Typed access to the fields of a row; errors name the field."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.errors import EvaluationError
from evaluation.problems.files import JsonObject


class Fields:
    """One row of a file or a data set.

    Args:
        row: its fields.
        where: the file and the line, for errors.
        schema: the fields of its format, for errors.
    """

    def __init__(self, row: JsonObject, where: str, schema: Sequence[str]) -> None:
        self._row = row
        self.where = where
        self._schema = ", ".join(schema)

    def text(self, name: str) -> str:
        """Return a text field. Raises EvaluationError."""
        value = self._row.get(name)
        if not isinstance(value, str):
            raise self._error(name, "text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(f"field {name!r} has half of a surrogate pair, which is not a character") from None
        return value

    def texts(self, name: str) -> list[str]:
        """Return a field that is a list of texts. Raises EvaluationError."""
        value = self._row.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(name, "a list of texts")
        return value

    def number(self, name: str) -> float:
        """Return a number. Raises EvaluationError."""
        value = self._row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(name, "a number")
        return value

    def calls(self, name: str) -> list[list[object]]:
        """Return a list of the arguments of calls; it may be empty. Raises EvaluationError."""
        value = self._row.get(name)
        if value == {}:  # in some of EvalPlus' problems this means none
            return []
        if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
            raise self._error(name, "a list of lists of arguments")
        return value

    def error(self, what: str) -> EvaluationError:
        """Return an error of this row."""
        return EvaluationError(f"{self.where}: {what}")

    def _error(self, name: str, wanted: str) -> EvaluationError:
        found = "is missing" if name not in self._row else f"is not {wanted}"
        return self.error(f"field {name!r} {found}; a problem has {self._schema}")
