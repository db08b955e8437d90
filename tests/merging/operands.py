"""Operands made of plain tensors, for testing a method without models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from merging.inductor import AnyKernels
from merging.methods import METHODS, Scope
from merging.methods.random_bits import keys
from merging.methods.registry import Block, Number, Numbers
from merging.statistics.forms import Form
from merging.statistics.statistics import Statistics

T = TypeVar("T")


class PlainOperands:
    """A registry.Operands over tensors at hand."""

    def __init__(
        self,
        base: Tensor | None,
        inputs: Sequence[Tensor],
        seed: int = 0,
        kernels: AnyKernels | None = None,
    ) -> None:
        self.base, self.inputs, self.seed = base, list(inputs), seed
        self.statistics = Statistics()
        self.kernels = kernels
        self.count = len(self.inputs)
        first = self.inputs[0] if self.inputs else base
        assert first is not None
        self.shape, self.elements, self.dtype = first.shape, first.numel(), first.dtype
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
        numbers: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,  # noqa: ARG002
    ) -> T:
        """Remember a statistic of the last numbers."""
        return self.statistics.last((name, tuple(inputs)), numbers, compute)

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
    kernels: AnyKernels | None = None,
    block_size: int = 1 << 20,
    observations: Sequence[Tensor | None] = (),
    wide: bool = False,
) -> Tensor:
    """Run a method on whole tensors, with its defaults where no number is given; compiled, where it can be.

    TensorKernels take no blocks but whole tensors, so `block_size` must be theirs. `wide` asks kernels for float32.
    """
    method = METHODS[name]
    numbers = Numbers(
        {p.key: (shared or {}).get(p.key, p.default) for p in method.parameters if p.scope is Scope.SHARED},
        {
            p.key: tuple((per_input or {}).get(p.key, [p.default] * len(inputs)))
            for p in method.parameters
            if p.scope is not Scope.SHARED
        },
    )
    operands = PlainOperands(base, inputs, kernels=kernels)
    operands.observations = observations
    prepared = method.prepare(operands, numbers) if method.prepare else None
    if method.whole:
        return method.combine(operands.whole(), numbers, prepared)

    first = inputs[0] if inputs else base
    assert first is not None

    def merged(block: Block) -> Tensor:
        dtype = torch.float32 if wide else operands.dtype
        out = torch.empty(len(block), dtype=dtype, device=first.device)
        if method.fused and kernels and method.fused(kernels, block, numbers, prepared, out) is not None:
            return out
        merged = method.combine(block, numbers, prepared)
        return merged.float() if wide else merged.clone()

    return torch.cat([merged(block) for block in operands.blocks(block_size)]).view(operands.shape)
