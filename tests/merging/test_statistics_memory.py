"""The memory of statistics is known from what methods declare and from sizes, and bounded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Sequence
from itertools import product
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from merging.arithmetic.magnitude_table import MagnitudeTable
from merging.methods import METHODS, Scope
from merging.statistics.forms import Form
from merging.statistics.memory import calibration_bytes, statistics_bytes
from tests.merging.operands import PlainOperands, defaults

T = TypeVar("T")
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


class Recording(PlainOperands):
    """Operands that note which statistics a method keeps."""

    def __init__(self, base: Tensor | None, inputs: Sequence[Tensor]) -> None:
        super().__init__(base, inputs)
        self.tensors, self.tables = 0, 0

    def once(self, name: str, inputs: Sequence[int], compute: Callable[[], T], kept: Form[T] | None = None) -> T:
        return self._noted(super().once(name, inputs, compute, kept), kept)

    def last(
        self,
        name: str,
        inputs: Sequence[int],
        values: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,
    ) -> T:
        return self._noted(super().last(name, inputs, values, compute, kept), kept)

    def observed(self, index: int) -> Tensor | None:
        found = super().observed(index)
        self.tensors += 0 if found is None else found.nbytes
        return found

    def _noted(self, value: T, kept: Form[T] | None) -> T:
        if isinstance(value, MagnitudeTable):
            self.tables += 1
        elif kept and kept.is_placed:
            self.tensors += sum(tensor.nbytes for tensor in kept.tensors(value).values())
        return value


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_keeps_is_what_is_planned_for_it(name: str) -> None:
    method, generator = METHODS[name], torch.Generator().manual_seed(1)
    base, *inputs = torch.randn(3, 64, 48, generator=generator).bfloat16()
    operands = Recording(base if method.sets_base_apart else None, inputs)
    size = {"gram": (48, 48), "fisher": (64, 48), None: (0,)}[method.observes]
    operands.observations = [torch.eye(*size) if method.observes else None] * 2
    values = {"weight": 0.5, "density": 0.5, "select_topk": 0.5, "t": 0.5, "gamma": 0.1, "calibration": "text"}
    parameters = defaults(name, 2)
    for parameter in method.parameters:
        if parameter.key in values:
            value = values[parameter.key]
            parameters[parameter.key] = value if parameter.scope is Scope.SHARED else (value, value)
    method.prepare(operands, parameters)
    planned = statistics_bytes([name], [((64, 48), True)], 2)
    assert (operands.tensors, operands.tables > 0) == (planned.kept, planned.host > 0)


def test_tables_are_held_for_the_last_parents_that_took_part() -> None:
    generator = torch.Generator().manual_seed(1)
    base, *inputs = torch.randn(4, 64, 48, generator=generator).bfloat16()
    operands = PlainOperands(base, inputs)

    def winners(operands: PlainOperands, weights: tuple[float, ...], density: float) -> object:
        parameters = defaults("pcb", 3) | {"weight": weights, "density": density}
        return METHODS["pcb"].prepare(operands, parameters)

    gc.collect()  # tables of other tests
    others = sum(isinstance(each, MagnitudeTable) for each in gc.get_objects())
    for density in (0.3, 0.6):
        for weights in product((0.0, 0.5), repeat=3):
            assert winners(operands, weights, density) == winners(PlainOperands(base, inputs), weights, density)
    gc.collect()
    assert sum(isinstance(each, MagnitudeTable) for each in gc.get_objects()) - others <= len(inputs)
