"""Weights of any shape go through a small memory, and arrive as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evaluation.generation.vllm_engine import weight_stream
from evaluation.generation.vllm_engine.weight_stream import SharedMemory, WeightPiece, WeightReader, WeightWriter

CPU = torch.device("cpu")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.int64]
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


def passed(tensors: Sequence[tuple[str, Tensor]], writer: WeightWriter) -> list[tuple[str, Tensor]]:
    """Return what the reader gets; a half is spoilt as soon as it is read, as by the next one."""
    pending: list[Sequence[WeightPiece]] = []

    def chunks() -> Iterator[Sequence[WeightPiece]]:
        for pieces in writer.chunks(tensors):
            pending.append(pieces)
            yield pieces

    def taken() -> None:
        for piece in pending.pop(0):
            reader._memory[piece.place : piece.place + piece.count] = 255

    file = os.dup(writer.shared.file)
    reader = WeightReader(SharedMemory(file, writer.shared.handle))
    os.close(file)
    return list(reader.tensors(chunks(), taken))


@given(kinds=st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8), half=st.integers(1, 400))
@pytest.mark.hypothesis
def test_tensors_arrive_as_they_were(kinds: Sequence[tuple[Sequence[int], torch.dtype]], half: int) -> None:
    tensors = [
        (f"t{index}", torch.arange(torch.Size(shape).numel()).reshape(tuple(shape)).to(dtype))
        for index, (shape, dtype) in enumerate(kinds)
    ]
    writer = WeightWriter(CPU, half)
    found = passed(tensors, writer)
    writer.close()
    assert [name for name, _ in found] == [name for name, _ in tensors]
    for (_, tensor), (_, other) in zip(tensors, found, strict=True):
        assert other.dtype == tensor.dtype
        assert torch.equal(other, tensor)


def test_a_transposed_tensor_arrives_in_its_own_order() -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T
    writer = WeightWriter(CPU, 64)
    [(_, found)] = passed([("t", tensor)], writer)
    writer.close()
    assert torch.equal(found, tensor)


def test_the_memory_is_bounded_and_a_tensor_is_made_only_when_there_is_room_for_it() -> None:
    made = 0

    def tensors() -> Iterator[tuple[str, Tensor]]:
        nonlocal made
        for index in range(100):
            made += 1
            yield f"t{index}", torch.full((16,), float(index))

    writer = WeightWriter(CPU, 256)
    assert os.fstat(writer.shared.file).st_size == 512
    chunks = writer.chunks(tensors())
    assert [piece.name for piece in next(chunks)] == ["t0", "t1", "t2", "t3"]
    assert made == 4
    assert {piece.place // 256 for piece in next(chunks)} == {1}
    assert {piece.place // 256 for piece in next(chunks)} == {0}
    writer.close()


def test_a_handle_of_a_gpu_is_made_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta`, which stands for a GPU: tensors are copied nowhere, and no other process is there."""
    handles: list[Tensor] = []

    def reduce(tensor: Tensor) -> tuple[object, tuple[object, ...]]:
        handles.append(tensor)
        return None, (len(handles),)

    monkeypatch.setattr(weight_stream, "reduce_tensor", reduce)
    device = torch.device("meta")
    writer = WeightWriter(device, 1024)
    for _ in range(50):
        tensors = [(f"t{index}", torch.empty(700, device=device)) for index in range(10)]
        assert sum(piece.count for pieces in writer.chunks(tensors) for piece in pieces) == 28_000
    assert writer.shared.handle == (1,)
    writer.close()
    assert [tensor.nbytes for tensor in handles] == [2048]
