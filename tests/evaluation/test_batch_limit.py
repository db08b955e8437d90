"""What memory has room for is learned once, and plain generation has one number of rows for all models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine.batch_limit import BatchLimit
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.room import Room
from evaluation.generation.transformers_backend import TransformersBackend


def test_a_batch_keeps_to_rows_and_bytes() -> None:
    assert BatchLimit(cache_bytes=4000).rows_of(99, 400) == 10
    assert BatchLimit(rows=7, cache_bytes=4000).rows_of(99, 400) == 7
    assert BatchLimit(cache_bytes=1).rows_of(99, 400) == 1
    assert BatchLimit(rows=7).rows_of(99, 400) == 7


def test_what_ran_out_holds_for_rows_of_any_length(caplog: pytest.LogCaptureFixture) -> None:
    limit = BatchLimit(cache_bytes=10_000)
    limit.ran_out(20, 100)
    assert limit.rows_of(99, 100) == 10
    assert limit.rows_of(99, 50) == 20
    assert caplog.messages == ["out of memory: continuing with 10 prompts at a time"]


def test_a_fixed_number_of_rows_changes_only_where_memory_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    limit = BatchLimit(64, fixed=True)
    assert limit.rows_of(99, 10**9) == 64
    limit.ran_out(64, 10**9)
    assert [limit.rows_of(wanted, 1) for wanted in (99, 9)] == [32, 9]
    assert caplog.messages[0].startswith("out of memory: continuing with 32 prompts at a time instead of 64, for this")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make memory run out beyond 4 rows, and return the rows of each batch that was begun."""
    begun: list[int] = []
    forward, seen = TransformersGenerator._forward, [object()]

    def limited(self: Any, pieces: Sequence[Any], slots: Any) -> Any:
        if slots.length > 2 and slots is not seen[0]:
            seen[0] = slots
            begun.append(slots.rows)
        if slots.rows > 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return forward(self, pieces, slots)

    monkeypatch.setattr(TransformersGenerator, "_forward", limited)
    return begun


@pytest.mark.parametrize("plain", [False, True])
def test_a_later_model_begins_with_what_was_learned(
    tiny_model: tuple[Any, Any], batches: list[int], plain: bool
) -> None:
    requests = [Request([5, 6, index], max_new_tokens=2) for index in range(7)]
    backend = TransformersBackend(room=Room(plain_rows=6))
    written = [dict(backend.generate(*tiny_model, requests, plain=plain)) for _ in range(2)]
    assert written[0] == written[1]
    first = [6, 3] if plain else [7, 3]
    assert batches == [*first, 3]


def test_plain_generation_has_its_rows_whatever_else_was_learned(
    tiny_model: tuple[Any, Any], batches: list[int]
) -> None:
    requests = [Request([5, 6, index], max_new_tokens=2) for index in range(7)]
    backend = TransformersBackend(room=Room(plain_rows=4))
    for plain in (False, True):
        dict(backend.generate(*tiny_model, requests, plain=plain))
    assert batches == [7, 3, 4]
