"""How large a batch may be: a given limit, lowered when memory runs out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from evaluation.generation.room import MOST_ROWS

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class BatchLimit:
    """The limit of a batch. It outlives a model, so that memory runs out once instead of with every candidate.

    Attributes:
        rows: the most rows; None for `MOST_ROWS`.
        cache_bytes: the most bytes of keys and values, over all devices; None for no limit.
        fixed: whether all batches must have the same number of rows, whatever memory is free.
    """

    rows: int | None = None
    cache_bytes: int | None = None
    fixed: bool = False

    def rows_of(self, wanted: int, row_bytes: int) -> int:
        """Return how many rows a batch has, at least 1.

        Args:
            wanted: the number of requests.
            row_bytes: the bytes of a row's keys and values.
        """
        rows = min(wanted, self.rows or MOST_ROWS)
        return rows if self.cache_bytes is None else max(1, min(rows, self.cache_bytes // row_bytes))

    def ran_out(self, rows: int, row_bytes: int = 0) -> None:
        """Note that memory ran out with this many rows, of this many bytes each (0 if unknown)."""
        left = rows // 2
        if self.fixed:
            _LOG.warning(
                "out of memory: continuing with %d prompts at a time instead of %d, for this model and all later "
                "ones; 16-bit scores of earlier models may differ by a problem or two for that reason",
                left,
                rows,
            )
        else:
            _LOG.warning("out of memory: continuing with %d prompts at a time", left)
        if row_bytes and not self.fixed:  # there may be more rows if they are shorter
            self.cache_bytes = left * row_bytes
        else:
            self.rows = left
