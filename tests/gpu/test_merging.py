"""On a GPU: merges have the bits that they have on the CPU, compiled or not, and copies run beside the work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from merging import MergeOptions, Merger, MergingError, NonFiniteTensor, ParentSet, Recipe, choose_kernels
from merging.arithmetic.random_bits import keep_below, kept_below, keys
from merging.checkpoints.checkpoint import Checkpoint
from merging.kernels import EAGER
from merging.kernels.compiled import CompiledKernels
from merging.methods import METHODS
from merging.residency.budget import Budget
from merging.residency.copy_queue import CudaCopyQueue
from merging.residency.transfers import Transfers
from tests.merging.conftest import make_family
from tests.merging.operands import run
from tests.merging.recipes import recipes
from tests.merging.test_merger import text
from tests.merging.test_native import FORMATS, TASK_VECTORS, assert_same_bits, tensors
from tests.tiny import TinyModel, save_tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PLENTY = 1 << 40
# What the others compute (norms, angles, singular values) is summed in an order of the device's own.
ELEMENTWISE = (*TASK_VECTORS, "linear", "nearswap", "passthrough")


@pytest.fixture(scope="module")
def compiled() -> CompiledKernels:
    """The compiled functions, once for all tests."""
    found = choose_kernels(1, torch.device("cuda"), wanted=True).kernels
    assert isinstance(found, CompiledKernels)
    return found


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_what_it_gives_on_the_cpu(name: str, dtype: torch.dtype, compiled: CompiledKernels) -> None:
    method = METHODS[name]
    count = 1 if method.inputs == (2, 2) and method.base == "required" else 1 if name == "passthrough" else 2
    base, *parents = (tensor.view(-1, 64) for tensor in tensors(count, dtype, elements=65_536 + 64))
    given = {p.key: 0.4 for p in method.parameters if p.required or p.key == "density"}
    shared = {"rescale": True} if method.parameter("rescale") else {}
    observed = {"gram": torch.eye(64), "fisher": torch.rand(base.shape)}.get(method.observes or "")
    found = []
    for device, how in (("cpu", EAGER), ("cuda", EAGER), ("cuda", compiled)):
        on = [tensor.to(device) for tensor in (base, *parents)]
        seen = [None if observed is None else observed.to(device)] * count
        each = dict.fromkeys(given, [0.4] * count)
        apart = on[0] if method.base == "required" else None
        with torch.inference_mode():
            found.append(run(name, apart, on[1:], given | shared, each, how, 1 << 30, seen).cpu())
    for other in found[1:]:
        if name in ELEMENTWISE:
            assert_same_bits(other, found[0])
        else:
            assert torch.allclose(other.float(), found[0].float(), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["ties", "ties, not normalized, lambda, rescale", "linear", "out_dtype"])
def test_a_live_model_has_the_bits_that_it_has_on_the_cpu(tmp_path: Path, compiled: CompiledKernels, name: str) -> None:
    recipe = Recipe.parse(recipes(make_family(tmp_path), "bfloat16")[name])
    for computes_in in (None, torch.float32):
        found = []
        for device, how in (("cpu", EAGER), ("cuda", compiled), ("cuda", EAGER)):
            with ParentSet.open(recipe, MergeOptions(device)) as parents:
                merged = Merger(parents, kernels=how, compute_dtype=computes_in).apply(recipe).state_dict()
                found.append({key: tensor.cpu() for key, tensor in merged.items()})
        for other in found[1:]:
            for key, tensor in found[0].items():
                assert_same_bits(other[key], tensor)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
def test_random_masks_are_the_same_on_every_device(density: float) -> None:
    key, start = keys(3, 1, "tensor"), 2**32 - 500
    on_cpu, on_gpu = (keep_below(kept_below(density), key, start, 1000, torch.device(name)) for name in ("cpu", "cuda"))
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path, compiled: CompiledKernels) -> None:
    family = make_family(tmp_path)
    too_large = "[{filter: o_proj, value: 6e4}, {value: 1}]"
    plain = text(family, "task_arithmetic", weight=too_large).replace("bfloat16", "float16")
    recipe = Recipe.parse(plain + "parameters: {lambda: 3000}")
    for how in (compiled, EAGER):
        with (
            ParentSet.open(recipe, MergeOptions("cuda")) as parents,
            pytest.raises(NonFiniteTensor, match=r"layers\.0\..*o_proj"),
        ):
            Merger(parents, kernels=how).apply(recipe)


def test_parents_that_do_not_fit_are_kept_in_host_memory_and_that_is_said(tmp_path: Path) -> None:
    family = make_family(tmp_path, hidden=1024)
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    torch.cuda.empty_cache()
    room = 2.5 * Checkpoint.open(family.base).nbytes
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    try:
        with ParentSet.open(recipe, MergeOptions("cuda", memory_budget=Budget(PLENTY, PLENTY))) as parents:
            parents.load()
            assert any("cuda:0 ran out of memory" in note for note in parents.notes)
            assert any("are kept in host memory" in note for note in parents.notes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_copies_run_beside_the_work(tmp_path: Path) -> None:
    stored = list(Checkpoint.open(save_tiny_model(tmp_path / "m", TinyModel(hidden=1024, layers=4))).tensors.values())
    pinned = {each: each.read().pin_memory() for each in stored}
    device = torch.device("cuda", 0)
    transfers = Transfers(CudaCopyQueue(device))
    cycles = 2_000_000  # about a millisecond

    def seconds(copies: bool, work: bool) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            for each in stored:
                if copies:
                    transfers.begin({each: pinned[each]})
                if work:
                    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds(copies=True, work=True)
    alone, both = seconds(True, False) + seconds(False, True), seconds(True, True)
    transfers.close()
    assert both < alone - 0.5 * seconds(True, False)


def test_what_cannot_be_compiled_for_is_refused() -> None:
    with pytest.raises(MergingError, match=r"torch\.compile does not work on cuda:99"):
        CompiledKernels.on(torch.device("cuda", 99))
