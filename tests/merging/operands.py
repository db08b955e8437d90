"""Operands made of plain tensors, for testing a method without models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from merging.arithmetic.random_bits import keys
from merging.kernels import EAGER, Kernels, Target
from merging.methods import METHODS, Scope
from merging.methods.declarations import Number
from merging.methods.operands import Operands, Workspace
from merging.methods.sparsification import Sparsification
from merging.statistics.forms import Form
from merging.statistics.statistics import Statistics

T = TypeVar("T")
PER_INPUT = (Scope.INPUT, Scope.NON_BASE)


class PlainOperands(Operands):
    """Operands over tensors at hand."""

    def __init__(
        self,
        base: Tensor | None,
        inputs: Sequence[Tensor],
        seed: int = 0,
        kernels: Kernels = EAGER,
    ) -> None:
        first = inputs[0] if inputs else base
        assert first is not None
        flat = [tensor.reshape(-1) for tensor in inputs]
        super().__init__(
            None if base is None else base.reshape(-1), flat, first.shape, first.dtype, first.device, Workspace()
        )
        self.seed, self.kernels = seed, kernels
        self.statistics = Statistics()
        self.observations: Sequence[Tensor | None] = ()

    @property
    def is_matrix(self) -> bool:
        """Whether the tensors have rows."""
        return len(self.shape) > 1

    def once(self, name: str, inputs: Sequence[int], compute: Callable[[], T], kept: Form[T] | None = None) -> T:  # noqa: ARG002
        """Remember a statistic."""
        return self.statistics.once((name, tuple(inputs)), compute)

    def last(
        self,
        name: str,
        inputs: Sequence[int],
        values: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,  # noqa: ARG002
    ) -> T:
        """Remember a statistic of the last values."""
        return self.statistics.last((name, tuple(inputs)), values, compute)

    def completed(self, index: int, sparsification: Sparsification, rescale: bool) -> Sparsification:
        """Complete a sparsification, but for what the kernels find while they merge."""
        return self.kernels.completed(self, index, sparsification, rescale)

    def random_key(self, index: int) -> tuple[int, int]:
        """Return the keys of an input."""
        return keys(self.seed, index, "tensor")

    def observed(self, index: int) -> Tensor | None:
        """Return an observation at hand."""
        return self.observations[index]


def defaults(name: str, inputs: int) -> dict[str, Number | tuple[Number | None, ...] | None]:
    """Return the defaults of a method's parameters, for so many inputs."""
    return {p.key: p.default if p.scope is Scope.SHARED else (p.default,) * inputs for p in METHODS[name].parameters}


def run(
    name: str,
    base: Tensor | None,
    inputs: Sequence[Tensor],
    shared: Mapping[str, Number] | None = None,
    per_input: Mapping[str, Sequence[Number]] | None = None,
    kernels: Kernels = EAGER,
    block_size: int = 1 << 20,
    observations: Sequence[Tensor | None] = (),
    wide: bool = False,
) -> Tensor:
    """Run a method on whole tensors, with its defaults where no value is given.

    `block_size` is that of eager kernels. `wide` asks kernels for float32.
    """
    method = METHODS[name]
    scopes = {p.key: p.scope for p in method.parameters}
    parameters = defaults(name, len(inputs))
    parameters |= {key: value for key, value in (shared or {}).items() if scopes.get(key) is Scope.SHARED}
    parameters |= {key: tuple(values) for key, values in (per_input or {}).items() if scopes.get(key) in PER_INPUT}
    first = inputs[0] if inputs else base
    assert first is not None
    usable = kernels if kernels.covers(method, first.dtype, first.device) else EAGER
    operands = PlainOperands(base, inputs, kernels=usable)
    operands.observations = observations
    if usable is EAGER:  # not rounded to the dtype of the merge, as in mergekit
        prepared = method.prepare(operands, parameters)
        blocks = [operands.whole()] if method.whole else operands.blocks(block_size)
        return torch.cat([method.combine(block, prepared).flatten() for block in blocks]).view(first.shape)
    out = torch.empty(operands.elements, dtype=torch.float32 if wide else first.dtype, device=first.device)
    usable.merge(method, operands, parameters, Target(out, (first.dtype,)))
    return out.view(first.shape)
