"""How the tokens of several rows share one forward pass: end to end, without padding, as many as each row has.

Guarantees: a token sees the slots of its own row up to its own position. Only attention is padded, within groups of
neighbouring rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Reading a slot from memory takes as long as this many queries of it.
_ROW_QUERIES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of one row in a pass, and the position of the first."""

    row: int
    position: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """How many slots of the row are filled after the pass."""
        return self.position + len(self.tokens)


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Rows whose attention is computed at once, padded to one width.

    Attributes:
        rows: the rows of the slots.
        length: how many slots per row are read.
        queries: (rows * width,) the token of the pass in each place; any token where there is padding.
        answers: (tokens,) the place of each of the group's tokens.
        positions: (rows, width) of the queries.
    """

    rows: slice
    length: int
    queries: Tensor
    answers: Tensor
    positions: Tensor

    def mask(self, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return which slots each query sees, (rows, 1, repeats * width, length), 0 or -inf.

        Args:
            repeats: query heads per key head, one after the other as queries.
            window: how far back a query sees; None for the whole text.
            dtype: the mask's.
        """
        rows, width = self.positions.shape
        slots = torch.arange(self.length, device=self.positions.device)
        hidden = slots > self.positions[..., None]
        if window is not None:
            hidden |= slots <= self.positions[..., None] - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None, None].expand(rows, 1, repeats, width, self.length).flatten(2, 3)


@dataclass(frozen=True, slots=True)
class PassLayout:
    """The layout of a pass.

    Attributes:
        tokens: (1, tokens), of all rows.
        positions: (1, tokens).
        places: (tokens,) the slots for their keys and values.
        groups: in the order of the tokens.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    groups: tuple[AttentionGroup, ...]
    _masks: dict[tuple[int, int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[Piece], slots: int, call_worth: int, device: torch.device) -> PassLayout:
        """Lay out pieces that are in the order of their rows.

        Args:
            pieces: one per row.
            slots: per row.
            call_worth: how many slots read by a query take as long as one more group.
            device: of the model's first layer.
        """
        tokens = [token for piece in pieces for token in piece.tokens]
        positions = [position for piece in pieces for position in range(piece.position, piece.end)]
        places = [piece.row * slots + position for piece in pieces for position in range(piece.position, piece.end)]
        groups, first = [], 0
        for members in _grouped(pieces, call_worth):
            groups.append(_group(members, first, device))
            first += sum(len(piece.tokens) for piece in members)
        packed = torch.tensor([tokens, positions, places], device=device)
        return cls(packed[:1], packed[1:2], packed[2], tuple(groups))

    def masks(self, repeats: int, window: int | None, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the mask of each group; layers that need the same masks share them."""
        key = (repeats, window, dtype)
        if key not in self._masks:
            self._masks[key] = [group.mask(*key) for group in self.groups]
        return self._masks[key]


def _grouped(pieces: Sequence[Piece], call_worth: int) -> Iterator[list[Piece]]:
    """Yield groups of neighbours whose attention costs less together and padded than apart."""
    group: list[Piece] = []
    width = length = 0
    for piece in pieces:
        wider, longer = max(width, len(piece.tokens)), max(length, piece.end)
        if group:
            apart = _cost(piece.row - group[0].row, width, length) + _cost(1, len(piece.tokens), piece.end) + call_worth
            if _cost(piece.row - group[0].row + 1, wider, longer) > apart:
                yield group
                group, wider, longer = [], len(piece.tokens), piece.end
        group.append(piece)
        width, length = wider, longer
    if group:
        yield group


def _cost(rows: int, width: int, length: int) -> int:
    """Return the cost of a group's attention, in slots read by a query."""
    return rows * length * (width + _ROW_QUERIES)


def _group(pieces: Sequence[Piece], first: int, device: torch.device) -> AttentionGroup:
    start, stop = pieces[0].row, pieces[-1].row + 1
    width = max(len(piece.tokens) for piece in pieces)
    # Rows in between that have no token in the pass repeat the first query, and nobody reads their answer.
    queries = [first] * ((stop - start) * width)
    positions = [0] * len(queries)
    answers: list[int] = []
    for piece in pieces:
        at, count = (piece.row - start) * width, len(piece.tokens)
        queries[at : at + count] = range(first, first + count)
        positions[at : at + count] = range(piece.position, piece.end)
        answers += range(at, at + count)
        first += count
    numbers = torch.tensor([queries, positions], device=device)
    length = max(piece.end for piece in pieces)
    where = torch.tensor(answers, device=device)
    return AttentionGroup(slice(start, stop), length, numbers[0], where, numbers[1].view(stop - start, width))
