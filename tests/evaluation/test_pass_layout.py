"""Rows that are attended to together: neighbours, where that costs less than apart."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.generation.engine.pass_layout import PassLayout, Piece

SLOTS = 64
PIECES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=12).flatmap(
    lambda shapes: st.sets(st.integers(0, 30), min_size=len(shapes), max_size=len(shapes)).map(
        lambda rows: [
            Piece(row, position, list(range(count)))
            for row, (position, count) in zip(sorted(rows), shapes, strict=True)
        ]
    )
)


@given(PIECES, st.sampled_from([0, 100, 2000, 10**9]))
def test_every_token_is_answered_once_in_its_own_row(pieces: list[Piece], call_worth: int) -> None:
    layout = PassLayout.of(pieces, SLOTS, call_worth, torch.device("cpu"))
    answered = []
    for group in layout.groups:
        width = group.positions.shape[1]
        for place in group.answers.tolist():
            position = int(group.positions.flatten()[place])
            assert position < group.length
            answered.append((int(group.queries[place]), group.rows.start + place // width, position))
    expected = [(piece.row, position) for piece in pieces for position in range(piece.position, piece.end)]
    assert answered == [(index, *where) for index, where in enumerate(expected)]


def test_a_row_with_many_tokens_does_not_widen_its_neighbours() -> None:
    pieces = [Piece(row, 500, [0] * (17 if row == 5 else 2)) for row in range(10)]
    rows = [group.rows for group in PassLayout.of(pieces, 900, 2000, torch.device("cpu")).groups]
    assert rows == [slice(0, 5), slice(5, 6), slice(6, 10)]


def test_rows_alike_are_attended_to_at_once() -> None:
    pieces = [Piece(row, 250 + row, [0]) for row in range(100)]
    assert len(PassLayout.of(pieces, 900, 2000, torch.device("cpu")).groups) < 10


def test_where_a_call_costs_nothing_no_row_is_padded() -> None:
    pieces = [Piece(row, 10 + row, [0] * (1 + row % 2)) for row in range(6)]
    assert len(PassLayout.of(pieces, SLOTS, 0, torch.device("cpu")).groups) == 6
