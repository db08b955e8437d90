"""Unread parameters: those of a recipe that do not affect the merge.

To test a parameter, its number is changed and the plan's steps are compared with those of before, so nothing here needs
to know filters, knots, precedence and methods. Its effect on a parent that equals the base is tried on a few tensors.

Guarantees: a reported parameter changes no tensor, or, if the report says so, only by being 0. Some parameters without
an effect are not reported: rounding hides their effect.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from merging.checkpoints.references import parts_of
from merging.errors import MachineError, MergingError, suggest
from merging.execution import run_steps
from merging.kernels import EAGER
from merging.methods import METHODS, Method, Parameter, Scope
from merging.methods.declarations import Number
from merging.parents import ParentSet
from merging.planning.plan import Plan, Step
from merging.recipes.recipe import Recipe
from merging.recipes.settings import Conditional, parse_setting
from merging.recipes.yaml_file import Keys, path_of

NO_PARAMETER = "has no parameter"
"""The reason for a number that the method does not know."""

_PARAMETERS, _RESIDUAL = "parameters", "residual_weight"
# This many of the smallest tensors are merged to see whether a number of a model that equals the base matters.
_TRIED = 4


def unread(
    recipe: Recipe,
    plan: Plan,
    parents: ParentSet,
    known: Collection[Keys] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[Keys, str]:
    """Return for each number of a recipe, by its keys, why nothing reads it, or "" if something does.

    Reads weights only as far as needed to tell a parent from the base.

    Args:
        recipe: the merge.
        plan: the plan of its structure.
        parents: its parents, open.
        known: keys of numbers that are certainly read, which are skipped.
        progress: called with (tensors, tensors in all) while a parent that may equal the base is compared with it.

    Raises:
        MergingError: the recipe does not fit its parents, or a file cannot be read.
    """
    plain = recipe.to_dict()
    look = _Look(METHODS[recipe.merge_method], plain, plan, parents, plan.at(recipe), progress)
    return {keys: "" if keys in known else look.reason(keys) for keys in _numbers(plain)}


def unread_notes(reasons: Mapping[Keys, str], at: Callable[[str], str]) -> list[str]:
    """Return a line for each number that nothing reads, or for all those in one gradient.

    Args:
        reasons: what `unread` returned.
        at: returns the beginning of a line about a key, as `Recipe.at` does.
    """
    groups: dict[tuple[Keys, str], list[Keys]] = {}
    for keys, reason in reasons.items():
        if reason:
            groups.setdefault((_setting(keys), reason), []).append(keys)
    lines = []
    for (setting, reason), numbers in groups.items():
        whole = all(reasons[keys] for keys in reasons if _setting(keys) == setting)
        knots = "" if whole else ", ".join(f"[{keys[-1]}]" for keys in numbers)
        what = "them" if len(numbers) > 1 and not whole else "it"
        lines.append(f"{at(path_of(setting) + knots)}: nothing reads {what}: {reason}")
    return lines


def _setting(keys: Keys) -> Keys:
    """Return the keys of a number, or of the gradient that contains it."""
    return keys[:-1] if isinstance(keys[-1], int) else keys


def _numbers(node: object, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of each number for a method in a recipe's plain data."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name != "filter":
                yield from _numbers(value, (*keys, name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _numbers(value, (*keys, index))
    elif _PARAMETERS in keys or _RESIDUAL in keys:
        yield keys


@dataclass(frozen=True)
class _Look:
    """A recipe's plain data, its method, and its steps."""

    method: Method
    plain: Mapping[str, object]
    plan: Plan
    parents: ParentSet
    steps: Sequence[Step]
    progress: Callable[[int, int], None] | None
    resolved: dict[Keys, bool] = field(default_factory=dict)

    def reason(self, keys: Keys) -> str:
        """Return why nothing reads the number at these keys, or "" if something does or may."""
        try:
            return self._reason(keys)
        except MachineError:
            raise
        except (MergingError, ValueError):  # the method or the recipe allows no other number there
            return ""

    def _reason(self, keys: Keys) -> str:
        if keys[-1] == _RESIDUAL:
            return "it has no effect, as in mergekit 0.1.5"
        place, rest = _split(keys)
        parameter = self.method.parameter(str(place[-1]))
        if parameter is None:
            return f"{self.method.name} {NO_PARAMETER} {place[-1]!r}"
        if not self._is_resolved(keys, parameter):
            return self._cause(place, rest, parameter)
        return self._of_equals(keys, parameter)

    def _is_resolved(self, keys: Keys, parameter: Parameter) -> bool:
        """Whether some tensor uses the number."""
        if keys not in self.resolved:
            self.resolved[keys] = next(self._changed(keys, parameter), None) is not None
        return self.resolved[keys]

    def _changed(self, keys: Keys, parameter: Parameter, to: Number | None = None) -> Iterator[tuple[Step, Step]]:
        """Yield each step that uses the number: as it is, and with `to` or a distant number in its place."""
        other = copy.deepcopy(self.plain)
        node = _at(other, keys[:-1])
        node[keys[-1]] = _another(node[keys[-1]], parameter) if to is None else to
        after = self.plan.at(Recipe.model_validate(other))
        yield from (pair for pair in zip(self.steps, after, strict=True) if _differ(*pair))

    def _cause(self, place: Keys, rest: Keys, parameter: Parameter) -> str:
        """Return why no tensor uses a number: `place` has the keys of its setting, `rest` its keys in the setting."""
        key, method = parameter.key, self.method.name
        owner = _at(self.plain, place[:-2])
        setting = parse_setting(owner[_PARAMETERS][key])
        own = "model" in owner
        if own and parameter.scope is Scope.SHARED:
            return f"{method} has one {key} for all models; write it under the recipe's own 'parameters'"
        if own and parameter.scope is Scope.NON_BASE and not self._is_input(owner["model"]):
            return f"it belongs to the base model, but {method} takes a {key} only from the others"
        if len(rest) > 1 and rest[1] == "value" and (cause := self._filtered(setting, int(rest[0]))):
            return cause
        if rest and isinstance(rest[-1], int):
            knots = [(*place, *rest[:-1], index) for index in range(len(_at(owner[_PARAMETERS][key], rest[:-1])))]
            if any(self._is_resolved(each, parameter) for each in knots):
                return f"no tensor is near such a knot; the layers need fewer than {len(knots)} knots"
        return f"a {key} nearer to the tensors takes precedence"

    def _is_input(self, plain: object) -> bool:
        model = "+".join(parts_of(plain))
        return any(source.parent == model for step in self.steps for source in step.inputs)

    def _filtered(self, setting: object, index: int) -> str:
        """Return why a filter takes no tensor, or "" if it does."""
        items = [item for item in setting if isinstance(item, Conditional)] if isinstance(setting, tuple) else []
        wanted = items[index].filter
        # The part after an @ names the vocabulary of the tensor's rows.
        names = {source.tensor.partition("@")[0] for step in self.steps for source in step.sources()}
        fitting = [name for name in names if items[index].fits(name)]
        if not fitting:
            words = {word for name in names for word in name.split(".")}
            return f"its filter {wanted!r} matches no tensor of the merge{suggest(str(wanted), words)}"
        if all(any(item.fits(name) for item in items[:index]) for name in fitting):
            return "earlier filters take every tensor that it fits"
        return ""

    def _of_equals(self, keys: Keys, parameter: Parameter) -> str:
        """Return why a number that tensors use changes none of them (models are equal there), or ""."""
        # Small tensors first: they distinguish most models from the base without reading large ones.
        changed = sorted(self._changed(keys, parameter), key=lambda pair: pair[0].shape.numel())
        for done, pair in enumerate(changed, start=1):
            if not self._are_equal(*pair):
                return ""
            if self.progress:
                self.progress(done, len(changed))
        telling = [pair for pair in changed if not self.parents.all_equal(pair[0].sources())] or changed
        # Methods may treat matrices differently from vectors, which are the smallest tensors.
        kinds = {len(pair[0].shape): pair for pair in reversed(telling)}
        tried = [*telling[:_TRIED], *(pair for pair in kinds.values() if pair not in telling[:_TRIED])]
        if not self._are_merged_alike(tried):
            return ""
        before, inputs = changed[0][0], _changed_inputs(*changed[0])
        zero = (
            "; it only matters whether it is 0"
            if self._zero_counts(keys, parameter, [pair[0] for pair in tried])
            else ""
        )
        if before.base and inputs:
            parent = before.inputs[inputs[0]].parent
            return f"{parent} equals {before.base.parent} in every tensor that it applies to{zero}"
        return f"the models are equal in every tensor that it applies to{zero}"

    def _zero_counts(self, keys: Keys, parameter: Parameter, tried: Sequence[Step]) -> bool:
        """Whether 0 there changes some of these steps: it may exclude a parent entirely."""
        value = parameter.read(_at(self.plain, keys))
        if not isinstance(value, float) or not parameter.low <= 0 <= parameter.high:
            return False
        try:
            return not self._are_merged_alike(
                [pair for pair in self._changed(keys, parameter, 0.0) if pair[0] in tried]
            )
        except (MergingError, ValueError):  # 0 is not allowed there
            return False

    def _are_merged_alike(self, pairs: Sequence[tuple[Step, Step]]) -> bool:
        return all(torch.equal(self._merged(before), self._merged(after)) for before, after in pairs)

    def _are_equal(self, before: Step, after: Step) -> bool:
        """Whether the inputs with the changed number (or all) equal the base (or one another)."""
        inputs = [before.inputs[place] for place in _changed_inputs(before, after)] if before.base else []
        like = before.base or before.inputs[0]
        others = [source for source in inputs or before.inputs if source != like]
        return bool(others) and all(self.parents.all_equal((like, source)) for source in others)

    def _merged(self, step: Step) -> torch.Tensor:
        out = torch.empty(step.shape, dtype=step.out_dtype, device=self.parents.device)
        run_steps([(step, nullcontext(out))], self.parents, 0, EAGER, lambda _: None)
        return out


def _split(keys: Keys) -> tuple[Keys, Keys]:
    """Return the keys of a setting, and the keys of a number within it."""
    end = keys.index(_PARAMETERS) + 2
    return keys[:end], keys[end:]


def _at(node: Any, keys: Keys) -> Any:
    for key in keys:
        node = node[key]
    return node


def _another(value: Number, parameter: Parameter) -> Number:
    """Return a legal number far from a given one. Raises ValueError if that is not of the parameter's type."""
    number = parameter.read(value)
    if isinstance(number, bool):
        return not number
    if isinstance(number, str):
        return f"{number}?"
    low, high = parameter.low, parameter.high
    if isinstance(number, int):
        return number + 1 if number < high else number - 1
    if math.isinf(low) or math.isinf(high):
        return number + 1.0
    return low + (number - low) / 3 if 2 * number > low + high else high - (high - number) / 3


def _differ(before: Step, after: Step) -> bool:
    """Whether two steps have different numbers, beyond the rounding errors of a knot that is exactly at a tensor."""
    return any(map(_is_other, _all_numbers(before), _all_numbers(after)))


def _all_numbers(step: Step) -> list[Number | None]:
    return [value for _, value in step.shared] + [value for _, values in step.per_input for value in values]


def _is_other(one: Number | None, two: Number | None) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return not math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-12)
    return one != two


def _changed_inputs(before: Step, after: Step) -> list[int]:
    """Return the inputs with a changed number."""
    columns = (zip(*(values for _, values in step.per_input), strict=True) for step in (before, after))
    return [place for place, (one, two) in enumerate(zip(*columns, strict=True)) if any(map(_is_other, one, two))]
