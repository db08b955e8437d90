"""The plan: a recipe and its parents, resolved to what is done for each output tensor, before any arithmetic.

Guarantees: what is wrong between a recipe and its parents (a filter that fits no tensor, a layer that no parent has) is
found here; the numbers are those that mergekit 0.1.5 resolves. Pure data; reads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from merging.errors import MergingError
from merging.methods import METHODS, Method, Parameter, Scope
from merging.methods.registry import Number, Numbers
from merging.modules import DEFAULT, Module, modules_of, name_of
from merging.parents import ParentSet
from merging.recipes.recipe import Recipe
from merging.recipes.schema import InputSlice, OutputSlice, Parameters, last_sources
from merging.recipes.settings import Setting, resolve
from merging.stacks import Layer, check_stack, stacked_config, untie
from merging.tokenization.embeddings import aligned_names
from merging.tokenization.merged_tokenizer import merged_vocabulary
from merging.tokenization.vocabulary import Vocabulary


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
class Plan:
    """All the steps of one merge.

    Attributes:
        steps: one for each tensor, in order.
        stack: for each layer of the merge (of its main stack) the parent's layer whose kind it is of.
        rows: the rows of its embedding, or None for those of the parents.
        has_head: whether its output head is a tensor of its own, and not the embedding.
    """

    steps: tuple[Step, ...]
    stack: tuple[Layer, ...]
    rows: int | None = None
    has_head: bool = True

    @property
    def layers(self) -> int:
        """The depth of the merge."""
        return len(self.stack)


def make_plan(recipe: Recipe, parents: ParentSet) -> Plan:
    """Resolve a recipe against its parents. Raises MergingError where they do not fit."""
    architecture = parents.architecture
    modules = modules_of(recipe, parents)
    loose = modules[DEFAULT].slices
    first, last = loose[0], last_sources(loose)
    steps = list(steps_of(recipe, parents, modules))
    main = architecture.main
    stacked = _offsets(modules[name_of(architecture, main)]) if main else ()
    stack = tuple(_kind(recipe, part, offset) for part, offset in stacked)
    has_head = _has_head(recipe, parents, last.sources)
    _check_stack(recipe, parents, stack, steps, has_head)
    vocabulary = merged_vocabulary(recipe, parents)
    if vocabulary is None:
        return Plan(tuple(steps), stack, has_head=has_head)
    bases = dict.fromkeys(architecture.before, first.base_model or recipe.base_model)
    bases |= dict.fromkeys(architecture.after, last.base_model or recipe.base_model)
    aligned = [
        _aligned(step, bases[step.name], vocabulary, parents) if step.name in architecture.by_token else step
        for step in steps
    ]
    return Plan(tuple(aligned), stack, vocabulary.rows, has_head)


def steps_of(recipe: Recipe, parents: ParentSet, modules: Mapping[str, Module] | None = None) -> Iterator[Step]:
    """Yield the steps of a plan, in order, as they are before a vocabulary rearranges what they read."""
    architecture = parents.architecture
    modules = modules or modules_of(recipe, parents)
    loose = modules[DEFAULT]
    for name in architecture.before:
        yield _step(recipe, loose.slices[0], loose, name, t=0.0)
    for each in architecture.stacks:
        yield from _layers(recipe, parents, modules[name_of(architecture, each)], each.head)
    last = last_sources(loose.slices)
    has_head = _has_head(recipe, parents, last.sources)
    for name in architecture.after:
        if has_head or name not in architecture.stand_ins:
            yield _step(recipe, last, loose, name, t=0.0)


def _offsets(module: Module) -> Iterator[tuple[OutputSlice, int]]:
    """Yield the slice of each layer of a module, and the layer's index in it."""
    for part in module.slices:
        for offset in range(_length(part)):
            yield part, offset


def _length(part: OutputSlice) -> int:
    return part.sources[0].layer_range[1] - part.sources[0].layer_range[0]


def _layers(recipe: Recipe, parents: ParentSet, module: Module, head: str) -> Iterator[Step]:
    """Yield the steps of one stack of layers."""
    for index, (part, offset) in enumerate(_offsets(module)):
        t = offset / (_length(part) - 1) if _length(part) > 1 else 1.0
        layers = [Layer(source.model, source.layer_range[0] + offset) for source in part.sources]
        kind = _kind(recipe, part, offset)
        for layer in layers:
            _check_kind(parents, head, layer, kind)
        for tail in parents.stack(kind.parent, head).layers[kind.index]:
            tensors = [f"{head}{layer.index}{tail}" for layer in layers]
            yield _step(recipe, part, module, f"{head}{index}{tail}", t, tensors)


def _check_kind(parents: ParentSet, head: str, layer: Layer, kind: Layer) -> None:
    have, wanted = (parents.layer_shapes(each.parent, head, each.index) for each in (layer, kind))
    if have is wanted:
        return
    tail = next(tail for tail in {**wanted, **have} if have.get(tail) != wanted.get(tail))
    own, other = (
        f"has {head}{each.index}{tail}" + (f" of shape {list(shapes[tail])}" if tail in have and tail in wanted else "")
        if tail in shapes
        else f"has no {head}{each.index}{tail}"
        for each, shapes in ((layer, have), (kind, wanted))
    )
    raise MergingError(f"model {layer.parent}: {own}, but {kind.parent} {other}; only layers of one kind can be merged")


def _check_stack(
    recipe: Recipe, parents: ParentSet, stack: tuple[Layer, ...], steps: Sequence[Step], has_head: bool
) -> None:
    donor = parents.checkpoints[recipe.donor]
    if parents.architecture.main is None or stack == tuple(
        Layer(recipe.donor, index) for index in range(parents.layers(recipe.donor))
    ):
        return

    def check() -> bool:
        firsts = {step.name: step.sources()[0] for step in steps}
        shapes = {name: parents.shape(source.parent, source.tensor) for name, source in firsts.items()}
        config = stacked_config(donor, stack, parents)
        if has_head:
            untie(config)
        check_stack(config, stack, shapes, parents)
        return True

    parents.statistics.once(("stack fits", recipe.donor, stack, has_head), check)


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


def _has_head(recipe: Recipe, parents: ParentSet, sources: Iterable[InputSlice]) -> bool:
    """Whether a merge has an output head apart from its embedding: if its donor has, or one of what the head is of."""
    owners = [recipe.donor, *(source.model for source in sources)]
    return not all(parents.checkpoints[name].config.tie_word_embeddings for name in owners)


def _step(
    recipe: Recipe,
    part: OutputSlice,
    module: Module,
    name: str,
    t: float,
    tensors: Sequence[str] | None = None,
) -> Step:
    """Return a step; `tensors` are those of the sources, where they have other names than the output."""
    method = METHODS[recipe.merge_method]
    base_model = part.base_model or recipe.base_model
    shared_blocks = [part.parameters, module.parameters, recipe.parameters]
    sources = [
        (Source(source.model, tensor), [source.parameters, *shared_blocks])
        for source, tensor in zip(part.sources, tensors or [name] * len(part.sources), strict=True)
    ]
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
