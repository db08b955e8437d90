"""The plan: the operation for each output tensor, as far as a recipe's structure and its parents decide it.

A search makes a plan once for each structure of its space (its methods, models, layer ranges and filters). `Plan.at`
fills in the parameters of one candidate.
Guarantees: finds every conflict between a recipe and its parents (a filter that fits no tensor, a missing layer).
Pure data; reads headers and tokenizers, no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch

from merging.checkpoints.headers import TensorEntry
from merging.errors import MergingError
from merging.methods import METHODS, Method, Scope
from merging.methods.declarations import Number, ParameterValues
from merging.parents import ParentSet
from merging.planning.modules import DEFAULT, Module, modules_of, name_of
from merging.planning.parameter_lookup import Lookup, Lookups, Values, structure_of
from merging.planning.stacks import Layer, check_stack, stacked_config, untie
from merging.recipes.recipe import Recipe
from merging.recipes.schema import InputSlice, OutputSlice, last_sources
from merging.tokenization.embeddings import aligned_names
from merging.tokenization.merged_tokenizer import merged_vocabulary
from merging.tokenization.vocabulary import Vocabulary


class Source(NamedTuple):
    """A tensor of a parent."""

    # A tuple, not a dataclass: keys of statistics contain it, so it is hashed thousands of times per candidate.

    parent: str
    tensor: str


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """An output tensor and its sources.

    Attributes:
        name: the output tensor.
        method: the method's name.
        base: the base model's tensor, if the method treats the base separately.
        inputs: the other sources, in the recipe's order.
        shape: its shape.
        dtype: the dtype of the merge: the recipe's, else the widest of the sources.
        out_dtype: the dtype of the output in files.
    """

    name: str
    method: str
    base: Source | None
    inputs: tuple[Source, ...]
    shape: torch.Size
    dtype: torch.dtype
    out_dtype: torch.dtype

    def sources(self) -> tuple[Source, ...]:
        """Return all its sources."""
        return ((self.base,) if self.base else ()) + self.inputs


@dataclass(frozen=True, slots=True)
class Step(PlannedTensor):
    """An output tensor with its sources and parameters.

    Attributes:
        shared: the parameters of the whole tensor, by key.
        per_input: the parameters of each input, by key, in the order of `inputs`.
        mask_dtype: the dtype in which a method finds what it keeps of a tensor, if that is not the step's.
    """

    shared: tuple[tuple[str, Number | None], ...]
    per_input: tuple[tuple[str, Values], ...]
    mask_dtype: torch.dtype | None = None

    @property
    def parameters(self) -> ParameterValues:
        """The parameters by key: one value, or one per input."""
        return dict((*self.shared, *self.per_input))

    def passed_through(self, source: Source) -> Step:
        """Return the step that takes the tensor from one source as it is."""
        return replace(
            self, method="passthrough", base=None, inputs=(source,), shared=(), per_input=(("scale", (None,)),)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The structure of a merge, which recipes share if they differ only in parameter values.

    Attributes:
        tensors: the output tensors, in order.
        stack: for each layer of the merge (in its main stack), a parent's layer of the same kind.
        rows: the rows of its embedding, or None for those of the parents.
        has_head: whether its output head is a separate tensor rather than the embedding.
        lookups: the places of the tensors' parameters in a recipe.
        lookups_of: for each tensor, the index of its lookups.
    """

    tensors: tuple[PlannedTensor, ...]
    stack: tuple[Layer, ...]
    rows: int | None
    has_head: bool
    lookups: tuple[Lookups, ...] = field(repr=False)
    lookups_of: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, recipe: Recipe, parents: ParentSet) -> Plan:
        """Make the plan of a recipe's structure. Raises MergingError if recipe and parents do not fit."""
        structure, _ = structure_of(recipe)
        return _make_plan(structure, parents)

    def at(self, recipe: Recipe) -> tuple[Step, ...]:
        """Fill in the parameters of a recipe of this structure. Raises MergingError if they exclude each other."""
        _, values = structure_of(recipe)
        filled = [lookups.values(values) for lookups in self.lookups]
        method = METHODS[recipe.merge_method]
        for index, (_, per_input) in enumerate(filled if method.refuses_together else ()):
            _check_together(method, self.tensors[self.lookups_of.index(index)], per_input)
        return tuple(
            Step(t.name, t.method, t.base, t.inputs, t.shape, t.dtype, t.out_dtype, *filled[index])
            for t, index in zip(self.tensors, self.lookups_of, strict=True)
        )

    @property
    def layers(self) -> int:
        """The depth of the merge."""
        return len(self.stack)

    @property
    def entries(self) -> list[TensorEntry]:
        """The tensors of the merge, unsplit, as files describe them."""
        return [TensorEntry(tensor.name, tensor.shape, tensor.out_dtype) for tensor in self.tensors]

    @property
    def model_dtype(self) -> torch.dtype:
        """The single dtype in which transformers loads the merge: that of most of its elements.

        Files keep each tensor in its own dtype, as mergekit's do.
        """
        sizes: Counter[torch.dtype] = Counter()
        for tensor in self.tensors:
            sizes[tensor.out_dtype] += tensor.shape.numel()
        return max(sizes, key=lambda dtype: sizes[dtype])


def _make_plan(recipe: Recipe, parents: ParentSet) -> Plan:
    architecture = parents.architecture
    modules = modules_of(recipe, parents)
    loose = modules[DEFAULT]
    first, last = loose.slices[0], last_sources(loose.slices)
    has_head = _has_head(recipe, parents, last.sources)
    found = [_planned(recipe, parents, first, loose, name) for name in architecture.before]
    for each in architecture.stacks:
        found += _layers(recipe, parents, modules[name_of(architecture, each)], each.head)
    after = (name for name in architecture.after if has_head or name not in architecture.tied_weights)
    found += [_planned(recipe, parents, last, loose, name) for name in after]
    tensors = [tensor for tensor, _ in found]
    main = architecture.main
    stacked = _offsets(modules[name_of(architecture, main)]) if main else ()
    stack = tuple(_kind(recipe, part, offset) for part, offset in stacked)
    _check_stack(recipe, parents, stack, tensors, has_head)
    vocabulary = merged_vocabulary(recipe, parents)
    if vocabulary is not None:
        bases = dict.fromkeys(architecture.before, first.base_model or recipe.base_model)
        bases |= dict.fromkeys(architecture.after, last.base_model or recipe.base_model)
        by_token = architecture.by_token
        tensors = [_aligned(t, bases[t.name], vocabulary, parents) if t.name in by_token else t for t in tensors]
    places = {lookups: index for index, lookups in enumerate(dict.fromkeys(lookups for _, lookups in found))}
    rows = vocabulary.rows if vocabulary else None
    return Plan(tuple(tensors), stack, rows, has_head, tuple(places), tuple(places[lookups] for _, lookups in found))


def _offsets(module: Module) -> Iterator[tuple[OutputSlice, int]]:
    """Yield the slice of each layer of a module, and the layer's index in it."""
    for part in module.slices:
        for offset in range(_length(part)):
            yield part, offset


def _length(part: OutputSlice) -> int:
    return part.sources[0].layer_range[1] - part.sources[0].layer_range[0]


def _layers(recipe: Recipe, parents: ParentSet, module: Module, head: str) -> Iterator[tuple[PlannedTensor, Lookups]]:
    """Yield the tensors of one stack of layers."""
    for index, (part, offset) in enumerate(_offsets(module)):
        t = offset / (_length(part) - 1) if _length(part) > 1 else 1.0
        layers = [Layer(source.model, source.layer_range[0] + offset) for source in part.sources]
        kind = _kind(recipe, part, offset)
        for layer in layers:
            _check_kind(parents, head, layer, kind)
        for tail in parents.stack(kind.parent, head).layers[kind.index]:
            tensors = [f"{head}{layer.index}{tail}" for layer in layers]
            yield _planned(recipe, parents, part, module, f"{head}{index}{tail}", t, tensors)


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
    recipe: Recipe, parents: ParentSet, stack: tuple[Layer, ...], tensors: Sequence[PlannedTensor], has_head: bool
) -> None:
    config_source = parents.checkpoints[recipe.config_source]
    if parents.architecture.main is None or stack == tuple(
        Layer(recipe.config_source, index) for index in range(parents.layers(recipe.config_source))
    ):
        return

    def check() -> bool:
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        config = stacked_config(config_source, stack, parents)
        if has_head:
            untie(config)
        check_stack(config, stack, shapes, parents)
        return True

    parents.statistics.once(("stack fits", recipe.config_source, stack, has_head), check)


def _aligned(tensor: PlannedTensor, base: str | None, vocabulary: Vocabulary, parents: ParentSet) -> PlannedTensor:
    """Return the tensor with sources in the rows of the merge's vocabulary."""
    models = tuple(dict.fromkeys(source.parent for source in tensor.sources()))
    names = aligned_names(parents, vocabulary, tensor.name, models, base, tensor.dtype)

    def aligned(source: Source) -> Source:
        return Source(source.parent, names[source.parent])

    found = replace(tensor, base=tensor.base and aligned(tensor.base), inputs=tuple(map(aligned, tensor.inputs)))
    return replace(found, shape=parents.shape(*found.sources()[0]))


def _kind(recipe: Recipe, part: OutputSlice, offset: int) -> Layer:
    """Return the layer that decides the kind of an output layer (its attention): the base's or first source's."""
    base = part.base_model or recipe.base_model
    source = next((source for source in part.sources if source.model == base), part.sources[0])
    return Layer(source.model, source.layer_range[0] + offset)


def _has_head(recipe: Recipe, parents: ParentSet, sources: Iterable[InputSlice]) -> bool:
    """Whether a merge has its own output head: its config source has one, or a source of the head does."""
    owners = [recipe.config_source, *(source.model for source in sources)]
    return not all(parents.checkpoints[name].config.tie_word_embeddings for name in owners)


def _planned(
    recipe: Recipe,
    parents: ParentSet,
    part: OutputSlice,
    module: Module,
    name: str,
    t: float = 0.0,
    tensors: Sequence[str] | None = None,
) -> tuple[PlannedTensor, Lookups]:
    """Return an output tensor; `tensors` names those of the sources, if they differ from the output's name."""
    method = METHODS[recipe.merge_method]
    base_model = part.base_model or recipe.base_model
    shared_blocks = [part.parameters, module.parameters, recipe.parameters]
    sources = [
        (Source(source.model, tensor), [source.parameters, *shared_blocks])
        for source, tensor in zip(part.sources, tensors or [name] * len(part.sources), strict=True)
    ]
    base = next((s for s, _ in sources if method.sets_base_apart and s.parent == base_model), None)
    inputs = [(s, blocks) for s, blocks in sources if base is None or s.parent != base.parent]
    shared = tuple(
        Lookup.of(method, p, shared_blocks, name, t, f"parameters.{p.key}")
        for p in method.parameters
        if p.scope is Scope.SHARED
    )
    per_input = tuple(
        (p.key, tuple(Lookup.of(method, p, blocks, s.tensor, t, s.parent) for s, blocks in inputs))
        for p in method.parameters
        if p.scope is not Scope.SHARED
    )
    dtype = _dtype(recipe.dtype) or reduce(torch.promote_types, (parents.stored(*s).dtype for s, _ in sources))
    read = ([base] if base else []) + [s for s, _ in inputs]
    tensor = PlannedTensor(
        name, method.name, base, tuple(s for s, _ in inputs), parents.shape(*read[0]), dtype,
        _dtype(recipe.out_dtype) or dtype,
    )  # fmt: skip
    return tensor, Lookups(shared, per_input)


def _dtype(name: str | None) -> torch.dtype | None:
    dtype: torch.dtype | None = getattr(torch, name) if name else None
    return dtype


def _check_together(method: Method, tensor: PlannedTensor, per_input: Sequence[tuple[str, Values]]) -> None:
    for index, source in enumerate(tensor.inputs):
        assert method.refuses_together
        if reason := method.refuses_together(**{key: values[index] for key, values in per_input}):
            raise MergingError(f"model {source.parent}: tensor {source.tensor}: {reason}")
