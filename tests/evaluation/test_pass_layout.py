"""Rows that are attended to together: neighbours, where that costs less than apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.generation.engine.pass_layout import PackedPass, PassLayout, Piece
from evaluation.generation.engine.tuning import CPU, GPU, Tuning

SLOTS = 64
PIECES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=12).flatmap(
    lambda shapes: st.sets(st.integers(0, 30), min_size=len(shapes), max_size=len(shapes)).map(
        lambda rows: [
            Piece(row, position, list(range(count)))
            for row, (position, count) in zip(sorted(rows), shapes, strict=True)
        ]
    )
)


def laid_out(pieces: list[Piece], tuning: Tuning, rows: int = 128, slots: int = SLOTS) -> PassLayout:
    return PackedPass(pieces, (rows, slots), tuning).on(torch.device("cpu"))


def tuned(call_worth: int) -> Tuning:
    return replace(CPU, call_worth_slots=call_worth)


@given(PIECES, st.sampled_from([tuned(0), tuned(100), CPU, tuned(10**9), GPU]))
def test_every_token_is_answered_once_in_its_own_row(pieces: list[Piece], tuning: Tuning) -> None:
    layout = laid_out(pieces, tuning, rows=31)
    count = sum(len(piece.tokens) for piece in pieces)
    answered = []
    for group in layout.groups:
        rows, width = group.positions.shape
        assert group.rows.stop - group.rows.start == rows
        assert group.rows.stop <= 31
        assert group.length <= SLOTS
        queries = torch.arange(count)[group.queries]
        for place in range(rows * width) if group.answers is None else group.answers.tolist():
            position = int(group.positions.flatten()[place])
            assert position < group.length
            answered.append((int(queries[place]), group.rows.start + place // width, position))
    expected = [(piece.row, position) for piece in pieces for position in range(piece.position, piece.end)]
    assert answered == [(index, *where) for index, where in enumerate(expected)]


def test_a_row_with_many_tokens_does_not_widen_its_neighbours() -> None:
    pieces = [Piece(row, 500, [0] * (17 if row == 5 else 2)) for row in range(10)]
    rows = [group.rows for group in laid_out(pieces, CPU, slots=900).groups]
    assert rows == [slice(0, 5), slice(5, 6), slice(6, 10)]


def test_rows_alike_are_attended_to_at_once() -> None:
    pieces = [Piece(row, 250 + row, [0]) for row in range(100)]
    assert len(laid_out(pieces, CPU, slots=900).groups) < 10


def test_where_a_call_costs_nothing_no_row_is_padded() -> None:
    pieces = [Piece(row, 10 + row, [0] * (1 + row % 2)) for row in range(6)]
    groups = laid_out(pieces, tuned(0)).groups
    assert len(groups) == 6
    assert all(group.answers is None for group in groups)
