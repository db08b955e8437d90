"""Checks of parents against each other, their own configs and the recipes that they are opened for.

Guarantees: all parents have the same tensors, shapes and architecture, or the error names what differs. (Only the
rows of embeddings may differ, if every recipe says how to merge them.) Reads headers, configs and tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from merging.checkpoints.architecture import pattern
from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.differences import PER_LAYER, different_ids, different_values, left_out
from merging.checkpoints.fit import check_fit
from merging.checkpoints.model_config import COMPUTED, HEADS
from merging.errors import MergingError

if TYPE_CHECKING:
    import torch

    from merging.parents import ParentSet
    from merging.recipes.recipe import Recipe


class ParentNote(NamedTuple):
    """A sentence for the user about the parents, and whether what it says may make merges worse."""

    text: str
    is_doubt: bool


def check_parents(
    parents: ParentSet, files: Mapping[str, Checkpoint], recipes: Sequence[Recipe]
) -> Iterator[ParentNote]:
    """Check the parents; yield notes for the user about them.

    Args:
        parents: the parents.
        files: the same parents with the tensors of their files.
        recipes: the recipes that they are opened for.

    Raises:
        MergingError: they cannot be merged.
    """
    for checkpoint in parents.checkpoints.values():
        _check_type(parents, checkpoint)
        _check_depth(parents, checkpoint)
        _check_fit(parents, files[checkpoint.reference])
        _check_names(parents, checkpoint)
    for checkpoint in parents.checkpoints.values():
        _check_shapes(parents, checkpoint)
        yield from (ParentNote(each, False) for each in _left_out(parents, checkpoint))
    for recipe in recipes:
        _check_rows(parents, recipe)
        config_source = parents.checkpoints[recipe.config_source]
        for name in recipe.parents():
            found = _differences(parents.checkpoints[name], config_source, parents.options.allow_crimes)
            yield from (ParentNote(each, True) for each in found)
        yield from (ParentNote(each, True) for each in _other_ids(parents, recipe))
        _ = config_source.generation_settings  # the merge gets its generation config, which must be usable
        if keys := config_source.loading_keys:
            text = (
                f"model {recipe.config_source}: its config.json says how to load it ({', '.join(keys)}); a merge "
                "has plain tensors and leaves these keys out"
            )
            yield ParentNote(text, False)


def _check_type(parents: ParentSet, checkpoint: Checkpoint) -> None:
    own, wanted = checkpoint.config.model_type, parents.reference.config.model_type
    if own != wanted and not parents.options.allow_crimes:
        raise MergingError(
            f"model {checkpoint.reference}: is a {own} model, but {parents.reference.reference} is a {wanted} model; "
            "only models of one architecture can be merged, unless --allow-crimes (allow_crimes=True) takes those "
            "whose tensors fit"
        )


def _check_depth(parents: ParentSet, checkpoint: Checkpoint) -> None:
    main = parents.architecture.main
    if main is None:
        return
    depth = checkpoint.config.get_text_config().num_hidden_layers
    if (found := parents.architecture.count_layers(checkpoint.tensors, main.head)) != depth:
        raise MergingError(
            f"model {checkpoint.reference}: its files hold {found} layers, but its config says {depth}; "
            "the files belong to different models, or some are missing"
        )


def _check_fit(parents: ParentSet, files: Checkpoint) -> None:
    """Check a parent against its own config."""
    if architecture := parents.own_architectures[files.reference]:
        check_fit(parents.checkpoints[files.reference], architecture)
    else:
        check_fit(assemble(files, files), files.architecture)


def _check_names(parents: ParentSet, checkpoint: Checkpoint) -> None:
    for name in parents.names(checkpoint.reference):
        if not parents.has(checkpoint.reference, name):
            raise MergingError(
                f"model {checkpoint.reference}: has no tensor {name}, which the architecture of "
                f"{parents.reference.reference} needs"
            )


def _check_shapes(parents: ParentSet, checkpoint: Checkpoint) -> None:
    reference = parents.reference.reference
    of_reference: dict[str, list[torch.Size]] = {}
    for name in parents.names(reference):
        of_reference.setdefault(pattern(name), []).append(parents.shape(reference, name))
    for name in parents.names(checkpoint.reference):
        found = parents.shape(checkpoint.reference, name)
        free = 1 if name in parents.architecture.by_token else 0
        # A tensor of the same name may have another shape in another kind of layer.
        fitting = of_reference.get(pattern(name)) or [found]
        if found[free:] not in [shape[free:] for shape in fitting]:
            raise MergingError(
                f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but in "
                f"{reference} it has {list(fitting[0])}; only models of one shape can be merged"
            )


def _differences(checkpoint: Checkpoint, config_source: Checkpoint, allow_crimes: bool) -> Iterator[str]:
    """Refuse heads that are split differently; yield what a parent and the config source compute differently."""
    heads = list(different_values((*HEADS, PER_LAYER), checkpoint.config, config_source.config))[:1]
    told = [
        f"model {checkpoint.reference}: has {key} {own}, {config_source.reference} has {other}"
        for key, own, other in [*heads, *different_values(COMPUTED, checkpoint.config, config_source.config)]
    ]
    if heads and not allow_crimes:
        raise MergingError(
            f"{told[0]}; their tensors fit in shape, but are split into other heads and mean different things; "
            "--allow-crimes (allow_crimes=True) merges them"
        )
    yield from (f"{each}; the merge computes as the latter does" for each in told)


def _left_out(parents: ParentSet, checkpoint: Checkpoint) -> Iterator[str]:
    taken = {*parents.names(checkpoint.reference), *parents.architecture.tied_weights}
    if found := left_out(name for name in checkpoint.tensors if name not in taken):
        yield f"model {checkpoint.reference}: a merge leaves out these tensors of its files: {found}"


def _check_rows(parents: ParentSet, recipe: Recipe) -> None:
    if recipe.vocabulary_source:
        return
    source = recipe.config_source
    for tensor in (name for name in parents.architecture.loose if name in parents.architecture.by_token):
        rows = {name: parents.shape(name, tensor)[0] for name in recipe.parents()}
        for name, found in rows.items():
            if found != rows[source]:
                raise MergingError(
                    f"model {name}: tensor {tensor} has {found} rows, but in {source} it has {rows[source]}; set "
                    "tokenizer_source in the recipe (union keeps the tokens of all models, base those of the base), "
                    "which brings the rows of each token together"
                )


def _other_ids(parents: ParentSet, recipe: Recipe) -> Iterator[str]:
    source = parents.checkpoints[recipe.config_source]
    for name in recipe.parents() if not recipe.vocabulary_source else ():
        if moved := different_ids(parents.checkpoints[name].folder, source.folder):
            yield (
                f"model {name}: {moved} (compared with {source.reference}); rows are merged by id, unless the recipe "
                "has a tokenizer_source"
            )
