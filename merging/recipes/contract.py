"""The contract between a recipe and its method: requirements beyond the schema that need no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from merging.errors import suggest
from merging.methods import METHODS, Method, Parameter, Scope
from merging.methods.declarations import Number
from merging.recipes.schema import InputModel, OutputSlice, ParameterBlock, RecipeFields, last_sources
from merging.recipes.settings import Conditional, Setting, knots_at, leaves

Complaint: TypeAlias = tuple[str, str]  # (path of a key, what is wrong with it)


def complaints(recipe: RecipeFields) -> Iterator[Complaint]:
    """Yield conflicts between a recipe and its method: unknown, missing or illegal parameters, too many models."""
    method = METHODS.get(recipe.merge_method)
    if method is None:
        hint = suggest(recipe.merge_method, METHODS)
        yield "merge_method", f"unknown method {recipe.merge_method!r}{hint} (known: {', '.join(METHODS)})"
        return
    for path, parameters in _blocks(recipe):
        for name, setting in parameters.items():
            yield from _check_setting(method, f"{path}.{name}", name, setting)
    for group in _groups(recipe):
        for where, reason in _check_group(method, group):
            yield where, reason + group.note


@dataclass(frozen=True, slots=True)
class _Input:
    path: str
    model: str
    own: ParameterBlock


@dataclass(frozen=True, slots=True)
class _InputGroup:
    """Inputs that are merged together: `models`, or the sources of one slice."""

    path: str
    inputs: tuple[_Input, ...]
    outer: tuple[ParameterBlock, ...]  # parameter blocks by precedence, after the inputs' own
    base: str | None
    note: str = ""  # added to every complaint about it


def _groups(recipe: RecipeFields) -> Iterator[_InputGroup]:
    yield from _groups_of("", recipe.models, recipe.slices, (recipe.parameters,), recipe.base_model)
    for name, module in (recipe.modules or {}).items():
        outer = (module.parameters, recipe.parameters)
        yield from _groups_of(f"modules.{name}.", module.models, module.slices, outer, recipe.base_model)


def _groups_of(
    prefix: str,
    models: Sequence[InputModel] | None,
    slices: Sequence[OutputSlice] | None,
    outer: tuple[ParameterBlock, ...],
    base: str | None,
) -> Iterator[_InputGroup]:
    if models:
        path = f"{prefix}models"
        inputs = [_Input(f"{path}[{i}]", each.model, each.parameters) for i, each in enumerate(models)]
        if base is not None and base not in [each.model for each in models]:
            inputs.append(_Input("base_model", base, {}))  # whole models are merged with their base
        yield _InputGroup(path, tuple(inputs), outer, base)
    groups = [_sources(f"{prefix}slices[{i}].sources", part, outer, base) for i, part in enumerate(slices or ())]
    yield from groups
    if slices and (count := len(last_sources(slices).sources)) < len(groups[-1].inputs):
        note = f" (the tensors after the layers use the first {count} sources here, as many as the first slice has)"
        yield replace(groups[-1], inputs=groups[-1].inputs[:count], note=note)


def _sources(path: str, part: OutputSlice, outer: tuple[ParameterBlock, ...], base: str | None) -> _InputGroup:
    inputs = tuple(_Input(f"{path}[{i}]", each.model, each.parameters) for i, each in enumerate(part.sources))
    return _InputGroup(path, inputs, (part.parameters, *outer), part.base_model or base)


def _blocks(recipe: RecipeFields) -> Iterator[tuple[str, ParameterBlock]]:
    yield "parameters", recipe.parameters
    for name, module in (recipe.modules or {}).items():
        yield f"modules.{name}.parameters", module.parameters
    for group in _groups(recipe):
        if group.path.endswith(".sources"):
            yield group.path.removesuffix("sources") + "parameters", group.outer[0]
        for each in group.inputs:
            yield f"{each.path}.parameters", each.own


def _check_setting(method: Method, path: str, name: str, setting: Setting) -> Iterator[Complaint]:
    # Parameters of other methods are tolerated, as in mergekit: a search may choose among methods.
    own = method.parameter(name)
    candidates = [own] if own else [p for m in METHODS.values() if (p := m.parameter(name))]
    if not candidates:
        known = sorted({p.key for m in METHODS.values() for p in m.parameters})
        takes = ", ".join(p.key for p in method.parameters) or "no parameters"
        yield path, f"unknown parameter; {method.name} has {takes}{suggest(name, known)}"
        return
    for suffix, value in leaves(setting):
        reasons = [candidate.refuses(value) for candidate in candidates]
        if all(reasons):
            yield path + suffix, str(reasons[0])


def _check_group(method: Method, group: _InputGroup) -> Iterator[Complaint]:
    models = [each.model for each in group.inputs]
    for index, each in enumerate(group.inputs):
        if each.model in models[:index]:
            yield f"{each.path}.model", f"{each.model} is given twice"
    if method.base == "required" and group.base is None:
        yield "base_model", f"{method.name} needs a base_model; name the model that the others were fine-tuned from"
    if method.sets_base_apart and group.base is not None and group.base not in models:
        yield group.path, f"the base model {group.base} must be one of the sources of the slice"
    if reason := method.refuses_count(len(models), group.base is not None):
        added = method.base != "optional" and group.inputs[-1].path == "base_model"
        counted = " (the base model is one of them)" if added else ""
        yield group.path, reason + counted
    for parameter in method.parameters:
        if parameter.required:
            yield from _check_given(method, parameter, group)
    if method.refuses_together:
        for each in group.inputs:
            if each.model != group.base:
                yield from _check_together(method, each, group.outer)


def _check_together(method: Method, each: _Input, outer: tuple[ParameterBlock, ...]) -> Iterator[Complaint]:
    assert method.refuses_together
    for t in (0.0, 1.0):  # some tensor has the value at each end of a gradient, whatever the models are
        numbers = {parameter.key: _number_at(parameter, each, outer, t) for parameter in method.parameters}
        if reason := method.refuses_together(**numbers):
            yield f"{each.path}.parameters", reason
            return


def _number_at(parameter: Parameter, each: _Input, outer: tuple[ParameterBlock, ...], t: float) -> Number | None:
    """Return an input's value at `t`, or None if it depends on the tensor because of filters."""
    setting = next((block[parameter.key] for block in (each.own, *outer) if parameter.key in block), parameter.default)
    if setting is None or (isinstance(setting, tuple) and any(isinstance(item, Conditional) for item in setting)):
        return None
    knots = knots_at(setting, "", t)
    return knots.value(parameter.read) if knots else None


def _check_given(method: Method, parameter: Parameter, group: _InputGroup) -> Iterator[Complaint]:
    if any(parameter.key in block for block in group.outer):
        return
    what = f"{method.name} needs the parameter {parameter.key!r}"
    if parameter.scope is Scope.SHARED:
        yield f"parameters.{parameter.key}", f"{what}; give it here, for all models"
        return
    for each in group.inputs:
        if parameter.key in each.own or (parameter.scope is Scope.NON_BASE and each.model == group.base):
            continue
        if each.path == "base_model":
            yield (
                f"parameters.{parameter.key}",
                f"{what} for the base model too; give it here, list {each.model} among the models, or drop base_model",
            )
        else:
            yield (
                f"{each.path}.parameters.{parameter.key}",
                f"{what}; give it here, or for all models under 'parameters'",
            )
