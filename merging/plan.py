"""The plan: a recipe and its parents, resolved to what is done for each output tensor, before any arithmetic.

Guarantees: what is wrong between a recipe and its parents (a filter that fits no tensor, a layer that no parent has) is
found here; the numbers are those that mergekit 0.1.5 resolves. Pure data; reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from merging.errors import MergingError
from merging.methods import METHODS, Method, Parameter, Scope
from merging.methods.registry import Number, Numbers
from merging.parents import ParentSet
from merging.recipes.recipe import Recipe
from merging.recipes.schema import InputModel, InputSlice, OutputSlice, Parameters, last_sources
from merging.recipes.settings import Setting, resolve
from merging.tokenization.embeddings import aligned_names
from merging.tokenization.merged_tokenizer import merged_vocabulary
from merging.tokenization.vocabulary import Vocabulary

# What mergekit calls the one module that a language model is.
MODULE = "default"


class Source(NamedTuple):
    """A tensor of a parent."""

    # A tuple, and no dataclass, because it is hashed thousands of times a candidate: a part of the keys of statistics.

    parent: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Step:
    """How one output tensor is made.

    Attributes:
        name: the output tensor.
        method: the method's name.
        base: the base model's tensor, where the method treats the base apart.
        inputs: the other sources, in the recipe's order.
        shared: the parameters that hold for the tensor, by key.
        per_input: the parameters that each input has, by key, in the order of `inputs`.
        dtype: the dtype of the merge, or None for that of the sources.
        out_dtype: the dtype of the output, or None for that of the merge.
    """

    name: str
    method: str
    base: Source | None
    inputs: tuple[Source, ...]
    shared: tuple[tuple[str, Number | None], ...]
    per_input: tuple[tuple[str, tuple[Number | None, ...]], ...]
    dtype: str | None
    out_dtype: str | None

    @property
    def numbers(self) -> Numbers:
        """The parameters, as a method reads them."""
        return Numbers(dict(self.shared), dict(self.per_input))

    def sources(self) -> tuple[Source, ...]:
        """Every tensor that the step reads."""
        return ((self.base,) if self.base else ()) + self.inputs


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a parent."""

    parent: str
    index: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All the steps of one merge.

    Attributes:
        steps: one for each tensor, in order.
        stack: for each layer of the merge the parent's layer whose kind it is of.
        rows: the rows of its embedding, or None for those of the parents.
    """

    steps: tuple[Step, ...]
    stack: tuple[Layer, ...]
    rows: int | None = None

    @property
    def layers(self) -> int:
        """The depth of the merge."""
        return len(self.stack)

    def describe(self) -> str:
        """Return the plan as text: a line a tensor, with its method, sources and numbers."""
        return "\n".join(_describe(step) for step in self.steps)


def make_plan(recipe: Recipe, parents: ParentSet) -> Plan:
    """Resolve a recipe against its parents. Raises MergingError where they do not fit."""
    method = METHODS[recipe.merge_method]
    _check_heads(recipe, parents)
    slices, module = _output_slices(recipe, parents)
    steps: list[Step] = []
    stack: list[Layer] = []
    architecture = parents.architecture
    for name in architecture.before:
        steps.append(_step(recipe, method, parents, slices[0], module, name, layer=None, t=0.0))
    for part in slices:
        length = part.sources[0].layer_range[1] - part.sources[0].layer_range[0]
        for offset in range(length):
            t = offset / (length - 1) if length > 1 else 1.0
            for position, name in enumerate(architecture.layer_names(len(stack))):
                steps.append(_step(recipe, method, parents, part, module, name, (position, offset), t))
            stack.append(_kind(recipe, part, offset))
    tied = parents.checkpoints[recipe.donor].config.tie_word_embeddings
    for name in (name for name in architecture.after if not (tied and name in architecture.stand_ins)):
        steps.append(_step(recipe, method, parents, last_sources(slices), module, name, layer=None, t=0.0))
    vocabulary = merged_vocabulary(recipe, parents)
    if vocabulary is None:
        return Plan(tuple(steps), tuple(stack))
    first, last = (part.base_model or recipe.base_model for part in (slices[0], slices[-1]))
    bases = dict.fromkeys(architecture.before, first) | dict.fromkeys(architecture.after, last)
    aligned = [
        _aligned(step, bases[step.name], vocabulary, parents) if step.name in architecture.by_token else step
        for step in steps
    ]
    return Plan(tuple(aligned), tuple(stack), vocabulary.rows)


def _aligned(step: Step, base: str | None, vocabulary: Vocabulary, parents: ParentSet) -> Step:
    """Return the step with sources that have the rows of the merge's vocabulary."""
    models = tuple(dict.fromkeys(source.parent for source in step.sources()))
    names = aligned_names(parents, vocabulary, step.name, models, base, step.dtype)
    return replace(
        step,
        base=step.base and Source(step.base.parent, names[step.base.parent]),
        inputs=tuple(Source(source.parent, names[source.parent]) for source in step.inputs),
    )


def _kind(recipe: Recipe, part: OutputSlice, offset: int) -> Layer:
    """Return the layer whose kind (its attention, say) a layer of the output has: the base's, or the first source's."""
    base = part.base_model or recipe.base_model
    source = next((source for source in part.sources if source.model == base), part.sources[0])
    return Layer(source.model, source.layer_range[0] + offset)


def _check_heads(recipe: Recipe, parents: ParentSet) -> None:
    tied = {name: parents.checkpoints[name].config.tie_word_embeddings for name in recipe.parents()}
    untied = [name for name in tied if not tied[name]]
    if tied[recipe.donor] and untied:
        raise MergingError(
            f"model {untied[0]}: has an output head of its own, but that of {recipe.donor} is tied to its embedding; "
            f"make {untied[0]} the base_model, or merge models of one kind"
        )


def _output_slices(recipe: Recipe, parents: ParentSet) -> tuple[Sequence[OutputSlice], Parameters]:
    """Return the output as slices whose base is among their sources, and the parameters of their module."""
    module_parameters: Parameters = {}
    slices, models = recipe.slices, recipe.models
    if recipe.modules:
        if recipe.modules.keys() != {MODULE}:
            raise MergingError(
                f"modules: a language model is the single module {MODULE!r}, but the recipe has "
                f"{', '.join(map(repr, recipe.modules))}; put what is under it at the top of the recipe"
            )
        (module,) = recipe.modules.values()
        slices, models, module_parameters = module.slices, module.models, module.parameters
    if models:
        slices = (_whole_models(recipe, models, parents),)
    for part in slices or ():
        for source in part.sources:
            if source.layer_range[1] > parents.layers(source.model):
                raise MergingError(
                    f"model {source.model}: layer_range {list(source.layer_range)} goes beyond its "
                    f"{parents.layers(source.model)} layers"
                )
    return slices or (), module_parameters


def _whole_models(recipe: Recipe, models: Sequence[InputModel], parents: ParentSet) -> OutputSlice:
    inputs = [(model.model, model.parameters) for model in models]
    if recipe.base_model and recipe.base_model not in [model.model for model in models]:
        inputs.append((recipe.base_model, {}))
    depths = {name: parents.layers(name) for name, _ in inputs}
    if len(set(depths.values())) > 1:
        listed = ", ".join(f"{name} has {depth}" for name, depth in depths.items())
        raise MergingError(f"models of different depth cannot be merged whole ({listed} layers); use slices")
    return OutputSlice(
        sources=tuple(
            InputSlice(model=name, layer_range=(0, depths[name]), parameters=parameters) for name, parameters in inputs
        )
    )


def _step(
    recipe: Recipe,
    method: Method,
    parents: ParentSet,
    part: OutputSlice,
    module: Parameters,
    name: str,
    layer: tuple[int, int] | None,
    t: float,
) -> Step:
    base_model = part.base_model or recipe.base_model
    shared_blocks = [part.parameters, module, recipe.parameters]
    sources = []
    for source in part.sources:
        tensor = name
        if layer is not None:
            position, offset = layer
            tensor = parents.architecture.layer_name(position, source.layer_range[0] + offset)
        sources.append((Source(source.model, tensor), [source.parameters, *shared_blocks]))
    apart = method.sets_base_apart
    inputs = [(source, blocks) for source, blocks in sources if not (apart and source.parent == base_model)]
    shared = tuple(
        (p.key, _resolve(method, p, shared_blocks, name, t, f"parameters.{p.key}"))
        for p in method.parameters
        if p.scope is Scope.SHARED
    )
    per_input = tuple(
        (
            p.key,
            tuple(_resolve(method, p, blocks, source.tensor, t, source.parent) for source, blocks in inputs),
        )
        for p in method.parameters
        if p.scope is not Scope.SHARED
    )
    _check_together(method, inputs, per_input)
    base = next((source for source, _ in sources if apart and source.parent == base_model), None)
    only = tuple(source for source, _ in inputs)
    return Step(name, method.name, base, only, shared, per_input, recipe.dtype, recipe.out_dtype)


def _check_together(
    method: Method,
    inputs: Sequence[tuple[Source, Sequence[Parameters]]],
    per_input: Sequence[tuple[str, tuple[Number | None, ...]]],
) -> None:
    for index, (source, _) in enumerate(inputs if method.refuses_together else ()):
        assert method.refuses_together
        if reason := method.refuses_together({key: values[index] for key, values in per_input}):
            raise MergingError(f"model {source.parent}: tensor {source.tensor}: {reason}")


def _resolve(
    method: Method, parameter: Parameter, blocks: Sequence[Mapping[str, Setting]], tensor: str, t: float, where: str
) -> Number | None:
    for block in blocks:
        if parameter.key in block:
            value = resolve(block[parameter.key], tensor, t, parameter.read)
            if value is not None:
                return value
    if parameter.required:
        raise MergingError(
            f"{where}: {method.name} needs the parameter {parameter.key!r}, and none of its filters fits {tensor}; "
            "add a value without a filter as the last one"
        )
    return parameter.default


def _describe(step: Step) -> str:
    numbers = [f"{key}={_short(value)}" for key, value in step.shared if value is not None]
    for key, values in step.per_input:
        if any(value is not None for value in values):
            numbers.append(f"{key}=[{', '.join(map(_short, values))}]")
    sources = ", ".join(f"{s.parent}" + (f":{s.tensor}" if s.tensor != step.name else "") for s in step.inputs)
    onto = f" onto {step.base.parent}" if step.base else ""
    return f"{step.name}: {step.method} of {sources}{onto}  {' '.join(numbers)}".rstrip()


def _short(value: Number | None) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()
