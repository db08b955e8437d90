"""Methods give on plain tensors what mergekit 0.1.5's give: odd shapes, parents that are zero or equal the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest
import torch
from mergekit.merge_methods import registry  # type: ignore[import-untyped]
from torch import Tensor

from merging.methods import METHODS
from merging.methods.declarations import Number
from merging.methods.registry import Undefined
from tests.merging.operands import run
from tests.merging.oracle import mergekit_method
from tests.parametrization import every

SHAPES = [(1,), (37,), (5, 1), (1, 7), (33, 65), (4, 6, 9), (300, 129)]
CHANGES = [0.02, 1e-4, "zero", "equal"]


@dataclass(frozen=True)
class Case:
    """A method with numbers, and the inputs that it takes besides the base."""

    method: str
    shared: Mapping[str, Number] = field(default_factory=dict)
    per_input: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    inputs: int = 3
    base: bool = True

    def __str__(self) -> str:
        switches = ", ".join(f"{key} {value}" for key, value in {**self.shared, **self.per_input}.items())
        return f"{self.method}: {switches}{'' if self.base else ', no base'}"


BANDS = {"weight": [0.3, 0.9, 0.5], "density": [0.5, 0.2, 0.97], "gamma": [0.01, 0.2, 0.1]}
MIXED_BANDS = {"weight": [0.3, -0.9, 0.5], "density": [0.5, 1.0, 0.0], "gamma": [0.6, 0.2, 0.1]}
CASES = [
    Case("nuslerp", {}, {"weight": [0.3, 0.9]}, inputs=2),
    Case("nuslerp", {"nuslerp_flatten": False}, {"weight": [0.3, 0.9]}, inputs=2, base=False),
    Case("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": [-0.3, 0.9]}, inputs=2),
    Case("nuslerp", {}, {"weight": [0.5, -0.5]}, inputs=2, base=False),
    Case("multislerp", {}, {"weight": [0.3, 0.9, 0.5]}),
    Case("multislerp", {"normalize_weights": False, "eps": 1e-4}, {"weight": [0.3, -0.9, 1.2]}, base=False),
    Case("multislerp", {}, {"weight": [0.3, 0.9]}, inputs=2),
    Case("multislerp", {}, {"weight": [0.3]}, inputs=1),
    Case("karcher", base=False),
    Case("karcher", {"max_iter": 2}, base=False),
    Case("karcher", {"tol": 0.01}, inputs=2, base=False),
    Case("karcher", inputs=1, base=False),
    Case("model_stock"),
    Case("model_stock", {"filter_wise": True}, inputs=2),
    Case("nearswap", {"t": 0.001}, inputs=1),
    Case("nearswap", {"t": 0.0}, inputs=1),
    Case("arcee_fusion", inputs=1),
    Case("ram"),
    Case("ram", {"epsilon": 0.01}, inputs=1),
    Case("ramplus_tl"),
    Case("ramplus_tl", {"epsilon": 0.01, "r": 2.0, "alpha": 0.7}),
    Case("sce"),
    Case("sce", {"select_topk": 0.3}),
    Case("sce", {"select_topk": 0.0, "int8_mask": True}, inputs=2),
    Case("sce", {"select_topk": 0.5}, inputs=1),
    Case("breadcrumbs", {}, BANDS),
    Case("breadcrumbs", {"rescale": True, "normalize": True, "lambda": 0.7}, MIXED_BANDS),
    Case("breadcrumbs_ties", {"int8_mask": True}, BANDS),
    Case("breadcrumbs_ties", {"normalize": True}, MIXED_BANDS),
    Case("della", {}, {"weight": [0.3, -0.9, 0.5], "density": [1.0, 0.0, 1.0]}),
    Case("della_linear", {}, {"weight": [0.3, -0.9, 0.5], "density": [1.0, 0.0, 1.0], "epsilon": [0.5, 0.2, 0.1]}),
    Case("task_arithmetic", {}, {"weight": []}, inputs=0),
    Case("sce", inputs=0),
    Case("ram", inputs=0),
    Case("ramplus_tl", inputs=0),
]


@pytest.mark.parametrize("dtype", every(2, [torch.bfloat16, torch.float16, torch.float32, torch.float64]))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_method_gives_what_mergekits_gives(case: Case, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for number, (shape, change) in enumerate(product(SHAPES, CHANGES)):
        odd = (number + number // len(CHANGES)) % 2
        if odd != (dtype in (torch.float16, torch.float64)):  # bfloat16 and float32 have the other pairs
            continue
        base = (torch.randn(shape, generator=generator) * 0.1).to(dtype)
        inputs = [_parent(base, change, index, generator) for index in range(case.inputs)]
        before = [tensor.clone() for tensor in (base, *inputs)]
        _compare(case, base if case.base else None, inputs)
        assert all(map(torch.equal, before, (base, *inputs)))


def _parent(base: Tensor, change: float | str, index: int, generator: torch.Generator) -> Tensor:
    if change == "zero":
        return torch.zeros_like(base)
    if change == "equal" and index:
        return base.clone()
    size = change if isinstance(change, float) else 0.02
    return (base.float() + size * torch.randn(base.shape, generator=generator) ** 3).to(base.dtype)


def _compare(case: Case, base: Tensor | None, inputs: list[Tensor]) -> None:
    try:
        expected = mergekit_method(case.method, base, inputs, case.shared, case.per_input)
    except ValueError:
        with pytest.raises(Undefined):
            run(case.method, base, inputs, case.shared, case.per_input)
        return
    try:
        merged = run(case.method, base, inputs, case.shared, case.per_input)
    except Undefined:
        assert not torch.isfinite(expected).all()
        return
    assert merged.dtype == expected.dtype
    # Where mergekit's arithmetic comes to NaN, so does ours: a merge then ends with an error that names the tensor.
    relative = 1e-6 if expected.dtype.itemsize > 2 else 0.0
    torch.testing.assert_close(merged, expected, rtol=0, equal_nan=True, atol=relative * _largest(expected))


def _largest(tensor: Tensor) -> float:
    return float(tensor.nan_to_num().double().abs().max())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.in_mergekit])
def test_a_method_has_mergekits_parameters_defaults_and_inputs(name: str) -> None:
    ours, theirs = METHODS[name], registry.get(name).spec
    assert {(p.key, p.scope.value, None if p.required else p.default) for p in ours.parameters} == {
        (p.name, p.scope.value, None if p.required else p.default) for p in theirs.parameters
    }
    for parameter in ours.parameters:
        assert parameter.kind.__name__ in str(next(p.value_type for p in theirs.parameters if p.name == parameter.key))
    contract = theirs.contract
    assert ours.base == contract.base.value
    own_count = ours.base == "optional"  # the base is not counted
    most = contract.max_non_base if own_count else contract.max_inputs
    assert ours.inputs == (contract.min_non_base if own_count else contract.min_inputs, most)


def test_there_is_no_method_of_mergekits_that_is_missing_here() -> None:
    assert {method.spec.name for method in registry.registered_methods()} <= METHODS.keys()
