"""The search space: a recipe in which some values are ranges (ranges.py).

Each searched value is an Optuna parameter, named by the path of its key or, if several places share it, by its name; a
gradient is one parameter per knot.

Guarantees: `recipe_at` and `parameters_of` are inverse. Reading the space fails if some end of a range, or some choice,
is not part of any valid recipe. Not every combination needs to be valid: a trial with an invalid recipe fails.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, takewhile
from typing import TYPE_CHECKING

from merging import MergingError, Recipe, shown
from merging.recipes.yaml_file import Keys
from search.errors import SearchError
from search.space.ranges import Range, find_ranges, replaced
from search.study.record import Parameters, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from merging.methods import Method

# How many recipes are drawn to find a valid one with a certain value in it, or to estimate how many are valid.
_DRAWS = 100
# The time limit of that estimate. (If layers are searched, almost every draw needs its own plan.)
_ESTIMATE_SECONDS = 1.0
# The time limit of the search for a valid recipe: if draws take so long, the recipe is huge by mistake.
_FIND_SECONDS = 5.0


@dataclass(frozen=True)
class SearchSpace:
    """A recipe with ranges.

    Attributes:
        template: the recipe as plain data, with its ranges.
        ranges: the ranges, in the recipe's order.
        source: the file that it was read from.
    """

    template: dict[str, object]
    ranges: tuple[Range, ...]
    source: str

    @classmethod
    def read(cls, template: dict[str, object], source: str) -> SearchSpace:
        """Find and check the ranges of a recipe. Raises SearchError or MergingError, which name the key."""
        space = cls(template, tuple(find_ranges(template, source)), source)
        if not space.ranges:
            space.recipe_at({})  # so that a broken recipe is reported as such
            raise SearchError(
                f"{source}: recipe: holds no range, so there is nothing to search; write {{low: 0.0, high: 1.0}} "
                "in place of a number, let --around 0.2 do so, or merge it with `merge-search merge`"
            )
        _ = space.extreme_recipes  # raises if there are none
        return space

    def example(self) -> Recipe:
        """Return the recipe at the low end of every range, or another extreme recipe if that one is not valid."""
        return self.extreme_recipes[0]

    @cached_property
    def extreme_recipes(self) -> tuple[Recipe, ...]:
        """Valid recipes that hold every end of every range and every choice between them; they name every parent."""
        return tuple(_Attempts(self, lambda _: None).extremes())

    def fitting_extremes(self, fits: Callable[[Recipe], object]) -> tuple[Sequence[Recipe], str]:
        """Return extreme recipes that all fit, and a warning about the part of the space that cannot be merged.

        Args:
            fits: raises MergingError for a recipe that does not fit, for example to its parents.

        Returns:
            The recipes, beginning with that of the low ends and first choices if it is valid; and the warning, which is
            empty if all recipes that were tried can be merged.

        Raises:
            MergingError: no fitting recipe was found for some end or choice; the message says why.
        """
        attempts = _Attempts(self, fits)
        recipes = tuple(attempts.extremes())
        return recipes, attempts.warning()

    def drawn(self, fits: Callable[[Recipe], object]) -> Iterator[Recipe]:
        """Yield random recipes of the space that fit; see `fitting_extremes`."""
        attempts = _Attempts(self, fits)
        return filter(None, map(attempts.attempt, attempts.drawn()))

    def middle(self) -> Parameters:
        """Return the parameters in the middle of every range, with the first of all choices."""
        return {name: value for found in self.ranges for name, value in found.middle().items()}

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each searched parameter."""
        return {name: found.distribution() for found in self.ranges for name in found.names}

    def require(self, params: Parameters) -> None:
        """Raise KeyError, TypeError or ValueError if these parameters are not a point of the space."""
        for found in self.ranges:
            found.require(params)

    def recipe_at(self, params: Parameters) -> Recipe:
        """Return the recipe with these parameters instead of the ranges. Raises MergingError if it is invalid."""
        data: object = self.template
        for found in self.ranges:
            data = replaced(data, found.keys, found.value(params))
        return Recipe.from_dict(data, self.source, "recipe")

    def parameters_of(self, recipe: Mapping[str, object], key: str = "recipe") -> Parameters:
        """Return the parameters that a concrete recipe has instead of the ranges.

        A single number instead of a gradient is the value of every knot; a gradient with other knots is accepted if
        the space's knots can give the same line. The recipe may leave out parameters that its method does not take.

        Raises:
            SearchError: the recipe differs from the template elsewhere, lies outside a range, or has several values in
                places that share one; the message names the key.
        """
        from merging import METHODS

        match = _Match({found.keys: found for found in self.ranges}, METHODS.get(str(recipe.get("merge_method"))))
        match.visit(self.template, recipe, (), f"{self.source}: {key}")
        known = match.unread | match.params
        return {name: known[name] for found in self.ranges for name in found.names}


@dataclass
class _Attempts:
    """Tries points of a space, and remembers why the first invalid one is invalid.

    Attributes:
        space: the space.
        fits: see `SearchSpace.fitting_extremes`.
        numbers: the random numbers that draw points.
        refused: why a point is not valid.
    """

    space: SearchSpace
    fits: Callable[[Recipe], object]
    numbers: random.Random = field(default_factory=lambda: random.Random(0))
    refused: MergingError | None = None

    def extremes(self) -> Iterator[Recipe]:
        lowest, highest = ({k: v for found in self.space.ranges for k, v in found.ends()[i].items()} for i in (0, -1))
        known: list[dict[str, Value]] = []
        for point in (lowest, highest):
            if recipe := self.attempt(point):
                known.append(point)
                yield recipe
        for end in (end for found in self.space.ranges for end in found.ends()):
            if not any(end.items() <= point.items() for point in known):
                point, recipe = self._with(end, chain((lowest, highest), self._drawn_for(_FIND_SECONDS)))
                known.append(point)
                yield recipe

    def warning(self) -> str:
        valid = [self.attempt(params) is not None for params in self._drawn_for(_ESTIMATE_SECONDS)]
        if self.refused is None:
            return ""
        refused = str(self.refused).removeprefix(f"{self.space.source}: ")
        return (
            f"{self.space.source}: about {max(valid.count(False), 1)} in {len(valid)} points of the space cannot be "
            f"merged; trials there fail, and the search goes on: {refused}"
        )

    def _with(self, end: dict[str, Value], others: Iterator[dict[str, Value]]) -> tuple[dict[str, Value], Recipe]:
        before, self.refused = self.refused, None
        for other in others:
            if recipe := self.attempt(other | end):
                self.refused = before or self.refused
                return other | end, recipe
        assert self.refused
        raise self.refused

    def drawn(self) -> Iterator[dict[str, Value]]:
        for _ in range(_DRAWS):
            yield {name: value for found in self.space.ranges for name, value in found.draw(self.numbers).items()}

    def _drawn_for(self, seconds: float) -> Iterator[dict[str, Value]]:
        began = time.monotonic()
        return takewhile(lambda _: time.monotonic() < began + seconds, self.drawn())

    def attempt(self, params: Parameters) -> Recipe | None:
        try:
            recipe = self.space.recipe_at(params)
            self.fits(recipe)
        except MergingError as error:
            self.refused = self.refused or error
            return None
        return recipe


@dataclass
class _Match:
    """Walks a template and a concrete recipe together, and collects the parameters of the ranges.

    Attributes:
        ranges: the ranges by their keys.
        method: the recipe's method.
        params: the parameters found so far.
        unread: any value for each range that the method does not read.
    """

    ranges: Mapping[Keys, Range]
    method: Method | None
    params: dict[str, Value] = field(default_factory=dict)
    unread: dict[str, Value] = field(default_factory=dict)

    def visit(self, template: object, concrete: object, keys: Keys, where: str) -> None:
        if found := self.ranges.get(keys):
            self._take(found, found.parameters_of(concrete, where), where)
        elif isinstance(template, dict) and isinstance(concrete, Mapping):
            for name in [*template, *(name for name in concrete if name not in template)]:
                self._visit_key(template, concrete, name, keys, where)
        elif isinstance(template, list) and isinstance(concrete, list) and len(template) == len(concrete):
            for index, (one, other) in enumerate(zip(template, concrete, strict=True)):
                self.visit(one, other, (*keys, index), f"{where}[{index}]")
        elif template != concrete:
            raise SearchError(
                f"{where}: is {concrete!r}, but in the searched recipe {template!r}; a warm start may differ "
                "from it in the ranges only"
            )

    def _take(self, found: Range, params: Parameters, where: str) -> None:
        for name, value in params.items():
            if not _is_equal(known := self.params.setdefault(name, value), value):
                raise SearchError(
                    f"{where}: is {shown(value)}, but {shown(known)} in another place that shares the parameter "
                    f"{found.name}; a warm start has one value in all of them"
                )

    def _visit_key(
        self, template: Mapping[str, object], concrete: Mapping[str, object], name: str, keys: Keys, where: str
    ) -> None:
        if name in template and name in concrete:
            self.visit(template[name], concrete[name], (*keys, name), f"{where}.{name}")
        elif name == "parameters" and name in template:
            self.visit(template[name], {}, (*keys, name), f"{where}.{name}")
        elif name in template and keys[-1:] == ("parameters",) and self.method and not self.method.parameter(name):
            for found in self.ranges.values():
                if found.keys[: len(keys) + 1] == (*keys, name):
                    self.unread.update(found.ends()[0])  # any value will do: this method does not read it
        else:
            wanted = f"expected {template[name]!r}" if name in template else "the searched recipe has no such key"
            raise SearchError(f"{where}.{name}: {wanted}; a warm start may differ from it in the ranges only")


def _is_equal(one: Value, other: Value) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, abs_tol=1e-9)
