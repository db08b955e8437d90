"""What a merge method is, and the one dictionary that holds them all.

A method is two pure functions. `prepare` (optional) sees the whole tensors once and returns what a reduction over them
gives: thresholds, masks, an angle. `combine` is elementwise: it sees one block of elements and returns that block of
the merged tensor, in the dtype of its inputs or a wider one, perhaps in the block's scratch memory. A method whose
result for one element needs its whole row or tensor is registered as `whole`: its `combine` sees one block, all of the
tensor in its own shape. Methods do no I/O, move nothing between devices and know no recipe.

A method may have a third function, `fused`: what `combine` does, with the same bits, in one pass of a compiled kernel,
over a block in memory of the CPU (merging/native) or over a whole tensor on any device (merging/inductor).

To add a method, write these functions in a file of this package, put `@method(...)` over `combine`, and import the
file in `merging/methods/__init__.py`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor

from merging.inductor import AnyKernels
from merging.statistics.forms import Form

Number: TypeAlias = bool | int | float | str
T = TypeVar("T")

BaseRule: TypeAlias = Literal["required", "optional", "ignored"]
# What a method needs to know of its inputs besides their weights; merging/calibration.py observes it.
Observed: TypeAlias = Literal["gram", "fisher"]


class Scope(enum.Enum):
    """Whose number a parameter is: one for the tensor, one an input, or one an input other than the base."""

    SHARED = "shared"
    INPUT = "input"
    NON_BASE = "non_base"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method: its name in YAML, type, legal interval and default.

    `default` is None for a required parameter unless `optional` is set, and then None is what the method sees.
    """

    key: str
    kind: type[bool] | type[int] | type[float] | type[str]
    scope: Scope
    default: Number | None = None
    optional: bool = False
    low: float = -math.inf
    high: float = math.inf

    @property
    def required(self) -> bool:
        """Whether a recipe must give it."""
        return self.default is None and not self.optional

    def refuses(self, value: object) -> str | None:
        """Return why `value` cannot be this parameter's, or None if it can."""
        try:
            number = self.read(value)
        except ValueError:
            return f"expected {_kind_name(self.kind)}, got {value!r}"
        if isinstance(number, float) and not math.isfinite(number):
            return f"{value!r} is not finite"
        if self.kind is not str and not self.low <= float(number) <= self.high:
            return f"{value!r} is outside [{self.low:g}, {self.high:g}]"
        return None

    def read(self, value: object) -> Number:
        """Convert a YAML value (``1``, ``'1e-3'``, ``true``) to this parameter's type. Raises ValueError."""
        if isinstance(value, self.kind) and type(value) is self.kind:
            return value
        if isinstance(value, bool) and self.kind is not bool:
            raise ValueError(f"{value} is no number")
        number: Number = _ADAPTERS[self.kind].validate_python(value)
        return number


# As in mergekit: words for true and false, numbers in quotes.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (bool, int, float, str)}


def _kind_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The resolved parameters of one tensor: shared ones by key, per-input ones by key in the inputs' order."""

    shared: Mapping[str, Number | None]
    per_input: Mapping[str, tuple[Number | None, ...]]

    def number(self, key: str) -> float:
        """Return a shared number."""
        return float(self.shared[key] or 0.0)

    def flag(self, key: str) -> bool:
        """Return a shared true or false."""
        return bool(self.shared[key])

    def each(self, key: str) -> tuple[float, ...]:
        """Return a number an input."""
        return tuple(float(value or 0.0) for value in self.per_input[key])


class Scratch:
    """Memory for intermediate results, used again for every block: fresh memory costs as much as what is done in it."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._taken = 0

    def like(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return memory of a flat tensor's length, with anything in it; it is lost when the block is done."""
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

    The tensors are flat, but have the tensor's shape where a method asks for it whole.
    """

    start: int
    base: Tensor | None
    inputs: tuple[Tensor, ...]
    scratch: Scratch = field(default_factory=Scratch, compare=False)

    def __len__(self) -> int:
        first = self.inputs[0] if self.inputs else self.base
        return 0 if first is None else first.numel()


class Operands(Protocol):
    """The whole tensors of one merge step, read in flat blocks in the dtype of the merge.

    Inputs are the sources in the recipe's order, without the base where the method treats the base apart.
    """

    @property
    def count(self) -> int:
        """Number of inputs."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the merge."""

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor is the matrix of a linear map, (..., out, in), and no vector, table or filter."""

    @property
    def kernels(self) -> AnyKernels | None:
        """The compiled kernels, where they can be used: on this device, in a dtype that they know."""

    def block(self, start: int, size: int) -> Block:
        """Return up to `size` elements from flat index `start` on."""

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the tensor from its first element to its last, `size` elements at a time."""

    def whole(self) -> Block:
        """Return the tensor in its own shape."""

    def once(self, name: str, inputs: Sequence[int], compute: Callable[[], T], kept: Form[T] | None = None) -> T:
        """Return a statistic of these inputs (and the base), computed at most once for a parent set.

        One that costs more to compute than to hash the parents is given its form on disk, where the next process
        finds it; what a pass or two over them make is not.
        """

    def last(
        self,
        name: str,
        inputs: Sequence[int],
        numbers: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,
    ) -> T:
        """Return a statistic that depends on numbers of the recipe besides; that of the last numbers is held.

        On disk it is found again as long as the numbers, which must have a repr, stay the same.
        """

    def random_key(self, index: int) -> tuple[int, int]:
        """Return two 32-bit keys for the random numbers of an input: of (seed, input, its tensor) and nothing else."""

    def observed(self, index: int) -> Tensor | None:
        """Return what the method observes of an input's tensor, in float32; None of one that it cannot observe."""


Prepare: TypeAlias = Callable[[Operands, Numbers], Any]
Combine: TypeAlias = Callable[[Block, Numbers, Any], Tensor]
# Whether something is finite; on a device that the host does not wait for, a tensor, () bool.
Finite: TypeAlias = bool | Tensor
# Writes the block's merge and returns whether it is finite, or None where there is no kernel for it.
Fused: TypeAlias = Callable[[AnyKernels, Block, Numbers, Any, Tensor], Finite | None]
# Why the numbers that one input has, by key, cannot stand together; or None.
RefuseTogether: TypeAlias = Callable[[Mapping[str, Number | None]], str | None]


class Undefined(Exception):
    """A method gives no answer for these tensors; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Method:
    """One registered merge method."""

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    base: BaseRule
    inputs: tuple[int, int | None]
    combine: Combine
    prepare: Prepare | None
    random: bool
    whole: bool
    keeps_base: bool
    refuses_together: RefuseTogether | None
    fused: Fused | None
    in_mergekit: bool
    observes: Observed | None

    @property
    def sets_base_apart(self) -> bool:
        """Whether the base is what the others are compared with, and not one input among them."""
        return self.base != "ignored"

    def parameter(self, key: str) -> Parameter | None:
        """Return the parameter of that name, or None."""
        return next((p for p in self.parameters if p.key == key), None)

    def refuses_count(self, models: int, has_base: bool) -> str | None:
        """Return why this many models (base included) cannot be merged, or None if they can."""
        apart = self.base == "optional" and has_base
        count = models - apart
        least, most = self.inputs
        if count < least or (most is not None and count > most):
            wanted = (
                f"exactly {least}" if least == most else f"at least {least}" if count < least else f"at most {most}"
            )
            plural = "s" if (least if count < least else most) != 1 else ""
            besides = " besides the base model" if apart else ""
            return f"{self.name} merges {wanted} model{plural}{besides}, got {count}"
        return None


METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    source: str,
    parameters: Sequence[Parameter] = (),
    base: BaseRule = "ignored",
    inputs: tuple[int, int | None] = (1, None),
    prepare: Prepare | None = None,
    random: bool = False,
    whole: bool = False,
    keeps_base: bool = False,
    refuses_together: RefuseTogether | None = None,
    fused: Fused | None = None,
    in_mergekit: bool = True,
    observes: Observed | None = None,
) -> Callable[[Combine], Combine]:
    """Register `combine` as the method `name`.

    Args:
        name: what `merge_method` calls it.
        source: where it is defined (arXiv id or documentation).
        parameters: its parameters.
        base: whether a base model is required or possible, or is an input like any other.
        inputs: fewest and most models, the base included unless it is optional; None for no limit.
        prepare: the reductions over whole tensors that `combine` needs.
        random: whether it draws random numbers (the seed then belongs to the merge).
        whole: whether `combine` needs the whole tensor in its own shape.
        keeps_base: whether the merge is the base, whatever the numbers are, where all inputs equal it.
        refuses_together: why the numbers of an input, each legal by itself, are not so together.
        fused: a compiled equal of `combine`.
        in_mergekit: whether mergekit 0.1.5 has the method, and so can read a recipe that uses it.
        observes: what it needs to know of what the inputs do with a text, the parameter `calibration` of each.
    """

    def register(combine: Combine) -> Combine:
        METHODS[name] = Method(
            name=name,
            source=source,
            parameters=tuple(parameters),
            base=base,
            inputs=inputs,
            combine=combine,
            prepare=prepare,
            random=random,
            whole=whole,
            keeps_base=keeps_base,
            refuses_together=refuses_together,
            fused=fused,
            in_mergekit=in_mergekit,
            observes=observes,
        )
        return combine

    return register
