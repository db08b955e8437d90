"""The tokenizer of a merge: its source, its added tokens, and the vocabulary of the merged embedding.

Guarantees: scoring and exports use the same files, and the ids of the exported tokenizer.json. Without
`tokenizer_source` or `tokenizer` in the recipe, every embedding stays as it is.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.checkpoints.checkpoint import Checkpoint, locate
from merging.checkpoints.model_files import CHAT_TEMPLATES, CONFIG, TOKENIZER_FILES, matching
from merging.checkpoints.remembered_answers import digest
from merging.errors import MergingError
from merging.options import LoadOptions
from merging.parents import ParentSet
from merging.recipes.recipe import Recipe
from merging.tokenization.added_tokens import changed, missing_tokens
from merging.tokenization.chat_templates import choose_template
from merging.tokenization.special_tokens import SpecialTokens
from merging.tokenization.tokenizers import has_tokenizer, load_tokenizer, read_tokenizer, with_padding
from merging.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

# Suffixes of large files beside a tokenizer's that do not affect it.
_WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class MergedTokenizer:
    """The tokenizer of a merge.

    Attributes:
        source: the folder of the model whose files it has.
        file: the new tokenizer.json if tokens were added or removed; None if the files stay.
        template: the chat template, or None for that of `source`.
        special: its special tokens.
        load: loads it when first called.
    """

    source: Path
    file: Tokenizer | None
    template: str | None
    special: SpecialTokens
    load: Callable[[], PreTrainedTokenizerBase] = field(repr=False, compare=False)

    @classmethod
    def of(cls, recipe: Recipe, parents: ParentSet) -> MergedTokenizer:
        """Return the tokenizer of a merge; made once per parent set.

        Raises MergingError if the recipe asks for one that is not available.
        """
        return parents.statistics.once(
            ("tokenizer", *_key(recipe), recipe.chat_template), lambda: _make(recipe, parents)
        )

    @classmethod
    def lent(cls, owner: str, rows: int, options: LoadOptions) -> MergedTokenizer:
        """Return a model's own tokenizer for a merge whose embedding has this many rows.

        Raises MergingError if the model has no tokenizer, or one with ids beyond these rows.
        """
        tokenizer = read_tokenizer(owner, options)
        _check_ids(owner, max(tokenizer.get_vocab().values()), rows)
        return cls(locate(owner, options), None, None, SpecialTokens.of(tokenizer, None), lambda: tokenizer)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with its template and a padding token."""
        return with_padding(_with(self.template, self.load()))

    def save(self, folder: Path) -> None:
        """Put the tokenizer's files into a folder."""
        _write(self.source, self.file, self.template, folder)


def merged_vocabulary(recipe: Recipe, parents: ParentSet) -> Vocabulary | None:
    """Return the vocabulary that embeddings are rearranged to, or None if the recipe leaves them as they are.

    Raises MergingError if a parent's tokenizer is missing or does not fit its embedding.
    """
    return _choice(recipe, parents).vocabulary if recipe.vocabulary_source else None


@dataclass(frozen=True)
class _Choice:
    """The outcome of a recipe's tokenizer settings."""

    source: Path
    file: Tokenizer | None
    vocabulary: Vocabulary


def _key(recipe: Recipe) -> tuple[object, ...]:
    section = recipe.tokenizer.model_dump_json() if recipe.tokenizer else None
    return (recipe.parents(), recipe.config_source, recipe.tokenizer_source, section)


def _choice(recipe: Recipe, parents: ParentSet) -> _Choice:
    return parents.statistics.once(("vocabulary", *_key(recipe)), lambda: _choose(recipe, parents))


def _make(recipe: Recipe, parents: ParentSet) -> MergedTokenizer:
    options = parents.options
    own = (_own_template(parents.checkpoints[name]) for name in recipe.parents())
    template = choose_template(recipe.chat_template, own)
    choice = _choice(recipe, parents) if recipe.vocabulary_source else None
    if choice is None:
        return _unchanged(recipe.config_source, parents, template)
    load = cache(lambda: _load(choice.source, choice.file, options))
    ids = choice.vocabulary.ids
    moved = {row: ids[token] for token, row in choice.vocabulary.parents[recipe.config_source].items() if token in ids}
    special = SpecialTokens.of(_with(template, load()), moved)
    return MergedTokenizer(choice.source, choice.file, template, special, load)


def _unchanged(config_source: str, parents: ParentSet, template: str | None) -> MergedTokenizer:
    """Return the config source's own tokenizer; loads it only if its special tokens and ids are not remembered."""
    checkpoint = parents.checkpoints[config_source]
    load = cache(lambda: read_tokenizer(config_source, parents.options))

    def ask() -> tuple[dict[str, int | None], tuple[int, ...], int]:
        special = SpecialTokens.of(_with(template, load()), None)
        return dict(special.ids), special.ends, max(load().get_vocab().values())

    ids, ends, highest = checkpoint.remembered(["tokenizer", _files(checkpoint.folder), template], ask)
    _check_ids(config_source, highest, parents.shape(config_source, parents.architecture.embedding)[0])
    return MergedTokenizer(checkpoint.folder, None, template, SpecialTokens(ids, None, tuple(ends)), load)


def _with(template: str | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if template:
        tokenizer.chat_template = template
    return tokenizer


def _files(folder: Path) -> dict[str, str | None]:
    """Return the digests of all files that may affect a folder's tokenizer."""
    files = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    small = [file for file in files if file.is_file() and file.suffix not in _WEIGHTS]
    return {file.name: digest(file) for file in small}


def _choose(recipe: Recipe, parents: ParentSet) -> _Choice:
    source = recipe.vocabulary_source or recipe.config_source
    model = recipe.config_source if source == "union" else source
    sizes = {name: parents.shape(name, parents.architecture.embedding)[0] for name in recipe.parents()}
    order = dict.fromkeys((recipe.config_source, *sizes))
    loaded = _tokenizers(recipe.config_source, [*order, model], sizes, parents)
    if model != recipe.config_source and model in sizes:
        _check_ids(model, max(loaded[model].get_vocab().values()), sizes[model])
    more: list[str | AddedToken] = []
    if source == "union":
        more += missing_tokens([(loaded[name], sizes[name]) for name in order])
    wanted = (recipe.tokenizer.tokens if recipe.tokenizer else None) or {}
    more += list(wanted)
    folder = locate(model, parents.options)
    file = changed(model, folder, loaded[model], sizes.get(model), more)
    ids = file.get_vocab() if file else loaded[model].get_vocab()
    having = {
        name: {token: row for token, row in loaded[name].get_vocab().items() if row < size}
        for name, size in sizes.items()
    }
    rows = max(ids.values()) + 1
    multiple = (recipe.tokenizer.pad_to_multiple_of if recipe.tokenizer else None) or 1
    name = f"{Path(source).name}-{sha256(repr(_key(recipe)).encode()).hexdigest()[:8]}"
    return _Choice(folder, file, Vocabulary(name, ids, -(-rows // multiple) * multiple, having, sizes, wanted))


def _tokenizers(
    config_source: str, models: Iterable[str], sizes: Mapping[str, int], parents: ParentSet
) -> dict[str, PreTrainedTokenizerBase]:
    """Return all tokenizers; a parent without one gets the config source's, if it has as many rows."""
    loaded: dict[str, PreTrainedTokenizerBase] = {}
    for name in dict.fromkeys(models):
        if name != config_source and name in sizes and not has_tokenizer(parents.checkpoints[name].folder):
            if sizes[name] != sizes[config_source]:
                raise MergingError(
                    f"model {name}: has no tokenizer, and its embedding has {sizes[name]} rows, but that of "
                    f"{config_source} has {sizes[config_source]}; put its tokenizer.json and "
                    "tokenizer_config.json beside it"
                )
            loaded[name] = loaded[config_source]
        else:
            loaded[name] = read_tokenizer(name, parents.options)
    return loaded


def _check_ids(model: str, highest: int, rows: int) -> None:
    if highest >= rows:
        raise MergingError(
            f"model {model}: its tokenizer has ids up to {highest}, but its embedding has {rows} rows; choose another "
            "tokenizer_source: base and union leave out the tokens of the base that have no row"
        )


def _load(source: Path, file: Tokenizer | None, options: LoadOptions) -> PreTrainedTokenizerBase:
    if file is None:
        return read_tokenizer(str(source), options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(source, file, None, folder)
        # transformers may read the tokenizer's class there.
        for extra in matching(source, (CONFIG, *(("*.py",) if options.trust_remote_code else ()))):
            shutil.copyfile(extra, folder / extra.name)
        return read_tokenizer(name, options)


def _write(source: Path, file: Tokenizer | None, template: str | None, folder: Path) -> None:
    templates = matching(source, CHAT_TEMPLATES)
    # Beside a new tokenizer.json, vocabularies in other formats would be those of the old one.
    files = {*templates, *(matching(source, TOKENIZER_FILES) if file is None else ())}
    for path in files.difference(templates if template else ()):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    if file is not None:
        file.save(str(folder / "tokenizer.json"))
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (source / name).exists():
                settings = _settings(json.loads((source / name).read_text(encoding="utf-8")), file)
                (folder / name).write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _settings(settings: dict[str, Any], file: Tokenizer) -> dict[str, Any]:
    """Return a tokenizer's settings without those in tokenizer.json, and without roles of tokens that it lacks."""
    kept = {}
    for key, value in settings.items():
        token = value.get("content") if isinstance(value, dict) else value
        is_lost = key.endswith("_token") and isinstance(token, str) and file.token_to_id(token) is None
        if key != "added_tokens_decoder" and not is_lost:
            kept[key] = value
    return kept


def _own_template(checkpoint: Checkpoint) -> str | None:
    if not has_tokenizer(checkpoint.folder):
        return None
    template: Any = checkpoint.remembered(
        ["chat template", _files(checkpoint.folder)],
        lambda: load_tokenizer(checkpoint.reference, checkpoint.options).chat_template,
    )
    return template.get("default") if isinstance(template, Mapping) else template
