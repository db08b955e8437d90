"""The search space: a recipe in which some values are ranges (ranges.py).

Each searched value is an Optuna parameter, named by its key's path; a gradient is one a knot.

Guarantees: `recipe_at` and `parameters_of` are inverse; every end of every range, and every choice, stands in some
valid recipe, or reading the space fails. Not every combination need be valid: what is not fails as a trial.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from merging import MergingError, Recipe
from search.errors import SearchError
from search.space.ranges import Keys, Range, find_ranges

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from merging.methods import Method

# How many recipes are drawn to find a valid one with a certain value in it, or to tell how many are valid.
_DRAWS = 100


@dataclass(frozen=True, slots=True)
class Corners:
    """Recipes in which every end of every range and every choice stand; so they name every parent.

    Attributes:
        recipes: the recipes, that of the low ends and first choices first if it is valid.
        warning: how much of the space is no valid recipe, and why; empty where all that was tried is valid.
    """

    recipes: tuple[Recipe, ...]
    warning: str


@dataclass(frozen=True)
class SearchSpace:
    """A recipe with ranges.

    Attributes:
        template: the recipe as plain data, ranges in it.
        ranges: the ranges, in the recipe's order.
        source: the file that it was read from.
    """

    template: dict[str, Any]
    ranges: tuple[Range, ...]
    source: str

    @classmethod
    def read(cls, template: dict[str, Any], source: str) -> SearchSpace:
        """Find and check the ranges of a recipe. Raises SearchError or MergingError naming the key."""
        space = cls(template, tuple(find_ranges(template, "recipe", source)), source)
        if not space.ranges:
            space.recipe_at({})  # so that a broken recipe is named as such first
            raise SearchError(
                f"{source}: recipe: holds no range, so there is nothing to search; write {{low: 0.0, high: 1.0}} "
                "in place of a number, or merge it with `merge-search merge`"
            )
        space.corners()
        return space

    def example(self) -> Recipe:
        """Return the recipe at the low end of every range, or another of the corners where that is not valid."""
        return self.corners()[0]

    def corners(self) -> tuple[Recipe, ...]:
        """Return valid recipes in which every end of every range and every choice stand; they name every parent."""
        return self._corners.recipes

    def fitting_corners(self, fits: Callable[[Recipe], object]) -> Corners:
        """Return corners that all fit.

        Args:
            fits: raises MergingError for a recipe that does not fit its parents, say.

        Raises:
            MergingError: there is a value with which none was found that does; it says why.
        """
        search = _CornerSearch(self, fits)
        recipes = tuple(search.corners())
        return Corners(recipes, search.warning())

    def drawn(self, fits: Callable[[Recipe], object]) -> Iterator[Recipe]:
        """Yield recipes of the space that are drawn at random and fit; see `fitting_corners`."""
        search = _CornerSearch(self, fits)
        return filter(None, map(search.attempt, search.drawn()))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each searched number."""
        return {name: found.distribution() for found in self.ranges for name in found.names}

    def recipe_at(self, params: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these numbers in the places of the ranges. Raises MergingError if it is invalid."""
        data = copy.deepcopy(self.template)
        for found in self.ranges:
            _put(data, found.keys, copy.deepcopy(found.value(params)))
        return Recipe.from_dict(data, self.source, "recipe")

    def parameters_of(self, recipe: Mapping[str, Any], key: str = "recipe") -> dict[str, Any]:
        """Return the numbers that a concrete recipe has in the places of the ranges.

        A single number where the space has a gradient is that number at every knot; a gradient with other knots is
        taken over if the space's knots can draw the same line. Parameters that its method does not have need not be
        in it.

        Raises:
            SearchError: the recipe differs from the template elsewhere, or lies outside a range; names the key.
        """
        from merging import METHODS

        match = _Match({found.keys: found for found in self.ranges}, METHODS.get(str(recipe.get("merge_method"))))
        match.visit(self.template, recipe, (), f"{self.source}: {key}")
        return match.params

    @cached_property
    def _corners(self) -> Corners:
        return self.fitting_corners(lambda _: None)


@dataclass
class _CornerSearch:
    """Looks for valid recipes that have every end and every choice in them, and counts what is not valid."""

    space: SearchSpace
    fits: Callable[[Recipe], object]
    numbers: random.Random = field(default_factory=lambda: random.Random(0))
    refused: MergingError | None = None

    def corners(self) -> Iterator[Recipe]:
        lowest, highest = ({k: v for found in self.space.ranges for k, v in found.ends()[i].items()} for i in (0, -1))
        known: list[dict[str, Any]] = []
        for corner in (lowest, highest):
            if recipe := self.attempt(corner):
                known.append(corner)
                yield recipe
        for end in (end for found in self.space.ranges for end in found.ends()):
            if not any(end.items() <= corner.items() for corner in known):
                corner, recipe = self._with(end, chain((lowest, highest), self.drawn()))
                known.append(corner)
                yield recipe

    def warning(self) -> str:
        invalid = sum(self.attempt(params) is None for params in self.drawn())
        if self.refused is None:
            return ""
        return (
            f"{self.space.source}: about {max(invalid, 1)} in {_DRAWS} points of the space cannot be merged; trials "
            f"there fail, and the search goes on: {self.refused}"
        )

    def _with(self, end: dict[str, Any], others: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], Recipe]:
        before, self.refused = self.refused, None
        for other in others:
            if recipe := self.attempt(other | end):
                self.refused = before or self.refused
                return other | end, recipe
        assert self.refused
        raise self.refused

    def drawn(self) -> Iterator[dict[str, Any]]:
        for _ in range(_DRAWS):
            yield {name: value for found in self.space.ranges for name, value in found.draw(self.numbers).items()}

    def attempt(self, params: Mapping[str, Any]) -> Recipe | None:
        try:
            recipe = self.space.recipe_at(params)
            self.fits(recipe)
        except MergingError as error:
            self.refused = self.refused or error
            return None
        return recipe


@dataclass
class _Match:
    """Walks a template and a concrete recipe together, and collects the parameters of the ranges."""

    ranges: Mapping[Keys, Range]
    method: Method | None
    params: dict[str, Any] = field(default_factory=dict)

    def visit(self, template: Any, concrete: Any, keys: Keys, where: str) -> None:
        if found := self.ranges.get(keys):
            self.params.update(found.parameters_of(concrete, where))
        elif isinstance(template, dict) and isinstance(concrete, Mapping):
            for name in [*template, *(name for name in concrete if name not in template)]:
                self._visit_key(template, concrete, name, keys, where)
        elif isinstance(template, list) and isinstance(concrete, list) and len(template) == len(concrete):
            for index, (one, other) in enumerate(zip(template, concrete, strict=True)):
                self.visit(one, other, (*keys, index), f"{where}[{index}]")
        elif template != concrete:
            raise SearchError(
                f"{where}: is {concrete!r}, but in the searched recipe {template!r}; a warm start differs from it "
                "in the ranges alone"
            )

    def _visit_key(
        self, template: Mapping[str, Any], concrete: Mapping[str, Any], name: str, keys: Keys, where: str
    ) -> None:
        if name in template and name in concrete:
            self.visit(template[name], concrete[name], (*keys, name), f"{where}.{name}")
        elif name == "parameters" and name in template:
            self.visit(template[name], {}, (*keys, name), f"{where}.{name}")
        elif name in template and keys[-1:] == ("parameters",) and self.method and not self.method.parameter(name):
            for found in self.ranges.values():
                if found.keys[: len(keys) + 1] == (*keys, name):
                    self.params.update(found.ends()[0])  # whatever it is, it does not matter to this method
        else:
            wanted = f"expected {template[name]!r}" if name in template else "the searched recipe has no such key"
            raise SearchError(f"{where}.{name}: {wanted}; a warm start differs from it in the ranges alone")


def _put(data: Any, keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        data = data[key]
    data[keys[-1]] = value
