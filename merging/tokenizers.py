"""Tokenizers: which one a merge has, and loading one so that its ids are those of its own tokenizer.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from merging.checkpoint import locate
from merging.errors import MergingError
from merging.parents import ParentSet
from merging.recipe import Recipe

# Exercises digits, indentation, punctuation, case and non-ASCII text: where pre-tokenizers differ.
_PROBE = 'def f(x: int = 1234) -> str:\n    """It\'s 3.14 — naïve"""\n\treturn f"{x!r}  \\n" if x >= 10**9 else None\n'


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; its ids equal those of `tokenizers.Tokenizer.from_file(tokenizer.json)`.

    transformers 5 may put the architecture's own pre-tokenizer in place of the one in tokenizer.json; where that changes
    the ids, the file is loaded as it is. Raises MergingError if there is no tokenizer.
    """
    folder = locate(reference)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise MergingError(f"model {reference}: has no tokenizer that can be loaded: {error}") from None
    file = folder / "tokenizer.json"
    if file.exists() and not _agrees(tokenizer, file):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        if not _agrees(tokenizer, file):
            tokenizer = _as_it_is(tokenizer, file)
    # Every batch is padded on the left by whoever decodes; a missing pad token would make that fail.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _agrees(tokenizer: PreTrainedTokenizerBase, file: Path) -> bool:
    expected = Tokenizer.from_file(str(file)).encode(_PROBE, add_special_tokens=False).ids
    return list(tokenizer.encode(_PROBE, add_special_tokens=False)) == expected


def _as_it_is(tokenizer: PreTrainedTokenizerBase, file: Path) -> PreTrainedTokenizerBase:
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)), **special)
    plain.chat_template = tokenizer.chat_template
    return plain


def merged_tokenizer(recipe: Recipe, parents: ParentSet) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a merge: `tokenizer_source`'s, by default the base's, with the recipe's `chat_template`.

    Raises MergingError where the recipe asks for a vocabulary that none of its parents has.
    """
    default = recipe.base_model or recipe.parents()[0]
    source = (recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source) or "base"
    if recipe.tokenizer and (recipe.tokenizer.tokens or recipe.tokenizer.pad_to_multiple_of):
        raise MergingError(
            "tokenizer: 'tokens' and 'pad_to_multiple_of' change the vocabulary, which is not possible yet"
        )
    if source == "union":
        _check_same_vocabulary(recipe)
    chosen = default if source in ("base", "union") else source
    tokenizer = load_tokenizer(chosen)
    _check_fits(tokenizer, chosen, parents)
    if recipe.chat_template:
        tokenizer.chat_template = _chat_template(recipe)
    return tokenizer


def _check_same_vocabulary(recipe: Recipe) -> None:
    first, *others = recipe.parents()
    vocabulary = load_tokenizer(first).get_vocab()
    for other in others:
        if load_tokenizer(other).get_vocab() != vocabulary:
            raise MergingError(
                f"tokenizer_source: union: the vocabularies of {first} and {other} differ, and merging them is not "
                "possible yet; choose one of the models, or 'base'"
            )


def _check_fits(tokenizer: PreTrainedTokenizerBase, reference: str, parents: ParentSet) -> None:
    rows = next(iter(parents.checkpoints.values())).config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise MergingError(
            f"model {reference}: its tokenizer has ids up to {highest}, but the merged embedding has {rows} rows; "
            "choose another tokenizer_source"
        )


def _chat_template(recipe: Recipe) -> str:
    wanted = recipe.chat_template or ""
    if wanted != "auto":
        if "{" not in wanted:
            raise MergingError(f"chat_template: {wanted!r} is no Jinja template; give the template itself, or 'auto'")
        return wanted
    found = [template for name in recipe.parents() if (template := _own_template(name))]
    if not found:
        raise MergingError("chat_template: auto: none of the models has a chat template")
    return Counter(found).most_common(1)[0][0]


def _own_template(reference: str) -> str | None:
    template = load_tokenizer(reference).chat_template
    return template.get("default") if isinstance(template, Mapping) else template
