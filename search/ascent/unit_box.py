"""The unit box: the searched numbers that have slopes, each as its place in its range, from 0 to 1.

Whole numbers, steps and choices have no slope: they keep their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from merging import Merger, Recipe
from merging.planning.plan import Step
from search.space.ranges import Range
from search.study.record import Parameters

# How far a parameter is moved to either side to measure its effect, as a fraction of its range: far enough that many
# entries of a tensor enter or leave its top-k, since a single one tells nothing.
_MOVE = 0.05


@dataclass(frozen=True, slots=True)
class UnitBox:
    """The box of a search space.

    Attributes:
        ranges: the ranges of the space that have slopes.
        recipe_at: returns the recipe for parameters of the space; raises MergingError.
    """

    ranges: tuple[Range, ...]
    recipe_at: Callable[[Parameters], Recipe]

    @classmethod
    def of(cls, ranges: Sequence[Range], recipe_at: Callable[[Parameters], Recipe]) -> UnitBox:
        """Return the box of some ranges; it has no names if none of them has a slope."""
        sloped = (found for found in ranges if not (found.choices or found.step or found.whole))
        # Ranges with the same names are the same parameters.
        return cls(tuple({found.names: found for found in sloped}.values()), recipe_at)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return tuple(name for found in self.ranges for name in found.names)

    def point(self, parameters: Parameters) -> dict[str, float]:
        """Return the place of parameters in the box, by name."""
        return {name: _place(found, parameters[name]) for found in self.ranges for name in found.names}

    def parameters(self, point: Mapping[str, float], others: Parameters) -> Parameters:
        """Return the parameters at a place in the box; `others` has those outside the box."""
        moved = {name: _value(found, point[name]) for found in self.ranges for name in found.names}
        return {**others, **moved}

    def moves(self, merger: Merger, parameters: Parameters) -> list[Move]:
        """Return moves along all parameters from a place, as few as can tell the parameters' effects apart.

        Parameters that no tensor reads together are moved in one pair of merges.

        Args:
            merger: merges the recipes of the space.
            parameters: the parameters at the place.

        Raises:
            MergingError: a recipe nearby cannot be merged.
        """
        near = _Neighbourhood(self, self.point(parameters), parameters)
        base = merger.steps(near.recipe({}))
        readers = [_differing(base, merger.steps(near.recipe(near.to_ends(found)))) for found in self.ranges]
        moves = []
        for together in _apart(self.ranges, readers):
            low, high = ({k: v for found in together for k, v in near.ends(found)[end].items()} for end in (0, 1))
            moves.append(Move(near.recipe(low), near.recipe(high), low, high, near.recipe))
        return moves


@dataclass(frozen=True, slots=True)
class Move:
    """A move along some parameters at once.

    Attributes:
        low, high: the recipes at its ends.
        start, end: the places of its parameters at these ends, by name.
        recipe: returns the recipe with some parameters at other places.
    """

    low: Recipe
    high: Recipe
    start: Mapping[str, float]
    end: Mapping[str, float]
    recipe: Callable[[Mapping[str, float]], Recipe]

    def slopes(self, merger: Merger, changes: Mapping[str, float]) -> dict[str, float]:
        """Return the slope of a function of the merged weights along each parameter, over its whole range.

        A parameter's share of a tensor's change is how far it alone moves the values that the tensor is merged with.

        Args:
            merger: merges the recipes.
            changes: the changes of the function from `low` to `high`, by tensor; see `Merger.slopes`.
        """
        from_, to = merger.steps(self.low), merger.steps(self.high)
        slopes = {}
        for name in self.start:
            one = merger.steps(self.recipe({**self.start, name: self.end[name]}))
            shares = {a.name: _share(a, b, c) for a, b, c in zip(from_, one, to, strict=True) if a.name in changes}
            change = sum(changes[each] * share for each, share in shares.items())
            slopes[name] = change / (self.end[name] - self.start[name])
        return slopes


@dataclass(frozen=True, slots=True)
class _Neighbourhood:
    """Places near a point of a box."""

    box: UnitBox
    point: Mapping[str, float]
    parameters: Parameters

    def recipe(self, moved: Mapping[str, float]) -> Recipe:
        return self.box.recipe_at(self.box.parameters({**self.point, **moved}, self.parameters))

    def to_ends(self, found: Range) -> dict[str, float]:
        """Return places of a range's parameters that all differ from those at the point."""
        return {name: float(self.point[name] < 0.5) for name in found.names}

    def ends(self, found: Range) -> tuple[dict[str, float], dict[str, float]]:
        """Return the places of a range's parameters a little below and above the point, but inside the box."""
        below = {name: max(0.0, self.point[name] - _MOVE) for name in found.names}
        return below, {name: min(1.0, self.point[name] + _MOVE) for name in found.names}


def _apart(ranges: Sequence[Range], readers: Sequence[frozenset[str]]) -> Sequence[Sequence[Range]]:
    """Return groups of ranges such that no tensor reads two of a group; `readers` has each range's tensors."""
    groups: list[tuple[list[Range], set[str]]] = []
    for found, tensors in zip(ranges, readers, strict=True):
        group = next((group for group in groups if not group[1] & tensors), None)
        if group is None:
            groups.append(([found], set(tensors)))
        else:
            group[0].append(found)
            group[1].update(tensors)
    return [ranges for ranges, _ in groups]


def _differing(one: Sequence[Step], other: Sequence[Step]) -> frozenset[str]:
    return frozenset(a.name for a, b in zip(one, other, strict=True) if a != b)


def _share(low: Step, one: Step, high: Step) -> float:
    """Return the fraction of the way from `low` to `high` that a tensor's parameters have gone at `one`."""
    for a, b, c in zip(_numbers(low), _numbers(one), _numbers(high), strict=True):
        if a != c:
            return (b - a) / (c - a)
    return 0.0


def _numbers(step: Step) -> list[float]:
    values = [value for _, value in step.shared] + [value for _, each in step.per_input for value in each]
    return [float(value) if isinstance(value, int | float) else 0.0 for value in values]


def _place(found: Range, value: object) -> float:
    scale = _scale(found)
    assert isinstance(value, int | float)
    return (scale(value) - scale(found.low)) / (scale(found.high) - scale(found.low))


def _value(found: Range, place: float) -> float:
    if place in (0.0, 1.0):  # exactly: a rounded end may lie outside the range
        return float(found.high if place else found.low)
    if found.log:
        return float(found.low * (found.high / found.low) ** place)
    return float(found.low + place * (found.high - found.low))


def _scale(found: Range) -> Callable[[float], float]:
    return math.log if found.log else float
