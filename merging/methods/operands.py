"""Operands: the tensors of one merge step, as a method sees them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from merging.statistics.forms import Form

if TYPE_CHECKING:
    from merging.methods.sparsification import Sparsification

T = TypeVar("T")


class Workspace:
    """Memory for intermediate results, reused for every block: fresh memory costs as much as the work done in it."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._taken = 0

    def like(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return uninitialized memory of a flat tensor's length; it is lost when the block is done."""
        dtype = dtype or tensor.dtype
        if self._taken == len(self._buffers):
            self._buffers.append(tensor.new_empty(0, dtype=dtype))
        buffer = self._buffers[self._taken]
        if buffer.dtype != dtype or buffer.device != tensor.device or buffer.numel() < tensor.numel():
            buffer = self._buffers[self._taken] = tensor.new_empty(tensor.numel(), dtype=dtype)
        self._taken += 1
        return buffer[: tensor.numel()]

    def reuse(self) -> None:
        """Take all memory back."""
        self._taken = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A run of elements of one tensor: tensors of one dtype, and the flat index `start` of their first element.

    The tensors are flat. Where a method asks for the whole tensor, they have its shape.
    """

    start: int
    base_or_none: Tensor | None
    inputs: tuple[Tensor, ...]
    workspace: Workspace = field(default_factory=Workspace, compare=False)

    @property
    def base(self) -> Tensor:
        """The base, of a method that requires one."""
        assert self.base_or_none is not None
        return self.base_or_none

    def part(self, whole: Tensor) -> Tensor:
        """Return this block's part of a flat statistic, which may lie on the host, on the block's device."""
        device = (self.inputs[0] if self.inputs else self.base).device
        return whole[self.start : self.start + len(self)].to(device, non_blocking=True)

    def __len__(self) -> int:
        return (self.inputs[0] if self.inputs else self.base).numel()


class Operands(ABC):
    """The whole tensors of one merge step, read in flat blocks in the dtype of the merge.

    Inputs are the sources in the recipe's order, without the base if the method treats the base separately.

    Args:
        base: the base, flat, in its own dtype; None if the method does not treat one separately, or there is none.
        inputs: the inputs, flat, each in its own dtype.
        shape: the tensor's shape.
        dtype: the dtype of the merge.
        device: where the tensor is merged.
        workspace: memory for intermediate results.

    Attributes:
        at_once: the most elements that may be read together; if limited, a multiple of a run of magnitude tables.
    """

    at_once: int = sys.maxsize

    def __init__(
        self,
        base: Tensor | None,
        inputs: Sequence[Tensor],
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        workspace: Workspace,
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.count, self.elements = len(inputs), shape.numel()
        self._base, self._inputs, self._workspace = base, inputs, workspace

    def block(self, start: int, size: int) -> Block:
        """Return up to `size` elements from flat index `start` on."""
        base = None if self._base is None else self._part(self._base, start, size)
        return Block(start, base, tuple(self._part(source, start, size) for source in self._inputs), self._workspace)

    def _part(self, source: Tensor, start: int, size: int) -> Tensor:
        part = source if start == 0 and size >= source.numel() else source[start : start + size]
        if part.device.type != self.device.type:
            part = part.to(self.device, non_blocking=True)
        return part if part.dtype == self.dtype else part.to(self.dtype)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the tensor from its first element to its last, `size` elements at a time."""
        return (self.block(start, size) for start in range(0, self.elements, size))

    def whole(self) -> Block:
        """Return the tensor in its own shape."""
        block = self.block(0, self.elements)
        base = None if self._base is None else block.base.view(self.shape)
        return Block(0, base, tuple(tensor.view(self.shape) for tensor in block.inputs), self._workspace)

    @property
    def for_masks(self) -> Operands:
        """The same operands in the dtype in which a method finds what it keeps of them."""
        return self

    @property
    @abstractmethod
    def is_matrix(self) -> bool:
        """Whether the tensor is the matrix of a linear map, (..., out, in), rather than a vector, table or filter."""

    @abstractmethod
    def once(self, name: str, inputs: Sequence[int], compute: Callable[[], T], kept: Form[T] | None = None) -> T:
        """Return a statistic of these inputs (and the base), computed at most once per parent set.

        Give a form to a statistic that costs more to compute than hashing the parents does: it is kept on disk for the
        next process. What one or two passes compute needs none.
        """

    @abstractmethod
    def last(
        self,
        name: str,
        inputs: Sequence[int],
        values: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,
    ) -> T:
        """Return a statistic that also depends on parameter values; only the one for the last values is held.

        On disk it is found again as long as the values, which must have a repr, stay the same.
        """

    @abstractmethod
    def completed(self, index: int, sparsification: Sparsification, rescale: bool) -> Sparsification:
        """Return the sparsification of an input's task vector: its edges have no rank and, to rescale, it has a scale.

        If a pass finds these itself while it merges, an edge keeps its rank, and `norm` is set instead of `scale`.
        """

    @abstractmethod
    def random_key(self, index: int) -> tuple[int, int]:
        """Return two 32-bit keys for an input's random numbers; they depend only on (seed, input, its tensor)."""

    @abstractmethod
    def observed(self, index: int) -> Tensor | None:
        """Return what the method observes of an input's tensor, in float32; None if that cannot be observed."""
