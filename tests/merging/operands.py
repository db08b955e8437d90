"""Operands made of plain tensors, for testing a method without models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from merging.arithmetic.random_bits import keys
from merging.kernels import EAGER, Kernels, Target
from merging.methods import METHODS, Scope
from merging.methods.operands import Block
from merging.methods.parameters import Number, ParameterValues
from merging.methods.sparsification import Sparsification
from merging.statistics.forms import Form
from merging.statistics.statistics import Statistics

T = TypeVar("T")


class PlainOperands:
    """A methods.operands.Operands over tensors at hand."""

    def __init__(
        self,
        base: Tensor | None,
        inputs: Sequence[Tensor],
        seed: int = 0,
        kernels: Kernels = EAGER,
    ) -> None:
        self.base, self.inputs, self.seed = base, list(inputs), seed
        self.statistics = Statistics()
        self.kernels = kernels
        self.count = len(self.inputs)
        first = self.inputs[0] if self.inputs else base
        assert first is not None
        self.shape, self.elements, self.dtype, self.device = first.shape, first.numel(), first.dtype, first.device
        self.is_matrix = len(self.shape) > 1
        self.observations: Sequence[Tensor | None] = ()

    def block(self, start: int, size: int) -> Block:
        """Return a part of the tensors."""
        part = slice(start, start + size)
        base = None if self.base is None else self.base.view(-1)[part]
        return Block(start, base, tuple(tensor.view(-1)[part] for tensor in self.inputs))

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the tensors in blocks."""
        return (self.block(start, size) for start in range(0, self.elements, size))

    def whole(self) -> Block:
        """Return the tensors in their shape."""
        return Block(0, self.base, tuple(self.inputs))

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
    parameters = ParameterValues(
        {p.key: (shared or {}).get(p.key, p.default) for p in method.parameters if p.scope is Scope.SHARED},
        {
            p.key: tuple((per_input or {}).get(p.key, [p.default] * len(inputs)))
            for p in method.parameters
            if p.scope is not Scope.SHARED
        },
    )
    first = inputs[0] if inputs else base
    assert first is not None
    usable = kernels if kernels.covers(method, first.dtype, first.device) else EAGER
    operands = PlainOperands(base, inputs, kernels=usable)
    operands.observations = observations
    if usable is EAGER:  # not rounded to the dtype of the merge, as in mergekit
        prepared = method.prepare(operands, parameters) if method.prepare else None
        blocks = [operands.whole()] if method.whole else operands.blocks(block_size)
        return torch.cat([method.combine(block, parameters, prepared).flatten() for block in blocks]).view(first.shape)
    out = torch.empty(operands.elements, dtype=torch.float32 if wide else first.dtype, device=first.device)
    usable.merge(method, operands, parameters, Target(out, (first.dtype,)))
    return out.view(first.shape)
