"""The passes in C have the bits of the same merge in torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from merging import MergeOptions, MergingError, Recipe, choose_kernels, export_model
from merging.arithmetic.bits import as_bits
from merging.arithmetic.random_bits import keys, random_numbers
from merging.kernels import EAGER, native
from merging.kernels.native import NativeKernels
from merging.kernels.native.compiler import Compiler, Variant, compiler
from merging.kernels.passes import FORMATS
from merging.methods import METHODS
from merging.methods.task_vectors import mix
from tests.merging.conftest import Family
from tests.merging.operands import run
from tests.merging.recipes import recipes
from tests.search.processes import in_a_child

KERNELS, IN_BLOCKS = NativeKernels(), NativeKernels(777)
ELEMENTS = 5000
WEIGHT = st.sampled_from([0.3, 0.7, 1.0, -0.4, 1.5])
TASK_VECTORS = [name for name, method in METHODS.items() if method.combining is mix]
DENSITY = st.sampled_from([0.1, 0.37, 0.9, 1.0])


def tensors(count: int, dtype: torch.dtype, elements: int = ELEMENTS, seed: int = 0) -> list[Tensor]:
    """Return a base and fine-tunes of it that agree with it in some places."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(elements, generator=generator) * 0.02
    changes = [torch.randn(elements, generator=generator) ** 3 * 0.002 for _ in range(count)]
    changes = [torch.where(torch.rand(elements, generator=generator) < 0.1, 0, change) for change in changes]
    return [tensor.to(dtype) for tensor in (base, *(base + change for change in changes))]


def assert_same_bits(one: Tensor, other: Tensor) -> None:
    assert one.dtype == other.dtype
    assert torch.equal(as_bits(one), as_bits(other))


@pytest.mark.slow
@given(data=st.data())
def test_a_compiled_merge_of_task_vectors_has_the_same_bits(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(TASK_VECTORS))
    dtype = data.draw(st.sampled_from(list(FORMATS)))
    count = data.draw(st.integers(1, 3))
    base, *inputs = tensors(count, dtype)
    shared = {
        "normalize": data.draw(st.booleans()),
        "lambda": data.draw(st.sampled_from([1.0, 0.7])),
        "rescale": data.draw(st.booleans()),
    }
    shape = data.draw(st.sampled_from([(ELEMENTS,), (50, 100), (ELEMENTS, 1)]))
    base, *inputs = (tensor.view(shape) for tensor in (base, *inputs))
    weights = data.draw(st.lists(WEIGHT, min_size=count, max_size=count))
    densities = data.draw(st.lists(DENSITY, min_size=count, max_size=count))
    per_input = {"weight": weights, "density": densities, "epsilon": [0.05] * count, "gamma": [0.02, 0, 0.3][:count]}
    expected = run(method, base, inputs, shared, per_input)
    kernels = data.draw(st.sampled_from([KERNELS, IN_BLOCKS]))
    wide = data.draw(st.booleans())
    found = run(method, base, inputs, shared, per_input, kernels, wide=wide)
    assert_same_bits(found, expected.float() if wide else expected)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_compiled_average_has_the_same_bits(dtype: torch.dtype, normalize: bool, count: int) -> None:
    _, *inputs = tensors(count, dtype)
    numbers = ({"normalize": normalize}, {"weight": [0.3, 0.9, -0.2][:count]})
    expected = run("linear", None, inputs, *numbers)
    assert_same_bits(run("linear", None, inputs, *numbers, KERNELS), expected)
    assert_same_bits(run("linear", None, inputs, *numbers, KERNELS, wide=True), expected.float())


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_a_compiled_slerp_has_the_same_bits(dtype: torch.dtype, t: float) -> None:
    base, other = tensors(1, dtype)
    expected = run("slerp", base, [other], {"t": t})
    assert_same_bits(run("slerp", base, [other], {"t": t}, kernels=KERNELS), expected)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_top_k_in_a_later_run_of_a_large_tensor_is_found(dtype: torch.dtype) -> None:
    # Magnitude tables count in runs of 65,536 elements; here equals of the threshold lie in three of them.
    base = torch.zeros(200_000, dtype=dtype)
    fine_tune = torch.full_like(base, 0.5)
    fine_tune[::3] = 1.0
    kept = 150_000
    expected = torch.where(torch.arange(len(base)) % 3 == 0, 1.0, 0.0)
    halves = (expected == 0).nonzero().flatten()[: kept - int(expected.sum())]
    expected[halves] = 0.5
    for kernels in (EAGER, KERNELS):
        merged = run("ties", base, [fine_tune], {}, {"weight": [1.0], "density": [0.75]}, kernels)
        assert torch.equal(merged, expected.to(dtype))


def test_ranks_of_a_long_row_need_more_than_16_bits() -> None:
    base, other = tensors(1, torch.bfloat16, elements=40_000)
    numbers = ({}, {"weight": [0.7], "density": [0.3], "epsilon": [0.2]})
    assert_same_bits(run("della", base, [other], *numbers, KERNELS), run("della", base, [other], *numbers))


def test_an_overflow_is_noticed() -> None:
    base = torch.full((100,), 60000.0, dtype=torch.float16)
    inputs = [base / 2, base / 4]
    for wide in (False, True):
        merged = run("task_arithmetic", base, inputs, {}, {"weight": [-1.0, -1.0]}, KERNELS, wide=wide)
        assert torch.isinf(merged).all()


def test_a_kernel_is_compiled_once_by_threads_and_kept_for_the_next_process(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert in_a_child(compile_by_threads, tmp_path) == 0
        (library,) = (tmp_path / "merge-search" / "kernels").iterdir()
        made.append(library.stat().st_mtime_ns)
    assert made[0] == made[1]


def compile_by_threads(cache: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(cache)
    variant = Variant("weighted_sum", (("PARENTS", 2), ("FORMAT", 16), ("DIVIDE", 0), ("FMA", 0)))
    kernels = Compiler()
    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(lambda _: kernels.load(variant), range(8))))) == 1


def test_without_a_compiler_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MergingError, match="no C compiler is on the PATH"):
        Compiler()


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shutil.which("false")
    assert broken
    monkeypatch.setenv("CC", broken)
    with pytest.raises(MergingError, match=r"false cannot compile .*weighted_sum\.c: exit status 1"):
        Compiler().load(Variant("weighted_sum", (("PARENTS", 2),)))


CHOSEN = """
import torch
from merging import choose_kernels
from merging.kernels.native.compiler import Variant
choice = choose_kernels(10**10, torch.device("cpu"))
if not choice.note:
    choice.kernels._compiler.load(Variant("weighted_sum", (("PARENTS", 2), ("FORMAT", 16), ("DIVIDE", 0), ("FMA", 0))))
print(type(choice.kernels).__name__, choice.note)
"""


@pytest.mark.parametrize(
    ("temporary", "said"),
    [("elsewhere", "NativeKernels "), ("noexec", "EagerKernels compiled passes can be loaded neither from the")],
)
def test_no_library_is_loaded_from_a_file_system_that_is_mounted_noexec(
    tmp_path: Path, temporary: str, said: str
) -> None:
    for name in ("noexec", "elsewhere"):
        (tmp_path / name).mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("nothing may be mounted here")
    mounted = [*namespace, "sh", "-c", 'mount -t tmpfs -o noexec none "$0" && exec "$@"', str(tmp_path / "noexec")]
    place = {"XDG_CACHE_HOME": str(tmp_path / "noexec"), "TMPDIR": str(tmp_path / temporary)}
    command = [*mounted, sys.executable, "-c", CHOSEN]
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(said)


def test_kernels_are_chosen_where_they_pay_or_are_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu, small, large = torch.device("cpu"), 10**6, 10**10
    assert choose_kernels(small, cpu).kernels is EAGER
    assert choose_kernels(large, cpu).kernels is not EAGER
    assert choose_kernels(large, cpu, wanted=False).kernels is EAGER
    assert choose_kernels(large, torch.device("meta")).kernels is EAGER
    with pytest.raises(MergingError, match="the device is meta"):
        choose_kernels(large, torch.device("meta"), wanted=True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install one, e.g. gcc; merging takes longer" in choose_kernels(large, cpu).note
    with pytest.raises(MergingError, match=r"install one, e\.g\. gcc$"):
        choose_kernels(small, cpu, wanted=True)


def test_a_compiled_export_has_the_bits_of_an_uncompiled_one(family: Family, tmp_path: Path) -> None:
    recipe = Recipe.parse(recipes(family, "bfloat16")["ties"])
    for compile in (True, False):
        export_model(recipe, tmp_path / str(compile), MergeOptions(compile=compile))
    one, other = (load_file(tmp_path / str(compile) / "model.safetensors") for compile in (True, False))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert_same_bits(tensor, other[name])


def test_an_export_that_would_compile_and_cannot_says_so(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.kernels.choose._WORTH_COMPILING", {"cpu": 0})
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    notes: list[str] = []
    export_model(Recipe.parse(recipes(family, "bfloat16")["ties"]), tmp_path / "merge", note=notes.append)
    assert any("no C compiler" in note for note in notes)


@pytest.mark.parametrize("start", [0, 2**31 - 300, 2**32 - 500, 2**40])
def test_random_numbers_in_c_and_torch_have_the_same_bits(start: int, tmp_path: Path) -> None:
    source = tmp_path / "numbers.c"
    header = Path(native.__file__).parent / "random_bits.h"
    source.write_text(
        f'#include "{header}"\n'
        "void fill(int32_t *out, int64_t first, int64_t count, uint32_t key, uint32_t second_key) {\n"
        "    for (int64_t i = 0; i < count; i++) out[i] = random_number((uint32_t)(first + i), key, second_key);\n}\n"
    )
    library = tmp_path / "numbers.so"
    subprocess.run([str(compiler()), "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    fill, count = ctypes.CDLL(str(library)).fill, 1000
    for key in (keys(0, 1, "w"), keys(7, 0, "lm_head"), (0, 0), (-1, -(2**31))):
        found = torch.empty(count, dtype=torch.int32)
        words = (ctypes.c_uint32(word) for word in key)
        fill(ctypes.c_void_p(found.data_ptr()), ctypes.c_int64(start), ctypes.c_int64(count), *words)
        index = (torch.arange(start, start + count) % 2**32).to(torch.int32)
        assert torch.equal(random_numbers(index, *key), found)
        columns = (torch.tensor(word, dtype=torch.int32) for word in key)
        index = (torch.arange(start, start + count) % 2**32).to(torch.int32)
        assert torch.equal(random_numbers(index, *columns), found)
        assert int(found.min()) >= 0
