"""The modules of a model, and the slices in a recipe for each of them.

A language model is one module. As in mergekit 0.1.5, a model with several stacks of layers has a module for each stack,
named after the prefix of its layers' tensors, and one for the tensors outside all stacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merging.checkpoints.architecture import Architecture, Stack
from merging.errors import MergingError
from merging.parents import ParentSet
from merging.recipes.recipe import Recipe
from merging.recipes.schema import InputModel, InputSlice, OutputSlice, ParameterBlock

DEFAULT = "default"
"""mergekit's name for the single module of a language model, and for that of the tensors outside all stacks."""


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the output: its slices, each with its base among its sources, and their common parameters."""

    slices: Sequence[OutputSlice]
    parameters: ParameterBlock


def name_of(architecture: Architecture, stack: Stack) -> str:
    """Return the name of the module that a stack of layers is in."""
    return stack.module if len(architecture.stacks) > 1 else DEFAULT


def modules_of(recipe: Recipe, parents: ParentSet) -> Mapping[str, Module]:
    """Return the inputs of each module of the output, by name.

    Raises:
        MergingError: the modules of the recipe and the model differ, or a parent lacks a layer.
    """
    architecture = parents.architecture
    stacks: dict[str, Stack | None] = {DEFAULT: None}
    stacks |= {name_of(architecture, stack): stack for stack in architecture.stacks}
    if recipe.modules:
        _check_names(recipe, recipe.modules, stacks)
        given = {name: (each.slices, each.models, each.parameters) for name, each in recipe.modules.items()}
    else:
        given = dict.fromkeys(stacks, (recipe.slices, recipe.models, {}))
    if recipe.slices and len(stacks) > 1:
        raise MergingError(
            f"{recipe.at('slices')}: the model has several stacks of layers; give each its own under modules "
            f"({', '.join(stacks)})"
        )
    found = {}
    for name, (slices, models, parameters) in given.items():
        stack = stacks[name]
        if models:
            slices = (_whole_models(recipe, models, parents, stack),)
        elif stack:
            _check_ranges(
                recipe, f"modules.{name}.slices" if recipe.modules else "slices", slices or (), parents, stack
            )
        found[name] = Module(slices or (), parameters)
    return found


def _check_names(recipe: Recipe, given: Mapping[str, object], stacks: Mapping[str, Stack | None]) -> None:
    if given.keys() == stacks.keys():
        return
    listed = ", ".join(map(repr, given))
    if len(stacks) == 1:
        raise MergingError(
            f"{recipe.at('modules')}: a language model is the single module {DEFAULT!r}, but the recipe has {listed}; "
            "put what is under it at the top of the recipe"
        )
    raise MergingError(
        f"{recipe.at('modules')}: the model's are {', '.join(map(repr, stacks))}, but the recipe has {listed}; "
        "give each of them"
    )


def _check_ranges(recipe: Recipe, key: str, slices: Sequence[OutputSlice], parents: ParentSet, stack: Stack) -> None:
    for index, part in enumerate(slices):
        for place, source in enumerate(part.sources):
            depth = len(parents.stack(source.model, stack.head).layers)
            if source.layer_range[1] > depth:
                where = recipe.at(f"{key}[{index}].sources[{place}].layer_range")
                raise MergingError(
                    f"{where}: {list(source.layer_range)} goes beyond the {depth} layers of {source.model}; it is "
                    f"[first, one past the last], and [0, {depth}] is all of them"
                )
    made = [index for part in slices for index in range(*part.sources[0].layer_range)]
    if stack != parents.architecture.main and made != list(range(len(stack.layers))):
        raise MergingError(
            f"{recipe.at(f'modules.{stack.module}')}: uses the layers {made} of {len(stack.layers)}; only the layers "
            "that num_hidden_layers counts can be rearranged, so give it 'models'"
        )


def _whole_models(recipe: Recipe, models: Sequence[InputModel], parents: ParentSet, stack: Stack | None) -> OutputSlice:
    inputs = [(model.model, model.parameters) for model in models]
    if recipe.base_model and recipe.base_model not in [model.model for model in models]:
        inputs.append((recipe.base_model, {}))
    # Treats non-layer tensors as a single pseudo-layer.
    depths = {name: len(parents.stack(name, stack.head).layers) if stack else 1 for name, _ in inputs}
    if len(set(depths.values())) > 1:
        listed = ", ".join(f"{name} has {depth}" for name, depth in depths.items())
        raise MergingError(f"models of different depth cannot be merged whole ({listed} layers); use slices")
    return OutputSlice(
        sources=tuple(
            InputSlice(model=name, layer_range=(0, depths[name]), parameters=parameters) for name, parameters in inputs
        )
    )
