"""Findings about the parents: whether they are here, fit each other and end texts alike, and leftovers in configs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.generation.text import configured_ends
from merging import MergingError, ParentSet, Recipe, load_tokenizer, split_reference
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.leftovers import (
    differing_keys,
    generates_without_cache,
    ignored_keys,
    says_other_dtype,
)
from merging.checkpoints.references import is_hub_id
from merging.errors import shown
from merging.notes import parent_notes
from merging.options import MergeOptions
from merging.sizes import shown_size
from merging.tokenization.tokenizers import has_tokenizer
from search.counts import counted
from search.preflight.finding import Finding
from search.preflight.hub_cache import missing_from_cache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from search.preflight.subject import Subject

_PARENTS, _ARCHITECTURE, _VOCABULARY, _CONFIGS = "parents", "architecture", "vocabulary", "configs"
_MOST_KEYS = 6


def parents_here(subject: Subject) -> Iterator[Finding]:
    """Yield where each parent is, or what is missing and how to get it."""
    config, options = subject.config, subject.config.merging.load_options
    missing = [Finding("problem", _PARENTS, str(error)) for error in config.missing()]
    names = [*subject.names, *filter(None, [config.evaluation.prompt.tokenizer])]
    parts = dict.fromkeys(part for name in names for part in split_reference(name) if part)
    missing += missing_from_cache(filter(is_hub_id, parts))
    yield from missing
    for name in subject.names if not missing else ():
        try:
            checkpoint = Checkpoint.open(name, options)
            yield Finding("ok", _PARENTS, f"{name}: {_described(checkpoint)}")
        except MergingError as error:
            yield Finding("problem", _PARENTS, str(error))


def _described(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    elements = sum(tensor.nbytes // tensor.dtype.itemsize for tensor in checkpoint.tensors.values())
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    size = f"{elements / 1e9:.2f}B" if elements >= 1e8 else f"{elements / 1e6:.2f}M"
    depth = config.get_text_config().num_hidden_layers
    told = [str(config.model_type), counted(depth, "layer"), f"{size} parameters", dtype, shown_size(checkpoint.nbytes)]
    where = f", in {checkpoint.folder}" if str(checkpoint.folder) != checkpoint.reference else ""
    return ", ".join(told) + where


def parents_fit(subject: Subject) -> Iterator[Finding]:
    """Yield what keeps the parents from being merged, one finding per parent, or how they differ."""
    try:
        parents = subject.parents
    except MergingError as error:
        yield from (Finding("problem", _ARCHITECTURE, text) for text in _all_that_differ(subject, str(error)))
        return
    yield from notes_on_parents(parents)
    config, depth = parents.reference.config, parents.layers(parents.reference.reference)
    count = len(parents.checkpoints)
    models = counted(count, f"{config.model_type} model")
    yield Finding("ok", _ARCHITECTURE, f"{models} of one shape, with {counted(depth, 'layer')}")


def _all_that_differ(subject: Subject, first: str) -> Sequence[str]:
    """Return what keeps each parent from being merged with the base, after the error that came first."""
    recipe = subject.config.space.extreme_recipes[0]
    base, others = recipe.config_source, [name for name in subject.names if name != recipe.config_source]
    options = MergeOptions(memory_budget=0, load=subject.config.merging.load_options)
    told = {first: None}
    for other in others:
        try:
            with ParentSet.open(Recipe.average([base, other], recipe.dtype, recipe.vocabulary_source), options):
                pass
        except MergingError as error:
            told[str(error)] = None
    return list(told)


def notes_on_parents(parents: ParentSet) -> Iterator[Finding]:
    """Yield how opened parents differ, and what scoring ignores in them."""
    for note in parent_notes(parents):
        yield Finding("warning" if note in parents.doubts else "note", _ARCHITECTURE, note)


def vocabularies(subject: Subject) -> Iterator[Finding]:
    """Yield how the parents' tokenizers fit their embeddings, and which tokens end their texts."""
    parents, options = subject.parents, subject.config.merging.load_options
    table, ends = parents.architecture.embedding, dict[str, tuple[str, ...]]()
    sizes: dict[str, tuple[int, int]] = {}
    for name, checkpoint in parents.checkpoints.items():
        if not has_tokenizer(checkpoint.folder):
            yield Finding("note", _VOCABULARY, f"{name}: has no tokenizer of its own")
            continue
        tokenizer = load_tokenizer(name, options)
        rows, tokens = parents.shape(name, table)[0], max(tokenizer.get_vocab().values(), default=-1) + 1
        sizes[name] = rows, tokens
        if tokens > rows:
            yield Finding(
                "warning",
                _VOCABULARY,
                f"{name}: its tokenizer has ids up to {tokens - 1:,}, and its embedding has {rows:,} rows: a prompt "
                f"with {_from_row(tokenizer, rows)} cannot be asked",
                "take the tokenizer that the model was trained with",
            )
        ends[name] = _ends(checkpoint, tokenizer)
    kinds = {found: [name for name in ends if ends[name] == found] for found in dict.fromkeys(ends.values())}
    if len(kinds) > 1:
        each = "; ".join(f"at {' or '.join(found) or 'no token'}: {', '.join(names)}" for found, names in kinds.items())
        source = subject.candidates[0].config_source
        yield Finding("note", _VOCABULARY, f"texts end at different tokens, {each}; merges end as {source} does")
    yield Finding("ok", _VOCABULARY, _told_sizes(sizes, ends))


def _from_row(tokenizer: PreTrainedTokenizerBase, row: int) -> str:
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= row)
    return shown(beyond[0][1]) + (f" or {len(beyond) - 1} more" if len(beyond) > 1 else "")


def _ends(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens that end a model's texts, as text."""
    ids = sorted(configured_ends(checkpoint.generation_config, tokenizer))
    return tuple(str(token) for token in tokenizer.convert_ids_to_tokens(ids))


def _told_sizes(sizes: Mapping[str, tuple[int, int]], ends: Mapping[str, tuple[str, ...]]) -> str:
    kinds = dict.fromkeys(sizes.values())
    told = [f"{tokens:,} tokens in {rows:,} rows" for rows, tokens in kinds]
    same = len(set(ends.values())) == 1
    return f"{' and '.join(told) or 'no tokenizer'}" + (
        f"; texts end at {' or '.join(next(iter(ends.values()))) or 'no token'}" if same else ""
    )


def leftovers(subject: Subject) -> Iterator[Finding]:
    """Yield what the parents' configs say that does not hold for merges, or that nothing reads."""
    found = list(config_leftovers(subject.parents.checkpoints, {it.config_source for it in subject.candidates}))
    yield from found
    if not found:
        yield Finding("ok", _CONFIGS, "nothing is left over in the parents' configs")


def config_leftovers(checkpoints: Mapping[str, Checkpoint], sources: Collection[str]) -> Iterator[Finding]:
    """Yield the leftovers in the configs of some models; merges have the configs of `sources`."""
    for name, checkpoint in checkpoints.items():
        if name in sources and generates_without_cache(checkpoint):
            yield Finding(
                "warning",
                _CONFIGS,
                f"{name}: its config says use_cache: false, as training leaves it; exports take that over, and "
                "transformers then generates many times slower",
                f"set use_cache to true in the generation_config.json or config.json in {checkpoint.folder}",
            )
    first, notes = next(iter(checkpoints.values())), dict[str, list[str]]()
    for name, checkpoint in checkpoints.items():
        for note in _leftover_notes(checkpoint, first, name in sources):
            notes.setdefault(note, []).append(name)
    yield from (Finding("note", _CONFIGS, f"{', '.join(names)}: {note}") for note, names in notes.items())


def _leftover_notes(checkpoint: Checkpoint, first: Checkpoint, is_source: bool) -> Iterator[str]:
    """Yield what is left over in a model's config, compared with the first model's."""
    if not is_source and (keys := checkpoint.loading_keys):
        yield f"its config.json says how to load it ({', '.join(keys)}); merges do not take that over"
    if keys := ignored_keys(checkpoint):
        yield f"transformers ignores {_listed(keys)} in its config.json"
    if dtype := says_other_dtype(checkpoint):
        stored = str(checkpoint.dtype).removeprefix("torch.")
        yield f"its config.json says {dtype}, and its weights are {stored}; the weights count"
    if differing := sorted(differing_keys(checkpoint, first), key=lambda each: each[0]):
        keys = [f"{key} {shown(own)} ({shown(other)})" for key, own, other in differing]
        taken = "; merges take its own" if is_source else ""
        yield f"its config differs from that of {first.reference}: {_listed(keys)}{taken}"


def _listed(words: Sequence[str]) -> str:
    more = [f"and {len(words) - _MOST_KEYS} more"] if len(words) > _MOST_KEYS else []
    return ", ".join([*words[:_MOST_KEYS], *more])
