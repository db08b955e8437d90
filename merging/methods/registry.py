"""What a merge method is, and the one dictionary that holds them all.

A method is one or two pure functions of tensors and typed parameters (merging/methods/declarations.py). `prepare`
(optional) sees the whole tensors once and returns what a reduction over them gives: thresholds, masks, an angle.
`combine` is elementwise: it sees one block of elements and returns that block of the merged tensor, in the dtype of its
inputs or a wider one, perhaps in the block's workspace. The first function takes the parameters, and its signature
declares them; after `prepare`, `combine` takes what it returned. A method whose result for one element needs its whole
row or tensor is registered as `whole`: its `combine` sees one block, all of the tensor in its own shape. Methods do no
I/O, move nothing between devices and know neither recipes nor kernels.

To add a method, write these functions in a file of this package and put `@method(...)` over `combine`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Literal, TypeAlias

from torch import Tensor

from merging.methods.declarations import Parameter, ParameterValues, declared_by
from merging.methods.operands import Block, Operands

BaseRule: TypeAlias = Literal["required", "optional", "ignored"]
# What a method needs to know of its inputs besides their weights; merging/calibration.py observes it.
Observed: TypeAlias = Literal["gram", "fisher"]
# What a method computes of the parents once and keeps: tables of the magnitudes of task vectors, or of their variance
# over all parents; the rank of each element; or what it makes of a matrix, one for all inputs or one per input.
Statistic: TypeAlias = Literal["magnitudes", "variance", "ranks", "matrix", "matrix per input"]
Prepare: TypeAlias = Callable[..., object]
Combine: TypeAlias = Callable[..., Tensor]
# Called with the values that one input has, by key, or None for a value that is not known yet. Returns why the values
# exclude each other, or None.
RefuseTogether: TypeAlias = Callable[..., str | None]


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
    combining: Combine
    preparing: Prepare | None
    random: bool
    whole: bool
    keeps_base: bool
    refuses_together: RefuseTogether | None
    in_mergekit: bool
    observes: Observed | None
    keeps: Statistic | None

    def prepare(self, operands: Operands, parameters: ParameterValues) -> object:
        """Return what `combine` takes besides a block: what a reduction over whole tensors gave, or the parameters."""
        given = {f"{key}_" if iskeyword(key) else key: value for key, value in parameters.items()}
        return self.preparing(operands, **given) if self.preparing else given

    def combine(self, block: Block, prepared: Any) -> Tensor:
        """Return a block of the merged tensor; all of it, in its own shape, if the method is `whole`."""
        return self.combining(block, prepared) if self.preparing else self.combining(block, **prepared)

    @property
    def sets_base_apart(self) -> bool:
        """Whether the base is what the others are compared with, rather than one of the inputs."""
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
    parameters: tuple[Parameter, ...] | None = None,
    base: BaseRule = "ignored",
    inputs: tuple[int, int | None] = (1, None),
    prepare: Prepare | None = None,
    random: bool = False,
    whole: bool = False,
    keeps_base: bool = False,
    refuses_together: RefuseTogether | None = None,
    in_mergekit: bool = True,
    observes: Observed | None = None,
    keeps: Statistic | None = None,
) -> Callable[[Combine], Combine]:
    """Register `combine` as the method `name`.

    Args:
        name: what `merge_method` calls it.
        source: where it is defined (arXiv id or documentation).
        parameters: its parameters; by default those that its first function declares.
        base: whether a base model is required, optional, or an input like any other.
        inputs: fewest and most models, the base included unless it is optional; None for no limit.
        prepare: the reductions over whole tensors that `combine` needs.
        random: whether it draws random numbers (the seed then belongs to the merge).
        whole: whether `combine` needs the whole tensor in its own shape.
        keeps_base: whether the merge is the base, whatever the parameters are, if all inputs equal it.
        refuses_together: returns why values of an input, each legal by itself, exclude each other.
        in_mergekit: whether mergekit 0.1.5 has the method, and so can read a recipe that uses it.
        observes: what it observes of each input on the text of its parameter `calibration`.
        keeps: the statistics of the parents that it keeps in memory, so that a search can plan for them.
    """

    def register(combine: Combine) -> Combine:
        METHODS[name] = Method(
            name=name,
            source=source,
            parameters=declared_by(prepare or combine) if parameters is None else parameters,
            base=base,
            inputs=inputs,
            combining=combine,
            preparing=prepare,
            random=random,
            whole=whole,
            keeps_base=keeps_base,
            refuses_together=refuses_together,
            in_mergekit=in_mergekit,
            observes=observes,
            keeps=keeps,
        )
        return combine

    return register
