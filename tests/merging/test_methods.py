"""What must hold for merge methods whatever the numbers are."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from merging.arithmetic.bits import as_bits, bits_of, number_of
from merging.arithmetic.magnitude_table import RUN, count_on_device, count_on_host, magnitude_bins, magnitude_table
from merging.arithmetic.random_bits import keep_below, kept_below, keys
from merging.execution import run_step
from merging.kernels import EAGER
from merging.methods import METHODS, Scope
from merging.methods.arcee_fusion import quartiles
from merging.methods.breadcrumbs import band
from merging.methods.operands import Workspace
from merging.methods.sparsification import KEEP_NONE, located, top_k
from merging.planning.plan import Source, Step
from tests.merging.operands import PlainOperands, run
from tests.merging.oracle import mergekit_method

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@given(
    values=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=200),
    density=st.floats(0.001, 0.999),
    dtype=st.sampled_from(DTYPES),
)
def test_trimming_keeps_exactly_the_largest_and_of_equals_the_first(
    values: list[float], density: float, dtype: torch.dtype
) -> None:
    delta = torch.tensor(values, dtype=dtype)
    k = max(1, int(density * len(values)))
    kept = top_k(PlainOperands(torch.zeros_like(delta), [delta]), 0, (density,), rescale=False)
    expected = torch.zeros_like(delta)
    order = sorted(range(len(values)), key=lambda i: (-abs(float(delta[i])), i))[:k]
    expected[order] = delta[order]
    if kept is None:  # only zeros would go
        assert torch.equal(delta, expected)
        return
    # The same whole, and in pieces that begin anywhere.
    assert torch.equal(kept.apply(delta, 0), expected)
    half = len(values) // 2
    assert torch.equal(torch.cat([kept.apply(delta[:half], 0), kept.apply(delta[half:], half)]), expected)


@example(values=[1.00390625, 1.01171875, 1.0, 1.0078125], density=0.5, dtype=torch.bfloat16)  # two lie halfway
@given(
    values=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=200),
    density=st.floats(0.001, 0.999),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_a_widened_edge_keeps_the_same_elements_before_they_are_rounded(
    values: list[float], density: float, dtype: torch.dtype
) -> None:
    wide = torch.tensor(values)
    narrow = PlainOperands(torch.zeros(len(values), dtype=dtype), [wide.to(dtype)])
    kept = top_k(narrow, 0, (density,), rescale=False)
    if kept is None:
        return
    kept = located(narrow, 0, kept)
    found, expected = kept.widened(dtype).apply(wide.clone(), 0), kept.apply(wide.to(dtype), 0)
    # What is rounded to zero is zero in either way.
    assert torch.equal(found.to(dtype) != 0, expected != 0)


@example(number=41424.001953125, dtype=torch.float16)  # halfway between two once it is rounded to float32
@given(number=st.floats(-60000, 60000, allow_nan=False), dtype=st.sampled_from(DTYPES))
def test_the_bits_of_a_number_are_torchs(number: float, dtype: torch.dtype) -> None:
    bits = bits_of(number, dtype)
    assert bits == int(as_bits(torch.tensor(number, dtype=dtype)))
    assert number_of(bits, dtype) == float(torch.tensor(number, dtype=dtype))


@given(values=st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=300), data=st.data())
def test_the_magnitude_table_knows_every_kth_largest(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.bfloat16)
    k = data.draw(st.integers(1, len(values)))
    table = magnitude_table([tensor[:7], tensor[7:]])
    place = table.place_of(k)
    index = sorted(range(len(values)), key=lambda i: (-abs(float(tensor[i])), i))[k - 1]
    magnitude = abs(float(tensor[index]))
    assert number_of(place.bin, torch.bfloat16) == magnitude
    equal = [i for i in range(len(values)) if abs(float(tensor[i])) == magnitude]
    assert (place.count, equal[place.rank - 1]) == (len(equal), index)
    run, rank = table.run_of(place)
    assert [i for i in equal if (i >= 7) == run][rank - 1] == index


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("elements", [1, RUN - 1, RUN, 2 * RUN + 5])
def test_magnitudes_counted_where_they_are_are_those_counted_on_the_host(dtype: torch.dtype, elements: int) -> None:
    bins = magnitude_bins(torch.randn(elements, dtype=torch.float64).mul_(100).to(dtype))
    here, counted = count_on_device(bins)
    assert counted.shape == (len(here), -(-elements // RUN))
    for place, values in enumerate(bins.split(RUN)):
        there, expected = count_on_host(values.numpy())
        occurs = counted[:, place] > 0
        assert np.array_equal(here[occurs], there)
        assert np.array_equal(counted[occurs, place], expected[:, 0])


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_random_masks_have_their_density(density: float) -> None:
    mask = keep_below(kept_below(density), keys(0, 1, "w"), 0, 1 << 18, torch.device("cpu"))
    deviation = math.sqrt(density * (1 - density) / mask.numel())
    assert abs(float((mask != 0).float().mean()) - density) <= 5 * deviation


def test_random_masks_of_different_keys_and_neighbours_are_independent() -> None:
    count = 1 << 18
    one, other = (
        (keep_below(kept_below(0.5), keys(0, i, "w"), 0, count, torch.device("cpu")) != 0).float() - 0.5
        for i in range(2)
    )
    limit = 5 * 0.25 / math.sqrt(count)
    assert abs(float((one * other).mean())) < limit
    for lag in (1, 2, 64, 576):
        assert abs(float((one[:-lag] * one[lag:]).mean())) < limit


def test_a_random_mask_can_be_made_in_pieces() -> None:
    whole = keep_below(kept_below(0.3), keys("seed", 0, "w"), 0, 1000, torch.device("cpu"))
    pieces = [
        keep_below(kept_below(0.3), keys("seed", 0, "w"), start, 250, torch.device("cpu"))
        for start in range(0, 1000, 250)
    ]
    assert torch.equal(whole, torch.cat(pieces))


@given(
    values=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=200),
    density=st.floats(0.0, 0.999),
    gamma=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    pieces=st.integers(1, 3),
)
def test_a_band_keeps_the_density_below_the_largest_and_of_equals_the_first(
    values: list[float], density: float, gamma: float, dtype: torch.dtype, pieces: int
) -> None:
    delta = torch.tensor(values, dtype=dtype)
    kept = int(density * len(values))
    smallest = max(0, len(values) - kept - int(gamma * len(values)))
    expected = torch.zeros_like(delta)
    order = sorted(range(len(values)), key=lambda i: (abs(float(delta[i])), i))[smallest : smallest + kept]
    expected[order] = delta[order]
    found = band(PlainOperands(torch.zeros_like(delta), [delta]), 0, (density,), False, (gamma,))
    assert found is not None
    step = -(-len(values) // pieces)
    parts = [found.apply(delta[start : start + step].clone(), start) for start in range(0, len(values), step)]
    assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("shape", [(200, 300), (6000,), (20, 30, 10), (3000, 2), (100, 1)])
def test_a_random_mask_by_rank_keeps_large_changes_as_often_as_mergekits(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    delta = torch.randn(shape)
    numbers = {"rescale": False}, {"weight": [1.0], "density": [0.5], "epsilon": [0.3]}
    ours = run("della_linear", torch.zeros(shape), [delta], *numbers)
    rows = delta.unsqueeze(0) if delta.dim() == 1 else delta
    ranks = rows.abs().argsort(dim=1).argsort(dim=1).reshape(-1)
    if shape[-1] == 1:  # mergekit divides zero by zero there; nothing is known to keep one rather than another
        expected = torch.full_like(delta, 0.5).flatten()
    else:
        expected = 0.2 + 0.6 * ranks / (rows.shape[1] - 1)
        theirs = mergekit_method("della_linear", torch.zeros(shape), [delta], *numbers)
        assert abs(int((ours != 0).sum()) - int((theirs != 0).sum())) < 5 * (2 * delta.numel() * 0.25) ** 0.5
    for low in (0.0, 0.35, 0.5, 0.65):
        part = (expected >= low) & (expected < low + 0.15 + (low == 0.0) * 0.2 + (low == 0.65) * 0.2)
        kept, count = float(((ours != 0).flatten() & part).sum()), int(part.sum())
        assert abs(kept - float(expected[part].sum())) <= 5 * (count * 0.25) ** 0.5


def test_elements_that_a_random_mask_by_rank_keeps_at_a_density_are_kept_at_a_greater_one() -> None:
    (delta,) = vectors(1, 0)
    kept = [
        run("della_linear", torch.zeros_like(delta), [delta], {}, {"weight": [1.0], "density": [density]}) != 0
        for density in (0.3, 0.5)
    ]
    assert kept[0].any()
    assert not (kept[0] & ~kept[1]).any()


def test_quartiles_are_those_of_a_sort_in_tensors_of_any_size() -> None:
    values = torch.randn(1501, 700).bfloat16()
    ordered = values.flatten().sort().values
    last = len(ordered) - 1
    assert [float(q) for q in quartiles(values)] == [
        float(ordered[rank]) for rank in (last // 4, last // 2, last * 3 // 4)
    ]


def test_an_infinite_threshold_keeps_nothing() -> None:
    assert not KEEP_NONE.apply(torch.ones(5), 0).any()


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "dare_linear"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_parent_that_equals_the_base_only_takes_its_share_of_a_normalized_sum(method: str, normalize: bool) -> None:
    base, changed = vectors(2, 0)
    merged = run(method, base, [changed, base], {"normalize": normalize}, {"weight": [0.5, 0.3]})
    votes = method.endswith("ties")  # an election counts only those that changed something
    divisor = (0.5 if votes else 0.8) if normalize else 1.0
    torch.testing.assert_close(merged, base + 0.5 * (changed - base) / divisor)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_source(name: str) -> None:
    assert METHODS[name].source.startswith(("arXiv:", "https://", "mergekit:"))


def vectors(count: int, seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return random tensors near one another."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 7, generator=generator).to(dtype) for _ in range(count)]


weights = st.lists(st.floats(0.05, 2), min_size=3, max_size=3)


@given(weights=weights, seed=st.integers(0, 99), method=st.sampled_from(["ties", "task_arithmetic", "linear"]))
def test_the_order_of_the_parents_does_not_matter(weights: list[float], seed: int, method: str) -> None:
    base, *parents = vectors(4, seed)
    apart = None if method == "linear" else base
    one = run(method, apart, parents, per_input={"weight": weights})
    other = run(method, apart, parents[::-1], per_input={"weight": weights[::-1]})
    torch.testing.assert_close(one, other)


@given(weight=st.floats(-2, 2), seed=st.integers(0, 99), method=st.sampled_from(["ties", "dare_ties", "dare_linear"]))
def test_density_1_keeps_all(weight: float, seed: int, method: str) -> None:
    base, *parents = vectors(3, seed)
    plain = run(method, base, parents, per_input={"weight": [weight, 0.5]})
    dense = run(method, base, parents, per_input={"weight": [weight, 0.5], "density": [1.0, 1.0]})
    assert torch.equal(plain, dense)


@given(seed=st.integers(0, 99), method=st.sampled_from(["ties", "task_arithmetic", "dare_ties", "dare_linear"]))
def test_weight_0_is_absence(seed: int, method: str) -> None:
    base, *parents = vectors(3, seed)
    with_zero = run(method, base, parents, per_input={"weight": [0.7, 0.0]})
    without = run(method, base, parents[:1], per_input={"weight": [0.7]})
    torch.testing.assert_close(with_zero, without, rtol=0, atol=0)


@given(seed=st.integers(0, 99))
def test_slerp_ends_at_its_parents(seed: int) -> None:
    base, other = vectors(2, seed)
    torch.testing.assert_close(run("slerp", base, [other], shared={"t": 0.0}), base)
    torch.testing.assert_close(run("slerp", base, [other], shared={"t": 1.0}), other)


@given(seed=st.integers(0, 99), t=st.floats(0, 1))
def test_slerp_keeps_the_norm_of_parents_of_one_norm(seed: int, t: float) -> None:
    base, other = (tensor / tensor.norm() for tensor in vectors(2, seed))
    assert float(run("slerp", base, [other], shared={"t": t}).norm()) == pytest.approx(1.0, abs=1e-5)


@given(seed=st.integers(0, 99), count=st.integers(1, 4))
def test_the_linear_merge_of_equals_is_the_same(seed: int, count: int) -> None:
    (tensor,) = vectors(1, seed)
    torch.testing.assert_close(run("linear", None, [tensor] * count, per_input={"weight": [0.3] * count}), tensor)


@given(seed=st.integers(0, 99), weights=weights)
def test_ties_agrees_with_the_paper_written_out(seed: int, weights: list[float]) -> None:
    base, *parents = vectors(4, seed, torch.float64)
    merged = run("ties", base, parents, per_input={"weight": weights, "density": [0.5, 1.0, 0.2]})
    flat = [(parent - base).flatten() for parent in parents]
    for delta, density in zip(flat, [0.5, 1.0, 0.2], strict=True):
        cut = delta.abs().sort(descending=True).values[max(1, int(density * delta.numel())) - 1]
        delta[delta.abs() < cut] = 0
    for index, value in enumerate(merged.flatten()):
        terms = [w * float(delta[index]) for w, delta in zip(weights, flat, strict=True)]
        sign = 1 if sum(terms) >= 0 else -1
        agreeing = [(t, w) for t, w in zip(terms, weights, strict=True) if t * sign > 0]
        mean = sum(t for t, _ in agreeing) / sum(w for _, w in agreeing) if agreeing else 0.0
        assert float(value) == pytest.approx(float(base.flatten()[index]) + mean, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear"])
def test_what_is_not_finite_in_a_parent_stays_so(dtype: torch.dtype, method: str) -> None:
    # The last elements of a tensor are computed by other instructions than the rest, which make NaNs of another sign.
    cases = product((math.nan, -math.nan, math.inf, -math.inf), (1, 7, 33, 65), (1, 2, 3))
    for value, elements, parents in cases:
        for index in range(parents):
            tensors = [torch.randn(elements).to(dtype) for _ in range(parents + 1)]
            tensors[1 + index][-1] = value
            base = None if method == "linear" else tensors[0]
            merged = run(method, base, tensors[1:], per_input={"weight": [0.3, 0.3, 0.4][:parents]})
            assert not torch.isfinite(merged[-1]), (value, elements, parents, index)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "passthrough"])
def test_no_method_hides_what_is_not_finite(name: str, dtype: torch.dtype) -> None:
    method = METHODS[name]
    count = 1 if method.inputs == (2, 2) and method.base == "required" else 2
    for value, index in product((math.nan, math.inf, -math.inf), range(count)):
        base, *parents = (tensor.to(dtype) for tensor in vectors(count + 1, 0))
        parents[index][-1, -1] = value
        given = {p.key: 0.5 for p in method.parameters if p.required}
        observed = {"gram": torch.eye(base.shape[-1]), "fisher": torch.ones(base.shape)}.get(method.observes or "")
        merged = run(
            name,
            base if method.base == "required" else None,
            parents,
            given,
            dict.fromkeys(given, [0.5] * count),
            observations=[observed] * count,
        )
        assert not torch.isfinite(merged[-1, -1]), (value, index)


class Empty:
    """Parents that all hold one tensor without elements."""

    device = torch.device("cpu")

    def tensor(self, parent: str, name: str) -> torch.Tensor:  # noqa: ARG002
        return torch.empty(0, 4)

    def dtype(self, parent: str, name: str) -> torch.dtype:  # noqa: ARG002
        return torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_a_tensor_without_elements_is_merged_by_every_method(name: str) -> None:
    method = METHODS[name]
    base = Source("base", "w") if method.base == "required" else None
    inputs = tuple(Source(f"parent {index}", "w") for index in range(max(method.inputs[0] - bool(base), 1)))
    shared = tuple((p.key, p.default) for p in method.parameters if p.scope is Scope.SHARED)
    each = tuple((p.key, (0.5,) * len(inputs)) for p in method.parameters if p.scope is not Scope.SHARED)
    out = torch.empty(0, 4)
    step = Step("w", name, base, inputs, out.shape, torch.float32, torch.float32, shared, each)
    run_step(step, Empty(), out, 0, EAGER, Workspace())  # type: ignore[arg-type]
    assert out.shape == (0, 4)


@pytest.mark.parametrize(("name", "key"), [("karcher", "max_iter"), ("wudi", "iterations"), ("consensus_ta", "k")])
def test_what_a_gradient_interpolates_of_whole_numbers_counts_whole(name: str, key: str) -> None:
    first, second, third = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0)).unbind()
    base, inputs = (None, [first, second, third]) if name == "karcher" else (first, [second, third])
    between, whole, next_whole = (run(name, base, inputs, {key: value}) for value in (1.6, 1, 2))
    assert torch.equal(between, whole)
    assert not torch.equal(whole, next_whole)
