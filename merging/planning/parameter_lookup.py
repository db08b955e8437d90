"""Parameter lookup: the structure that recipes share, and the place in a recipe of each tensor's parameters.

Guarantees: the values are those that mergekit 0.1.5 resolves: source before slice, module and recipe; the first filter
that fits; gradients interpolated at the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel

from merging.errors import MergingError
from merging.methods import Method, Parameter
from merging.methods.declarations import Number
from merging.recipes.recipe import Recipe
from merging.recipes.settings import Conditional, Knots, Scalar, Setting, knots_at

Values: TypeAlias = tuple[Number | None, ...]

_HOLDERS = ("models", "slices", "modules", "sources", "parameters")


def structure_of(recipe: Recipe) -> tuple[Recipe, tuple[Scalar, ...]]:
    """Split a recipe into its structure and its parameter values.

    Returns:
        The recipe with each value replaced by its index (equal for recipes that differ only in values), and the values.
    """
    values: list[Scalar] = []
    return _indexed(recipe, values), tuple(values)


def _indexed(node: Any, values: list[Scalar]) -> Any:
    if isinstance(node, Conditional):
        return node.model_copy(update={"value": _indexed(node.value, values)})
    if isinstance(node, BaseModel):
        held = {name: found for name in _HOLDERS if (found := getattr(node, name, None))}
        return node.model_copy(update={name: _indexed(found, values) for name, found in held.items()})
    if isinstance(node, tuple):
        return tuple(_indexed(item, values) for item in node)
    if isinstance(node, dict):
        return {name: _indexed(item, values) for name, item in node.items()}
    values.append(node)
    return len(values) - 1


@dataclass(frozen=True, slots=True)
class Lookup:
    """The place of one tensor's parameter among a recipe's values; `knots` is None if it keeps its default."""

    parameter: Parameter
    knots: Knots | None

    @classmethod
    def of(
        cls,
        method: Method,
        parameter: Parameter,
        blocks: Sequence[Mapping[str, Setting]],
        tensor: str,
        t: float,
        where: str,
    ) -> Lookup:
        """Find a parameter of a tensor in the blocks of a structure, the nearest first.

        Args:
            method: the method that has the parameter.
            parameter: the parameter.
            blocks: the blocks of parameters that apply to the tensor, by precedence.
            tensor: the tensor's name.
            t: the position of its layer in the slice, in [0, 1].
            where: the beginning of an error.

        Raises:
            MergingError: the parameter is required, and no filter fits the tensor.
        """
        for block in blocks:
            if parameter.key in block and (knots := knots_at(block[parameter.key], tensor, t)):
                return cls(parameter, knots)
        if parameter.required:
            raise MergingError(
                f"{where}: {method.name} needs the parameter {parameter.key!r}, but none of its filters fits {tensor}; "
                "add a value without a filter as the last one"
            )
        return cls(parameter, None)

    def value(self, values: Sequence[Scalar]) -> Number | None:
        """Return the parameter, given the recipe's values."""
        if self.knots is None:
            return self.parameter.default
        return self.knots.value(lambda index: self.parameter.read(values[int(index)]))


@dataclass(frozen=True, slots=True)
class Lookups:
    """The places of all parameters of one tensor.

    Attributes:
        shared: the parameters of the whole tensor.
        per_input: the parameters of each input, in the order of the inputs.
    """

    shared: tuple[Lookup, ...]
    per_input: tuple[tuple[str, tuple[Lookup, ...]], ...]

    def values(self, values: Sequence[Scalar]) -> tuple[tuple[tuple[str, Any], ...], tuple[tuple[str, Values], ...]]:
        """Return the shared and the per-input parameters by key, given the recipe's values."""
        shared = tuple((lookup.parameter.key, lookup.value(values)) for lookup in self.shared)
        each = tuple((key, tuple(lookup.value(values) for lookup in lookups)) for key, lookups in self.per_input)
        return shared, each
