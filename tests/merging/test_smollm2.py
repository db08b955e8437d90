"""A real family merges as in mergekit 0.1.5: SmolLM2-135M-Instruct and two fine-tunes, every method, both widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge
from tests.merging.recipes import NAMES, recipes
from tests.merging.test_parity import check, check_every_element, merge

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> Family:
    return Family(*(str(smollm2_folder / name) for name in ("base", "text", "numeric")))


@pytest.mark.parametrize("name", NAMES)
def test_a_bfloat16_merge_has_mergekits_bits(smollm2: Family, name: str) -> None:
    # Short fine-tunes move a bfloat16 weight by few different steps, so more magnitudes are equal than by chance.
    check(recipes(smollm2, "bfloat16")[name], relative=0.0, most_undecided=0.1)


@pytest.mark.parametrize("name", ["ties", "ties, negative weights"])
def test_where_mergekit_keeps_the_first_of_equals_no_bit_differs(smollm2: Family, name: str) -> None:
    check_every_element(recipes(smollm2, "bfloat16")[name], relative=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_float32_merge_is_mergekits(smollm2: Family, name: str) -> None:
    # The files are bfloat16, so magnitudes are as often equal here; with a stable sort none has to be left out.
    check_every_element(recipes(smollm2, "float32")[name], relative=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_random_merge_keeps_as_much_of_each_tensor_as_mergekits(smollm2: Family, method: str, dtype: str) -> None:
    text = recipes(smollm2, dtype)["task_arithmetic"].replace("task_arithmetic", method)
    text = text.replace("parameters: {}", "parameters: {density: [0.3, 0.8]}")
    ours, _ = merge(text)
    torch.manual_seed(0)
    theirs = mergekit_merge(text)
    base = mergekit_merge(f"merge_method: passthrough\nmodels: [{{model: {smollm2.base}}}]\ndtype: {dtype}\n")
    deltas = {name: [merged[name].double() - base[name].double() for merged in (ours, theirs)] for name in theirs}
    for name, (one, other) in deltas.items() if dtype == "float32" else ():
        apart = five_deviations(other)
        assert abs(kept(one) - kept(other)) < apart, name
        assert norm(one) == pytest.approx(norm(other), rel=max(0.01, 4 * apart)), name
    # In bfloat16 a delta is a step or two of the base's, and the last bit of the factor that rescales it decides, in a
    # whole tensor at once, whether half a step is one or none: only all tensors together are comparable.
    for measure in (kept, norm):
        mine, its = (measure(torch.cat([pair[side].flatten() for pair in deltas.values()])) for side in (0, 1))
        assert mine == pytest.approx(its, rel=0.02)


def kept(delta: Tensor) -> float:
    """Return the share of elements that a merge changed."""
    return float((delta != 0).double().mean())


def norm(delta: Tensor) -> float:
    """Return the L1 norm."""
    return float(delta.abs().sum())


def five_deviations(delta: Tensor) -> float:
    """Return how far apart the shares of two independent draws may lie, at most."""
    return float(5 * (0.5 / delta.numel()) ** 0.5)
