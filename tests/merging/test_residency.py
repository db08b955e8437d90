"""Where parents live changes their speed and nothing else; opening them reads no weights."""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from merging import (
    ExportOptions,
    MergeOptions,
    Merger,
    MergingError,
    OutOfMemory,
    ParentSet,
    Recipe,
    execution,
    export_model,
    merger,
)
from merging.arithmetic.bits import Finite
from merging.checkpoints.architecture import skeleton
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.weights import StoredTensor, read_header
from merging.residency.budget import Budget
from merging.residency.residency import Residency
from search.cli import main
from tests.merging.conftest import Family
from tests.merging.test_merger import text as recipe_text
from tests.parametrization import every
from tests.tiny import TinyModel, byte_tokenizer, save_tiny_model

CPU = torch.device("cpu")
_M_MMAP_THRESHOLD = -3


def merged(recipe: Recipe, budget: int | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a merge, made twice in a row under a budget."""
    with ParentSet.open(recipe, MergeOptions(memory_budget=budget)) as parents:
        parents.load()
        merger = Merger(parents, random_seed=3)
        merger.apply(recipe)
        return {
            name: tensor.clone() for name, tensor in Merger(parents, random_seed=3).apply(recipe).state_dict().items()
        }


# --- headers alone --------------------------------------------------------------------------------------------------


def save_hollow_model(folder: Path, config: LlamaConfig, first: bytes = b"") -> str:
    """Save a model whose file has every header and no weights but each tensor's first: a hole that takes no room."""
    folder.mkdir()
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    header: dict[str, object] = {}
    starts, end = [], 0
    for name, tensor in skeleton(config, str(folder)).state_dict().items():
        start, end = end, end + tensor.numel() * 2
        starts.append(start)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for start in starts if first else ():
            file.seek(8 + len(text) + start)
            file.write(first)
    return str(folder)


def bytes_read_of(file: Path) -> int:
    """Return how much of a file lies in memory, whoever brought it there and however."""
    libc = ctypes.CDLL(None, use_errno=True)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        address = torch.frombuffer(view, dtype=torch.uint8).data_ptr()
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), found) == 0
        return sum(page & 1 for page in bytes(found)) * mmap.PAGESIZE


SEVEN_BILLION = LlamaConfig(dtype="bfloat16")  # transformers' default Llama is the one of 7B


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models of 6.7B parameters without weights."""
    folder = tmp_path_factory.mktemp("hollow")
    firsts = {"base": b"", "a": b"\x80\x3f", "b": b"\x00\x40"}  # models that differ: 0, 1 and 2
    return [save_hollow_model(folder / name, SEVEN_BILLION, first) for name, first in firsts.items()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_plan_of_parents_of_7b_reads_no_weights(hollow: list[str]) -> None:
    base, a, b = hollow
    text = f"""
merge_method: ties
base_model: {base}
models: [{{model: {a}}}, {{model: {b}}}]
parameters: {{density: 0.5, weight: 1}}
"""
    recipe = Recipe.parse(text)
    with ParentSet.open(recipe) as parents:
        plan = Merger(parents).plan(recipe)
        assert len(plan.tensors) == 291
        assert sum(tensor.shape.numel() for tensor in plan.tensors) == 6_738_415_616
    for model in hollow:
        file = Path(model) / "model.safetensors"
        assert file.stat().st_size > 13e9
        assert bytes_read_of(file) < 2e6  # a page of each tensor was written just now


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_the_dry_run_of_a_search_over_7b_reads_no_weights(hollow: list[str], tmp_path: Path) -> None:
    base, a, b = hollow
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
recipe:
  merge_method: task_arithmetic
  base_model: {base}
  models:
  - {{model: {a}, parameters: {{weight: {{low: 0.0, high: 1.0, knots: 3}}}}}}
  - {{model: {b}, parameters: {{weight: 0.5}}}}
""",
        encoding="utf-8",
    )
    result = CliRunner().invoke(main, ["run", str(config), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "\nlayers 0-31\n" in result.output
    # Four small tensors tell the models apart; around each the system reads ahead, some megabytes.
    assert all(bytes_read_of(Path(model) / "model.safetensors") < 1e8 for model in hollow)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_bytes_that_are_read_are_seen(tmp_path: Path) -> None:
    config = LlamaConfig(num_hidden_layers=1, hidden_size=512, dtype="bfloat16")
    model = Path(save_hollow_model(tmp_path / "model", config))
    checkpoint = Checkpoint.open(str(model))
    before = bytes_read_of(model / "model.safetensors")
    size = checkpoint.read("model.embed_tokens.weight").nbytes
    assert bytes_read_of(model / "model.safetensors") - before > 0.9 * size


# --- tiers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", every(2, ["ties", "dare_ties", "task_arithmetic"]))
def test_a_merge_has_the_same_bits_wherever_its_parents_are(family: Family, method: str) -> None:
    recipe = Recipe.parse(recipe_text(family, method))
    everything = merged(recipe, None)
    size = Checkpoint.open(family.base).nbytes
    for budget in (0, size // 2, 2 * size):
        found = merged(recipe, budget)
        assert all(torch.equal(found[name], everything[name]) for name in everything)


@pytest.mark.parametrize("shift", [0, 8, 16, 24, 32, 40, 48, 56])
def test_a_dot_product_has_the_same_bits_however_a_tensor_lies_in_its_file(tmp_path: Path, shift: int) -> None:
    # The header is padded to 8 bytes; BLAS cares for 64.
    tensors = {"one": torch.randn(40_001), "other": torch.randn(40_001), "half": torch.randn(999).half()}
    save_file(tensors, tmp_path / "file.safetensors", metadata={"padding": "x" * shift})
    stored = read_header(tmp_path / "file.safetensors")
    read = {name: tensor.read() for name, tensor in stored.items()}
    viewed = {name: tensor.view() for name, tensor in stored.items()}
    assert all(torch.equal(viewed[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(torch.dot(read["one"], read["other"]), torch.dot(viewed["one"], viewed["other"]))


def test_writing_to_a_view_leaves_the_file_alone(tmp_path: Path) -> None:
    save_file({"half": torch.zeros(9).half()}, tmp_path / "file.safetensors")
    stored = read_header(tmp_path / "file.safetensors")["half"]
    stored.view().fill_(1.0)
    assert torch.equal(stored.read(), torch.zeros(9).half())


def test_what_has_room_is_read_once_and_the_rest_every_time(family: Family) -> None:
    stored = list(Checkpoint.open(family.a).tensors.values())
    room = sum(tensor.nbytes for tensor in stored[:5])
    residency = Residency(CPU, Budget(0, room))
    kept = [tensor for tensor in stored if residency.get(tensor) is residency.get(tensor)]
    assert kept[:5] == stored[:5]
    assert len(kept) < len(stored)
    assert sum(tensor.nbytes for tensor in kept) <= room
    assert all(torch.equal(residency.get(tensor), tensor.read()) for tensor in stored)


def test_a_tensor_that_many_threads_want_is_read_once(family: Family) -> None:
    stored = list(Checkpoint.open(family.a).tensors.values())
    residency = Residency(CPU, Budget(0, 10**9))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(residency.get, stored * 8))
    assert len({id(tensor) for tensor in found}) == len(stored)


def test_what_finds_no_room_is_told(family: Family) -> None:
    recipe = Recipe.average([family.base, family.a])
    size = f"{2 * Checkpoint.open(family.base).nbytes / 1e9:.2f} GB"
    for budget, notes in (
        (None, ()),
        (0, (f"of {size} of parents {size} are read from their files for every candidate",)),
    ):
        with ParentSet.open(recipe, MergeOptions(memory_budget=budget)) as parents:
            parents.load()
            assert parents.notes == notes


def test_parents_keep_within_a_budget_that_is_made_once_they_are_open(family: Family) -> None:
    recipe = Recipe.average([family.base, family.a])
    size = Checkpoint.open(family.base).nbytes
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents:
        parents.keep_within({CPU: Budget(0, size)})
        parents.load()
        kept = [
            name
            for model in (family.base, family.a)
            for name in parents.names(model)
            if parents.kept(model, name) is not None
        ]
        assert sum(parents.shape(family.base, name).numel() * 2 for name in kept) <= size
        assert parents.notes


def test_the_progress_of_loading_counts_every_tensor(family: Family) -> None:
    recipe = Recipe.average([family.base, family.a])
    progress = Mock()
    with ParentSet.open(recipe) as parents:
        progress.assert_not_called()
        parents.load(progress)
    tensors = len(Checkpoint.open(family.base).tensors)
    expected = [*[family.base] * tensors, *[family.a] * tensors]
    assert progress.call_args_list == [call(name, i, 2 * tensors) for i, name in enumerate(expected, start=1)]


def test_parents_read_in_inference_mode_are_of_use_outside(family: Family) -> None:
    for budget in (None, 0):
        with ParentSet.open(Recipe.single(family.a), MergeOptions(memory_budget=budget)) as parents:
            with torch.inference_mode():
                tensor = parents.tensor(family.a, "model.norm.weight")
            weight = torch.ones_like(tensor, requires_grad=True)
            (weight * tensor).sum().backward()  # type: ignore[no-untyped-call]
            assert weight.grad is not None
            assert torch.equal(weight.grad, tensor)


def test_a_file_that_is_cut_short_while_parents_are_streamed_is_an_error_and_no_crash(
    family: Family, tmp_path: Path
) -> None:
    model = Path(save_tiny_model(tmp_path / "model", TinyModel(seed=1)))
    recipe = Recipe.average([family.base, str(model)])
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents:
        Merger(parents).apply(recipe)
        os.truncate(model / "model.safetensors", 5000)
        with pytest.raises(MergingError, match=rf"^{model}/model.safetensors: tensor .* cannot be read: mmap "):
            Merger(parents).apply(recipe)


# --- memory ---------------------------------------------------------------------------------------------------------


def status(key: str) -> int:
    """Return a size from /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) * 1024


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yield a list that holds, afterwards, by how many bytes the process grew at its largest."""
    grown: list[int] = []
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and is kept for later would hide what is taken
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    yield grown
    grown.append(status("VmHWM") - before)


@pytest.fixture(scope="module", autouse=True)
def _freed_memory_is_given_back() -> None:
    # Else a tensor comes out of what earlier tests freed, and is neither measured nor refused.
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The average of three models of 77 MB."""
    folder = tmp_path_factory.mktemp("large")
    options = {"hidden": 512, "layers": 8, "dtype": "float32"}
    return Recipe.average([save_tiny_model(folder / str(seed), TinyModel(seed=seed, **options)) for seed in range(3)])  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_export_takes_the_memory_of_a_shard_and_not_of_its_parents(large: Recipe, tmp_path: Path) -> None:
    size = Checkpoint.open(large.config_source).nbytes
    assert size > 70e6
    export_model(
        large, tmp_path / "first", files=ExportOptions(max_shard_size="1MB")
    )  # what Python and torch need once is not measured
    with peak() as grown:
        export_model(large, tmp_path / "merged", files=ExportOptions(max_shard_size="10MB"))
    # A shard of 10 MB, and for each thread four tensors of 2 MB and blocks in between: 22 MB with one thread.
    assert grown[0] < size, f"grew by {grown[0] / 1e6:.0f} MB"
    with ParentSet.open(large) as parents, peak() as grown:
        parents.load()
    assert grown[0] > 2 * size, "the measure sees what is kept"


@pytest.mark.slow
def test_out_of_memory_falls_back_to_the_files_and_says_so(large: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with ParentSet.open(large, MergeOptions(memory_budget=10**9)) as parents, caplog.at_level(logging.WARNING):
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 60 * 10**6, limits[1]))
        try:
            parents.load()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert parents.notes[0] == (
            "the host ran out of memory while the parents were read; the rest of them is read from the files for every "
            "candidate"
        )
        assert caplog.messages == [parents.notes[0]]
        whole = {name: tensor.clone() for name, tensor in Merger(parents).apply(large).state_dict().items()}
    expected = merged(large, None)
    assert all(torch.equal(whole[name], expected[name]) for name in expected)


@pytest.mark.parametrize("has_spare", [True, False])
def test_the_rest_of_a_device_that_is_full_becomes_the_hosts_where_that_has_room(
    family: Family, has_spare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = sorted(Checkpoint.open(family.base).tensors.values(), key=lambda each: each.nbytes)
    size = sum(each.nbytes for each in stored)
    residency = Residency(CPU, Budget.in_all(size, True) if has_spare else Budget(size, 0))
    read = Residency._read_onto_device

    def full(self: Residency, tensor: StoredTensor) -> Tensor | None:
        if tensor is stored[2]:
            raise torch.OutOfMemoryError
        return read(self, tensor)

    monkeypatch.setattr(Residency, "_read_onto_device", full)
    kept = [residency.keep(each) is not None for each in stored]
    assert kept == [True] * 2 + [has_spare] * (len(stored) - 2)
    rest = "kept in host memory" if has_spare else "read from the files for every candidate"
    assert residency.notes == [f"cpu ran out of memory while the parents were read; the rest of them is {rest}"]


def test_parents_give_up_memory_before_a_merge_fails(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.average([family.base, family.a])
    expected = merged(recipe, None)
    failures = iter([True, False, True])

    def run_step(*arguments: Any) -> Finite:
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments)

    original = execution.run_step
    with ParentSet.open(recipe) as parents:
        parents.load()
        monkeypatch.setattr(execution, "run_step", run_step)
        found = Merger(parents).apply(recipe).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert parents.notes == (
            "the host ran out of memory while they were merged; a part of the parents is read from the files for every "
            "candidate",
        )


def test_parents_give_up_memory_for_the_live_model(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.average([family.base, family.a])
    expected = merged(recipe, None)
    fails = torch.OutOfMemoryError("CUDA out of memory")
    with ParentSet.open(recipe) as parents:
        parents.load()
        kept = [parents.kept(family.a, name) for name in parents.names(family.a)]
        assert all(tensor is not None for tensor in kept)
        built = Mock(side_effect=[fails, merger.build_model(parents.reference.transformers_config, parents)])
        monkeypatch.setattr(merger, "build_model", built)
        found = Merger(parents).apply(recipe).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert parents.kept(family.a, parents.names(family.a)[0]) is None


def test_a_merge_without_room_and_with_nothing_to_give_up_is_one_line(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.average([family.base, family.a])
    monkeypatch.setattr(execution, "run_step", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nTry")))
    line = r"^cpu ran out of memory while \S+ was merged \(method linear\): CUDA"
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents, pytest.raises(OutOfMemory, match=line):
        Merger(parents).apply(recipe)
