"""A shard is a safetensors file like any other, whatever its tensors, and is never in memory whole."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from merging.checkpoints.headers import TensorEntry
from merging.export.shards import Destination, write_shard
from merging.sizes import runs

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]
ENTRIES = st.lists(
    st.builds(
        TensorEntry,
        name=st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
        dtype=st.sampled_from(DTYPES),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda entry: entry.name,
)


def whole(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a tensor as a file holds it that keeps it in one piece."""
    return {name: tensor}


def content(entry: TensorEntry, seed: int) -> Tensor:
    """Return what a tensor holds in these tests."""
    count = torch.Size(entry.shape).numel()
    return (torch.arange(count) * 7 + seed).remainder(100).to(entry.dtype).view(entry.shape)


@given(entries=ENTRIES, threads=st.integers(1, 4), order=st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_what_safetensors_reads(
    tmp_path: Path, entries: list[TensorEntry], threads: int, order: Random
) -> None:
    expected = {entry.name: content(entry, seed) for seed, entry in enumerate(entries)}

    def put(name: str, place: Destination) -> None:
        with place as tensor:
            tensor.copy_(expected[name])

    def fill(places: Mapping[str, Destination]) -> None:
        work = list(places.items())
        order.shuffle(work)
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(put, *zip(*work, strict=True))) == [None] * len(entries)

    write_shard(tmp_path / "model.safetensors", entries, fill, whole)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_shard_takes_the_memory_of_its_largest_tensor(tmp_path: Path) -> None:
    entries = [TensorEntry(str(index), (1 + index % 5, 1000), torch.float32) for index in range(20)]

    def fill(places: Mapping[str, Destination]) -> None:
        addresses = set()
        for place in places.values():
            with place as tensor:
                addresses.add(tensor.untyped_storage().data_ptr())
                assert tensor.untyped_storage().nbytes() <= 20_000
                tensor.zero_()
        assert len(addresses) <= 5  # grown, from the first on

    write_shard(tmp_path / "model.safetensors", entries, fill, whole)
    assert (tmp_path / "model.safetensors").stat().st_size > 20 * 3 * 4000


def test_a_tensor_that_could_not_be_made_is_not_written(tmp_path: Path) -> None:
    def fill(places: Mapping[str, Destination]) -> None:
        with places["a"] as tensor:
            tensor.zero_()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "model.safetensors", [TensorEntry("a", (1000,), torch.float32)], fill, whole)
    assert (tmp_path / "model.safetensors").stat().st_size < 1000


def test_a_tensor_that_files_hold_in_pieces_is_filled_whole(tmp_path: Path) -> None:
    entries = [TensorEntry("bias", (3,), torch.int8), TensorEntry("experts", (4, 3, 2), torch.float32)]
    expected = {entry.name: content(entry, 1) for entry in entries}
    filled: list[str] = []

    def fill(places: Mapping[str, Destination]) -> None:
        for name, place in places.items():
            filled.append(name)
            with place as tensor:
                tensor.copy_(expected[name])

    def disassemble(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name == "bias":
            return {name: tensor}
        return {
            f"{part}.{index}": each[:, column].contiguous()
            for column, part in enumerate("gu")
            for index, each in enumerate(tensor)
        }

    names = write_shard(tmp_path / "model.safetensors", entries, fill, disassemble)
    found = load_file(tmp_path / "model.safetensors")
    assert filled == ["experts", "bias"]
    assert (
        sorted(names) == sorted(found) == sorted(["bias", *(f"{part}.{index}" for part in "gu" for index in range(4))])
    )
    assert all(torch.equal(found[f"u.{index}"], expected["experts"][index, :, 1]) for index in range(4))


@given(sizes=st.lists(st.integers(1, 9), max_size=12), limit=st.integers(1, 20))
def test_runs_keep_to_the_limit_and_leave_nothing_out(sizes: list[int], limit: int) -> None:
    entries = [TensorEntry(str(index), (size,), torch.int8) for index, size in enumerate(sizes)]
    found = list(runs(entries, lambda entry: entry.nbytes, limit))
    assert [entry for run in found for entry in run] == entries
    assert all(len(run) == 1 or sum(entry.nbytes for entry in run) <= limit for run in found)
    assert all(found)
