"""The methods that mergekit does not have, against their papers' equations written out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from merging import Merger, NonFiniteTensor, ParentSet, Recipe
from merging.methods import METHODS
from merging.methods.declarations import Number, ParameterValues
from tests.merging.conftest import Family
from tests.merging.operands import PlainOperands, defaults, run
from tests.parametrization import every

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart"
METHODS_OF_TASK_VECTORS = ["tsv_m", "iso_c", "iso_cts", "consensus_ta", "pcb", "wudi"]
WEIGHTED = [name for name in METHODS_OF_TASK_VECTORS if METHODS[name].parameter("weight")]
MATRICES = ["tsv_m", "iso_c", "iso_cts", "wudi"]


def tensors(count: int, seed: int, shape: tuple[int, ...] = (12, 9), change: float = 0.02) -> list[Tensor]:
    """Return a base and `count` fine-tunes of it, float64 that is exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return [base.double(), *((base + change * torch.randn(shape, generator=generator)).double() for _ in range(count))]


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


# --- the papers, written out ----------------------------------------------------------------------------------------


def inverse_root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T


def tsv_m(base: Tensor, parents: Sequence[Tensor], weights: Sequence[float], scale: float, rank: int) -> Tensor:
    """W0 + α Σ: concatenate, then whiten, X (XᵀX)^(-1/2), the closed form of the paper's Procrustes problem."""
    parts = [svd(parent - base) for parent in parents]
    u = torch.cat([each[0][:, :rank] for each in parts], dim=1)
    s = torch.cat([weight * each[1][:rank] for weight, each in zip(weights, parts, strict=True)])
    v = torch.cat([each[2][:rank].T for each in parts], dim=1)
    return base + scale * (u @ inverse_root(u.T @ u)) @ torch.diag(s) @ (v @ inverse_root(v.T @ v)).T


def iso_c(base: Tensor, parents: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """W0 + α σ̄ Σ_r u_r v_rᵀ of the summed task matrices."""
    u, s, vh = svd(sum(w * (p - base) for w, p in zip(weights, parents, strict=True)))  # type: ignore[arg-type]
    merged = base.clone()
    for r in range(len(s)):
        merged += scale * s.mean() * torch.outer(u[:, r], vh[r])
    return merged


def iso_cts(base: Tensor, parents: Sequence[Tensor], weights: Sequence[float], scale: float, fraction: float) -> Tensor:
    """Algorithm 1 of the paper, step by step."""
    deltas = [w * (p - base) for w, p in zip(weights, parents, strict=True)]
    rank, count = min(base.shape), len(parents)
    own = round((rank - int(rank * fraction)) / count)
    common = rank - own * count
    u, s, vh = svd(torch.stack(deltas).sum(dim=0))
    us, ss, vs = [u[:, :common]], [s[:common]], [vh[:common].T]
    for delta in deltas:
        specific = delta - u[:, :common] @ u[:, :common].T @ delta
        u_t, s_t, vh_t = svd(specific)
        us.append(u_t[:, :own])
        ss.append(s_t[:own])
        vs.append(vh_t[:own].T)
    left, right, values = torch.cat(us, dim=1), torch.cat(vs, dim=1), torch.cat(ss)
    left, right = left @ inverse_root(left.T @ left), right @ inverse_root(right.T @ right)
    return base + scale * values.mean() * left @ right.T


def consensus_ta(
    base: Tensor, parents: Sequence[Tensor], weights: Sequence[float], scale: float, lambdas: Sequence[float], k: int
) -> Tensor:
    """Element by element."""
    merged = base.clone()
    for index in range(base.numel()):
        at = base.flatten()[index]
        taus = [w * (p.flatten()[index] - at) for w, p in zip(weights, parents, strict=True)]
        multi = sum(taus)
        votes = sum(bool(abs(tau) > bound * abs(multi - tau)) for tau, bound in zip(taus, lambdas, strict=True))
        if votes >= k:
            merged.view(-1)[index] += scale * multi
    return merged


def pcb(base: Tensor, parents: Sequence[Tensor], weights: Sequence[float], scale: float, density: float) -> Tensor:
    """Equations 1 to 4 of the paper on flat vectors."""

    def norm(x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min())

    taus = [(parent - base).flatten() for parent in parents]
    scores = []
    for tau in taus:
        intra = torch.softmax(len(taus) * norm(tau * tau), dim=0)
        inter = torch.stack([torch.softmax(norm(tau * other), dim=0) for other in taus]).sum(dim=0)
        score = intra * inter
        kept = score.sort(descending=True, stable=True).indices[: int(density * len(score))]
        mask = torch.zeros_like(score)
        mask[kept] = 1
        scores.append(score * mask)
    total = torch.stack(scores).sum(dim=0)
    merged = sum(w * s * tau for w, s, tau in zip(weights, scores, taus, strict=True))
    change = torch.where(total > 0, merged / total.masked_fill(total == 0, 1), 0)
    return base + scale * change.view_as(base)


def wudi(base: Tensor, parents: Sequence[Tensor], scale: float, iterations: int, learning_rate: float) -> Tensor:
    """The paper's loss, differentiated by autograd and minimized by torch's Adam."""
    taus = [parent - base for parent in parents]
    merged = torch.nn.Parameter(torch.stack(taus).sum(dim=0))
    optimizer = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(iterations):
        optimizer.zero_grad()
        loss = torch.stack([((merged - tau) @ tau.T).square().sum() / tau.square().sum() for tau in taus]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return base + scale * merged.detach()


def check(merged: Tensor, expected: Tensor, base: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    """Compare what was added to the base; a 16-bit merge is the float32 one rounded once."""
    assert merged.dtype == dtype
    error = (merged.double() - expected).abs()
    rounding = torch.finfo(dtype).eps * expected.abs()
    largest = (expected - base).abs().max()
    assert bool((error <= tolerance * largest + rounding).all()), float((error / largest).max())


# Of matrices, examples are always the same: a random one may be so near to singular that float32 cannot tell.
seeds = st.integers(0, 999)
weights = st.lists(st.floats(-1.5, 1.5).filter(lambda w: abs(w) > 0.05), min_size=2, max_size=3)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
shapes = st.sampled_from([(12, 9), (9, 12), (8, 8), (30, 4)])


def cast(all_of: Sequence[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Return tensors in a dtype, then base and parents as the same numbers in float64."""
    given = [tensor.to(dtype) for tensor in all_of]
    base, *parents = (tensor.double() for tensor in given)
    return given, base, parents


@settings(derandomize=True, max_examples=20)
@given(seed=seeds, weights=weights, dtype=dtypes, shape=shapes, fraction=st.sampled_from([None, 0.2, 0.3]))
def test_tsv_m_is_the_papers(
    seed: int, weights: list[float], dtype: torch.dtype, shape: tuple[int, int], fraction: float | None
) -> None:
    given, base, parents = cast(tensors(len(weights), seed, shape), dtype)
    shared: dict[str, Number] = {"lambda": 0.7} | ({} if fraction is None else {"rank_fraction": fraction})
    merged = run("tsv_m", given[0], given[1:], shared, {"weight": weights})
    rank = min(shape) // len(weights) if fraction is None else max(1, int(fraction * min(shape)))
    check(merged, tsv_m(base, parents, weights, 0.7, rank), base, dtype, 1e-4)


@settings(derandomize=True, max_examples=20)
@given(seed=seeds, weights=weights, dtype=dtypes, shape=shapes)
def test_iso_c_is_the_papers(seed: int, weights: list[float], dtype: torch.dtype, shape: tuple[int, int]) -> None:
    given, base, parents = cast(tensors(len(weights), seed, shape), dtype)
    merged = run("iso_c", given[0], given[1:], {"lambda": 1.3}, {"weight": weights})
    check(merged, iso_c(base, parents, weights, 1.3), base, dtype, 1e-3)


@settings(derandomize=True, max_examples=20)
@given(seed=seeds, weights=weights, dtype=dtypes, shape=shapes, fraction=st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_iso_cts_is_the_papers(
    seed: int, weights: list[float], dtype: torch.dtype, shape: tuple[int, int], fraction: float
) -> None:
    if round((min(shape) - int(min(shape) * fraction)) / len(weights)) * len(weights) > min(shape):
        return  # more directions than there are
    given, base, parents = cast(tensors(len(weights), seed, shape), dtype)
    merged = run("iso_cts", given[0], given[1:], {"lambda": 1.3, "common_fraction": fraction}, {"weight": weights})
    check(merged, iso_cts(base, parents, weights, 1.3, fraction), base, dtype, 1e-3)


@given(seed=seeds, weights=weights, dtype=dtypes, k=st.integers(0, 4), bound=st.floats(0.1, 1.0))
def test_consensus_ta_is_the_papers(seed: int, weights: list[float], dtype: torch.dtype, k: int, bound: float) -> None:
    given, base, parents = cast(tensors(len(weights), seed, (5, 7), 0.5), dtype)
    lambdas = [bound, 0.4, 0.9][: len(weights)]
    shared: dict[str, Number] = {"lambda": 0.7, "k": k}
    merged = run("consensus_ta", given[0], given[1:], shared, {"weight": weights, "tall_lambda": lambdas})
    check(merged, consensus_ta(base, parents, weights, 0.7, lambdas, k), base, dtype, 1e-5)


@given(seed=seeds, weights=weights, dtype=dtypes, density=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_pcb_is_the_papers(seed: int, weights: list[float], dtype: torch.dtype, density: float) -> None:
    given, base, parents = cast(tensors(len(weights), seed), dtype)
    shared: dict[str, Number] = {"lambda": 0.7, "density": density}
    for block_size in (1 << 20, 17):
        merged = run("pcb", given[0], given[1:], shared, {"weight": weights}, block_size=block_size)
        check(merged, pcb(base, parents, weights, 0.7, density), base, dtype, 1e-4)


@settings(derandomize=True, max_examples=20)
@given(seed=seeds, count=st.integers(2, 3), dtype=dtypes, shape=shapes, rate=st.sampled_from([1e-5, 1e-3]))
def test_wudi_is_the_papers(seed: int, count: int, dtype: torch.dtype, shape: tuple[int, int], rate: float) -> None:
    given, base, parents = cast(tensors(count, seed, shape), dtype)
    shared: dict[str, Number] = {"lambda": 0.7, "iterations": 40, "learning_rate": rate}
    merged = run("wudi", given[0], given[1:], shared)
    check(merged, wudi(base, parents, 0.7, 40, rate), base, dtype, 1e-3)


@pytest.mark.parametrize("name", MATRICES)
def test_of_what_is_no_matrix_the_task_vectors_are_averaged(name: str) -> None:
    base, *parents = (tensor.float() for tensor in tensors(3, 0, (40,)))
    merged = run(name, base, parents, {"lambda": 0.5})
    torch.testing.assert_close(merged, base + 0.5 * torch.stack([parent - base for parent in parents]).mean(dim=0))


@pytest.mark.parametrize("name", MATRICES)
def test_a_stack_of_matrices_is_merged_matrix_by_matrix(name: str) -> None:
    base, *parents = (tensor.float() for tensor in tensors(2, 0, (3, 6, 5)))
    merged = run(name, base, parents)
    for index in range(3):
        alone = run(name, base[index], [parent[index] for parent in parents])
        torch.testing.assert_close(merged[index], alone)


# --- what must hold whatever the numbers are ------------------------------------------------------------------------

EVERYTHING: dict[str, Mapping[str, Number]] = {"consensus_ta": {"k": 1}, "pcb": {"density": 1.0}}


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
@pytest.mark.parametrize("shape", [(12, 9), (40,)])
def test_one_parent_gives_its_scaled_task_vector(name: str, shape: tuple[int, ...]) -> None:
    base, parent = (tensor.float() for tensor in tensors(1, 3, shape))
    if name.startswith("iso") and len(shape) > 1:  # which leave only a flat spectrum as it is
        u, _, vh = svd(parent - base)
        parent = base + 0.1 * u @ vh
    merged = run(name, base, [parent], {"lambda": 0.6, **EVERYTHING.get(name, {})})
    torch.testing.assert_close(merged, base + 0.6 * (parent - base), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_parents_does_not_matter(name: str, seed: int) -> None:
    base, *parents = (tensor.float() for tensor in tensors(3, seed))
    numbers = {"weight": [0.5, 1.0, 0.8]} if name in WEIGHTED else {}
    one = run(name, base, parents, per_input=numbers)
    other = run(name, base, parents[::-1], per_input={key: values[::-1] for key, values in numbers.items()})
    torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("shape", [(12, 9), (40,)])
def test_weight_0_is_absence(name: str, shape: tuple[int, ...]) -> None:
    base, *parents = (tensor.float() for tensor in tensors(3, 5, shape))
    with_zero = run(name, base, parents, per_input={"weight": [0.7, 0.0, 1.2]})
    without = run(name, base, parents[::2], per_input={"weight": [0.7, 1.2]})
    assert torch.equal(with_zero, without)


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
@pytest.mark.parametrize("shape", [(12, 9), (40,)])
def test_parents_that_equal_the_base_leave_it(name: str, shape: tuple[int, ...]) -> None:
    base = tensors(0, 0, shape)[0].float()
    assert torch.equal(run(name, base, [base, base]), base)


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
def test_without_any_parent_there_is_the_base(name: str) -> None:
    base, parent = (tensor.float() for tensor in tensors(1, 0))
    if name in WEIGHTED:
        assert torch.equal(run(name, base, [parent], per_input={"weight": [0.0]}), base)
    method = METHODS[name]
    operands = PlainOperands(base, [])
    prepared = method.prepare(operands, defaults(name, 0))
    assert torch.equal(method.combine(operands.block(0, base.numel()), prepared), base.flatten())


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
@pytest.mark.parametrize("shape", [(12, 9), (40,)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_a_parent_stays_so(name: str, shape: tuple[int, ...], value: float) -> None:
    for index in range(2):
        base, *parents = (tensor.float() for tensor in tensors(2, 0, shape))
        parents[index].view(-1)[5] = value
        assert not torch.isfinite(run(name, base, parents)).all()


def test_tsv_m_of_a_parent_twice_is_that_parent() -> None:
    base, parent = (tensor.float() for tensor in tensors(1, 0))
    merged = run("tsv_m", base, [parent, parent], {"rank_fraction": 1.0})
    torch.testing.assert_close(merged, parent, rtol=1e-5, atol=1e-6)


def test_directions_that_a_parent_does_not_have_take_no_part() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(12, 4, generator=generator))[0], torch.randn(4, 9, generator=generator)
    base = torch.zeros(12, 9)
    parents = [left[:, :2] @ right[:2], left[:, 2:] @ torch.linalg.qr(right.T)[0].T[2:]]
    # Both are of rank 2, the half of the rank that each may have is 4, and their directions on the left are orthogonal.
    merged = run("tsv_m", base, parents)
    assert int(torch.linalg.matrix_rank(merged, rtol=1e-4)) == 4


# --- what is computed once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "searched"),
    [
        ("tsv_m", {"lambda": 0.3, "weight": (0.1, 2.0)}),
        ("iso_c", {"lambda": 0.3}),
        ("iso_cts", {"lambda": 0.3}),
        ("wudi", {"lambda": 0.3}),
    ],
)
def test_a_search_over_scales_decomposes_nothing_again(
    name: str, searched: dict[str, float | tuple[float, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, *parents = (tensor.float() for tensor in tensors(2, 0))
    operands, method = PlainOperands(base, parents), METHODS[name]

    def merge(parameters: ParameterValues) -> Tensor:
        return method.combine(operands.block(0, base.numel()), method.prepare(operands, parameters)).clone()

    first = merge(defaults(name, 2))

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("computed again")

    monkeypatch.setattr(torch.linalg, "svd", refuse)
    monkeypatch.setattr("merging.methods.extra.wudi.least_interfering", refuse)
    changed = merge(defaults(name, 2) | searched)
    assert not torch.equal(first, changed)


# --- whole models ---------------------------------------------------------------------------------------------------


def recipe(name: str, base: str, parents: Sequence[str], dtype: str = "bfloat16") -> Recipe:
    models = "\n".join(f"- {{model: {parent}}}" for parent in parents)
    return Recipe.parse(f"merge_method: {name}\nbase_model: {base}\nmodels:\n{models}\ndtype: {dtype}\n")


@pytest.mark.parametrize("name", every(3, METHODS_OF_TASK_VECTORS))
def test_the_quickstart_family_merges_into_a_finite_model(name: str) -> None:
    wanted = recipe(name, str(QUICKSTART / "base"), [str(QUICKSTART / "text"), str(QUICKSTART / "maths")])
    with ParentSet.open(wanted) as parents:
        model = Merger(parents).apply(wanted)
        logits = model(torch.arange(10)[None]).logits
        base = {
            step.name: parents.tensor(str(QUICKSTART / "base"), step.name) for step in Merger(parents).steps(wanted)
        }
        merged = model.state_dict()
        assert torch.isfinite(logits).all()
        assert any(not torch.equal(merged[tensor], base[tensor]) for tensor in base)


@pytest.mark.parametrize("name", MATRICES)
def test_embeddings_are_averaged_and_an_untied_head_is_a_matrix(float32_family: Family, name: str) -> None:
    wanted = recipe(name, float32_family.base, [float32_family.a, float32_family.b], "float32")
    with ParentSet.open(wanted) as parents:
        merged = Merger(parents).apply(wanted).state_dict()
        for tensor, averaged in (("model.embed_tokens.weight", True), ("lm_head.weight", False)):
            base, one, other = (
                parents.tensor(model, tensor) for model in (float32_family.base, float32_family.a, float32_family.b)
            )
            close = torch.allclose(merged[tensor], base + (one - base + other - base) / 2, atol=1e-6)
            assert close is averaged


@pytest.mark.parametrize("name", METHODS_OF_TASK_VECTORS)
def test_a_nan_in_a_parent_fails_by_the_tensors_name(
    family: Family, name: str, break_tensor: Callable[[str, str], str]
) -> None:
    broken = break_tensor(family.a, "model.layers.1.mlp.up_proj.weight")
    wanted = recipe(name, family.base, [broken, family.b])
    with ParentSet.open(wanted) as parents, pytest.raises(NonFiniteTensor, match=r"layers\.1\.mlp\.up_proj"):
        Merger(parents).apply(wanted)


@pytest.fixture
def break_tensor(tmp_path: Path) -> Callable[[str, str], str]:
    """Return a function that copies a model with a NaN in one tensor."""
    from safetensors.torch import load_file, save_file

    def make(model: str, name: str) -> str:
        folder = tmp_path / "broken"
        folder.mkdir()
        for file in Path(model).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        weights = load_file(folder / "model.safetensors")
        weights[name].view(-1)[7] = math.nan
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return make


def test_parents_that_take_part_at_other_places_have_their_own_scores(family: Family) -> None:
    """A searched weight may be zero, and a searched model may be another: the statistics are those of the same two."""
    pair = [f"{{model: {model}, parameters: {{weight: 0.8}}}}" for model in (family.a, family.b)]
    head = f"merge_method: pcb\nbase_model: {family.base}\nparameters: {{density: 0.3}}\ndtype: bfloat16\n"
    recipes = [Recipe.parse(f"{head}models: [{', '.join(each)}]") for each in (pair, pair[::-1])]
    zero = pair[0].replace("0.8", "0")
    recipes += [Recipe.parse(f"{head}models: [{', '.join(each)}]") for each in ((zero, *pair[1:]), pair[1:])]
    with ParentSet.open(recipes) as parents:
        merger = Merger(parents)
        for recipe in recipes:
            found = {name: tensor.clone() for name, tensor in merger.apply(recipe).state_dict().items()}
            with ParentSet.open(recipe) as own:
                for name, tensor in Merger(own).apply(recipe).state_dict().items():
                    assert torch.equal(found[name], tensor), name
