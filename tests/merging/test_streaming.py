"""The memory of streaming is known from sizes alone, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from merging.residency.streaming import CHUNK, StreamingBytes, aligned, piece_elements, streaming_bytes

GROUPS = st.lists(st.lists(st.integers(0, 1 << 33), max_size=4), max_size=8)


@given(GROUPS, st.integers(1 << 20, 1 << 31))
def test_streaming_never_takes_more_than_three_chunks(groups: list[list[int]], chunk: int) -> None:
    taken = streaming_bytes(groups, chunk, from_files=True)
    assert taken.device <= 3 * chunk
    assert taken.host <= 2 * chunk


@given(GROUPS, st.integers(1 << 20, 1 << 31))
def test_each_group_fits_into_a_buffer_or_is_merged_in_pieces(groups: list[list[int]], chunk: int) -> None:
    taken = streaming_bytes(groups, chunk)
    sizes = [sum(map(aligned, group)) for group in groups]
    pieces = chunk if any(size > chunk for size in sizes) else 0
    assert all(2 * size <= taken.device - pieces for size in sizes if size <= chunk)


def test_parents_on_the_device_need_no_streaming() -> None:
    assert streaming_bytes([[], []]) == StreamingBytes(0, 0)


def test_two_embeddings_of_qwen_no_longer_take_the_card() -> None:
    embedding = 152_064 * 3584 * 2
    layer = [3584 * 18_944 * 2] * 3
    # As large as the largest tensor of every parent, twice: 6.5 GB.
    assert 2 * 3 * embedding > 6.5e9
    assert streaming_bytes([[embedding] * 3, layer]).device <= 3 * CHUNK


@given(st.integers(1, 64), st.integers(1 << 20, 1 << 32))
def test_a_piece_is_made_of_whole_runs_and_takes_an_eighth_of_a_chunk(width: int, chunk: int) -> None:
    elements = piece_elements(width, chunk, 1 << 16)
    assert elements % (1 << 16) == 0
    assert elements == 1 << 16 or elements * width <= chunk // 8
