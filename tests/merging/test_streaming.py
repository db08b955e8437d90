"""The memory of streaming and of statistics is known from sizes alone, and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.residency.streaming import CHUNK, StreamingBytes, aligned, piece_elements, streaming_bytes
from merging.statistics.memory import calibration_bytes, statistics_bytes

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


LAYERS = [((4096, 4096), True)] * 128 + [((11_008, 4096), True)] * 96 + [((32_256, 4096), False)] * 2


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("linear", 0),
        ("ties", 0),  # tables are on the host
        ("della", 2 * 2 * 6.74e9),  # int16 ranks
        ("tsv_m", 2 * 4 * 6.48e9),
        ("iso_c", 4 * 6.48e9),
        ("fisher", 2 * 4 * 6.74e9),
    ],
)
def test_statistics_of_two_parents_of_7b(method: str, kept: float) -> None:
    assert statistics_bytes([method], LAYERS, 2).kept == pytest.approx(kept, rel=0.01)


def test_methods_of_one_search_add_up() -> None:
    one, other, both = (statistics_bytes(names, LAYERS, 2) for names in (["della"], ["iso_c"], ["della", "iso_c"]))
    assert both.kept == one.kept + other.kept
    assert both.working == max(one.working, other.working)


def test_calibration_runs_a_parent_in_float32() -> None:
    assert calibration_bytes(["regmean"], 1000) == 4000
    assert calibration_bytes(["ties"], 1000) == 0
