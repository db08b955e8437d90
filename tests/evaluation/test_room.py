"""A batch keeps to the room that it is given."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.generation.backend_protocol import Request
from evaluation.generation.backends import make_backend
from evaluation.generation.engine import generator as generator_module
from evaluation.generation.engine.batch_limit import BatchLimit
from evaluation.generation.engine.slots import Slots
from evaluation.generation.pass_memory import ModelShape, row_of_generate_bytes
from evaluation.generation.room import Room
from evaluation.generation.stock_generator import StockGenerator


@pytest.mark.parametrize(("rows_of_bytes", "rows"), [(0.5, 1), (2.5, 2), (9, 4)])
def test_the_cache_of_a_batch_takes_no_more_than_its_room(
    tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, rows_of_bytes: float, rows: int
) -> None:
    model, tokenizer = tiny_model
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * size * model.dtype.itemsize
    made: list[Slots] = []
    monkeypatch.setattr(generator_module, "Slots", lambda *given: made.append(Slots(*given)) or made[-1])
    requests = [Request([5, 6], max_new_tokens=4)] * 4
    written = dict(make_backend("transformers", None, Room()).generate(model, tokenizer, requests))
    length = made[-1].length
    made.clear()
    room = Room(cache_bytes=int(rows_of_bytes * slot * length))
    assert dict(make_backend("transformers", None, room).generate(model, tokenizer, requests)) == written
    assert [slots.rows for slots in made if slots.length == length] == [rows]


@pytest.mark.parametrize(("rows_of_bytes", "batches"), [(0.5, [1] * 4), (2.5, [2, 2]), (9, [4])])
def test_a_batch_of_transformers_own_generate_takes_no_more_than_its_room(
    tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, rows_of_bytes: float, batches: list[int]
) -> None:
    model, tokenizer = tiny_model
    requests = [Request([5, 6], max_new_tokens=4)] * 4
    written = dict(StockGenerator(model, tokenizer).generate(requests))
    row_bytes = row_of_generate_bytes(ModelShape.of(model.config, model.dtype.itemsize), 2, 2 + 64)
    generate, begun = model.generate, []
    monkeypatch.setattr(model, "generate", lambda ids, **given: begun.append(len(ids)) or generate(ids, **given))
    limit = BatchLimit(cache_bytes=int(rows_of_bytes * row_bytes))
    assert dict(StockGenerator(model, tokenizer, limit).generate(requests)) == written
    assert begun == batches


def test_the_room_in_two_rooms_keeps_to_each_of_their_limits() -> None:
    one, other = Room(10, 64, None, 7), Room(None, 16, 5, 9)
    assert one.within(other) == other.within(one) == Room(10, 16, 5, 7)
    assert one.within(Room()) == one
