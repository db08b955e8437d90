"""How the tokens of several rows lie in one forward pass: end to end, without padding, each row as many as it has.

Guarantees: what a row's tokens see is what lies in that row's slots up to their own positions. Only the attention of
short rows is padded, in groups of neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Reading a slot from memory takes as long as so many queries of it.
_ROW_QUERIES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of one row in a pass, the first of them at a position."""

    row: int
    position: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """The slots of the row that are filled after the pass."""
        return self.position + len(self.tokens)


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Rows whose attention is computed at once, padded to one width.

    Attributes:
        rows: the rows, of the slots.
        length: how many slots of each are read.
        queries: (rows * width,) which token of the pass stands in each place; any, where it is padding.
        answers: (tokens,) the place of each of the group's tokens.
        positions: (rows, width) of the queries.
    """

    rows: slice
    length: int
    queries: Tensor
    answers: Tensor
    positions: Tensor

    def mask(self, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what each query may see, (rows, 1, repeats * width, length), 0 or -inf.

        Args:
            repeats: query heads a key head, which stand after one another as queries.
            window: how far back a query sees; None: to the beginning.
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
    """A pass.

    Attributes:
        tokens: (1, tokens), of all rows.
        positions: (1, tokens).
        places: (tokens,) where their keys and values go in the slots.
        groups: in the order of the tokens.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    groups: tuple[AttentionGroup, ...]
    _masks: dict[tuple[int, int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Sequence[Piece], slots: int, call_worth: int, device: torch.device) -> PassLayout:
        """Lay out pieces, which are in the order of their rows.

        Args:
            pieces: one a row.
            slots: of a row.
            call_worth: how many slots that a query reads take as long as one more group.
            device: where the model's first layer is.
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
        """Return the mask of each group; made once for all layers that ask for the same."""
        key = (repeats, window, dtype)
        if key not in self._masks:
            self._masks[key] = [group.mask(*key) for group in self.groups]
        return self._masks[key]


def _grouped(pieces: Sequence[Piece], call_worth: int) -> Iterator[list[Piece]]:
    """Yield neighbours whose attention costs less together, padded, than apart."""
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
    """Return what the attention of a group costs, in slots that a query reads."""
    return rows * length * (width + _ROW_QUERIES)


def _group(pieces: Sequence[Piece], first: int, device: torch.device) -> AttentionGroup:
    start, stop = pieces[0].row, pieces[-1].row + 1
    width = max(len(piece.tokens) for piece in pieces)
    # Rows between these that have no token in the pass ask what the first one asks, and nobody reads their answer.
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
