"""How the tokens of several rows share one forward pass: end to end, without padding.

Guarantees: a token sees the slots of its own row up to its own position. Only attention is padded, within groups of
neighbouring rows. All numbers of a pass reach a device in one copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluation.generation.engine.tuning import Tuning
from evaluation.generation.packed_numbers import PackedNumbers
from evaluation.generation.sampling import TokenDraws
from evaluation.generation.token_choice import Drawing, pack_drawing


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of one row in a pass.

    Attributes:
        row: the row.
        position: the position of the first token.
        tokens: the tokens that the row's slots lack, then guesses.
        guesses: the number of guesses among the tokens.
        scored: whether the likelihood of the guesses is wanted.
        draw: how the tokens after the last known one and after each guess are drawn; None takes the likeliest.
        start: the number of tokens of the completion chosen before this pass.
    """

    row: int
    position: int
    tokens: Sequence[int]
    guesses: int = 0
    scored: bool = False
    draw: TokenDraws | None = None
    start: int = 0

    @property
    def end(self) -> int:
        """The number of the row's slots that are filled after the pass."""
        return self.position + len(self.tokens)

    @property
    def choices(self) -> int:
        """The number of tokens chosen in the pass."""
        return self.guesses + 1


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Rows whose attention is computed at once, padded to one width.

    Attributes:
        rows: the rows of the slots.
        length: the number of slots read per row.
        queries: the token of the pass in each of the rows * width places; any token where there is padding.
        answers: the place of each of the group's tokens; None if they fill all places in order.
        positions: (rows, width), the positions of the queries.
    """

    rows: slice
    length: int
    queries: Tensor | slice
    answers: Tensor | None
    positions: Tensor

    def mask(self, repeats: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return which slots each query sees, (rows, 1, repeats * width, length), 0 or -inf.

        Args:
            repeats: query heads per key head, folded into the queries one after the other.
            window: how far back a query sees; None for the whole text.
            dtype: the mask's dtype.
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
    """The layout of a pass, on a device.

    Attributes:
        tokens: (1, tokens), the tokens of all rows.
        positions: (1, tokens), their positions.
        places: (tokens,), the slots for their keys and values.
        wanted: (wanted,), the tokens whose logits are wanted.
        targets: the guesses (n,) of each scored piece.
        drawing: how tokens are drawn from the wanted logits; None takes the likeliest.
        groups: the groups, in the order of the tokens.
    """

    tokens: Tensor
    positions: Tensor
    places: Tensor
    wanted: Tensor
    targets: tuple[Tensor, ...]
    drawing: Drawing | None
    groups: tuple[AttentionGroup, ...]
    _masks: dict[tuple[int, int | None, torch.dtype], list[Tensor]] = field(default_factory=dict)

    def masks(self, repeats: int, window: int | None, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the mask of each group; layers that need the same masks share them."""
        key = (repeats, window, dtype)
        if key not in self._masks:
            self._masks[key] = [group.mask(*key) for group in self.groups]
        return self._masks[key]


class PackedPass:
    """The numbers of a pass, on their way to the devices of a model.

    Args:
        pieces: one per row, in the order of the rows.
        slots: the number of rows, and of slots per row.
        tuning: the tuning for the device.
    """

    def __init__(self, pieces: Sequence[Piece], slots: tuple[int, int], tuning: Tuning) -> None:
        self._numbers = numbers = PackedNumbers()
        self._count = sum(len(piece.tokens) for piece in pieces)
        self._tokens = numbers.integers(token for piece in pieces for token in piece.tokens)
        self._positions = numbers.integers(at for piece in pieces for at in range(piece.position, piece.end))
        firsts = [(piece.row * slots[1] + piece.position, len(piece.tokens)) for piece in pieces]
        self._places = numbers.integers(place for first, count in firsts for place in range(first, first + count))
        self._wanted = numbers.integers(_ends(pieces))
        scored = [piece for piece in pieces if piece.scored]
        self._targets = [numbers.integers(piece.tokens[-piece.guesses :]) for piece in scored]
        draws, starts, counts = zip(*((piece.draw, piece.start, piece.choices) for piece in pieces), strict=True)
        self._drawing = pack_drawing(numbers, draws, starts, counts)
        self._groups: list[Callable[[Tensor], AttentionGroup]] = []
        first = 0
        for members in _grouped(pieces, tuning):
            self._groups.append(_group(members, first, slots, tuning, numbers))
            first += sum(len(piece.tokens) for piece in members)
        self._layouts: dict[torch.device, PassLayout] = {}

    def on(self, device: torch.device) -> PassLayout:
        """Return the layout on a device; it is sent only once."""
        if device not in self._layouts:
            self._layouts[device] = self._unpacked(self._numbers.sent(device))
        return self._layouts[device]

    def _unpacked(self, numbers: Tensor) -> PassLayout:
        return PassLayout(
            numbers[self._tokens][None],
            numbers[self._positions][None],
            numbers[self._places],
            numbers[self._wanted],
            tuple(numbers[tokens] for tokens in self._targets),
            self._drawing(numbers) if self._drawing else None,
            tuple(unpacked(numbers) for unpacked in self._groups),
        )


def _ends(pieces: Sequence[Piece]) -> Iterator[int]:
    """Yield the places of the tokens after which a token is chosen."""
    end = 0
    for piece in pieces:
        end += len(piece.tokens)
        yield from range(end - piece.choices, end)


def _grouped(pieces: Sequence[Piece], tuning: Tuning) -> Iterator[list[Piece]]:
    """Yield groups of neighbours whose attention costs less together and padded than apart."""

    def cost(rows: int, width: int, length: int) -> int:
        """Return the cost of a group's attention, in slots read by a query."""
        rows, width, length = tuning.shape(rows, width, length)
        return rows * length * (width + tuning.row_queries)

    group: list[Piece] = []
    width = length = 0
    for piece in pieces:
        wider, longer = max(width, len(piece.tokens)), max(length, piece.end)
        if group:
            apart = cost(group[-1].row - group[0].row + 1, width, length) + cost(1, len(piece.tokens), piece.end)
            if cost(piece.row - group[0].row + 1, wider, longer) > apart + tuning.call_worth_slots:
                yield group
                group, wider, longer = [], len(piece.tokens), piece.end
        group.append(piece)
        width, length = wider, longer
    if group:
        yield group


def _group(
    pieces: Sequence[Piece], first: int, slots: tuple[int, int], tuning: Tuning, numbers: PackedNumbers
) -> Callable[[Tensor], AttentionGroup]:
    """Pack the numbers of a group whose first token is the ``first`` of the pass; return what unpacks them."""
    width = max(len(piece.tokens) for piece in pieces)
    rows, width, length = tuning.shape(pieces[-1].row - pieces[0].row + 1, width, max(piece.end for piece in pieces))
    rows, length = min(rows, slots[0]), min(length, slots[1])
    start = min(pieces[0].row, slots[0] - rows)
    # Places without a token repeat the first query, and their answers are not read.
    queries = [first] * (rows * width)
    positions = [0] * len(queries)
    answers: list[int] = []
    token = first
    for piece in pieces:
        at, count = (piece.row - start) * width, len(piece.tokens)
        queries[at : at + count] = range(token, token + count)
        positions[at : at + count] = range(piece.position, piece.end)
        answers += range(at, at + count)
        token += count
    where = numbers.integers(positions)
    if len(answers) == len(queries):  # no padding
        return lambda sent: AttentionGroup(
            slice(start, start + rows), length, slice(first, token), None, sent[where].view(rows, width)
        )
    asked, answered = numbers.integers(queries), numbers.integers(answers)
    return lambda sent: AttentionGroup(
        slice(start, start + rows), length, sent[asked], sent[answered], sent[where].view(rows, width)
    )
