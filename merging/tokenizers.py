"""Tokenizers: which one a merge has, and loading one so that its ids are those of its own tokenizer.json.

Guarantees: what is loaded for scoring and what an export holds come from the same files. Does not rearrange
vocabularies: a recipe that asks for that is refused.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from merging.checkpoint import locate
from merging.errors import MergingError, first_line
from merging.parents import ParentSet
from merging.recipe import Recipe

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; its ids equal those of `tokenizers.Tokenizer.from_file(tokenizer.json)`.

    Which special tokens are put around a text is the business of tokenizer_config.json, as everywhere in transformers.
    Raises MergingError if there is no tokenizer.
    """
    folder = locate(reference)
    if not any((folder / name).exists() for name in _FILES):
        raise MergingError(f"model {reference}: has no tokenizer ({folder} holds no tokenizer.json)")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        if isinstance(tokenizer, PreTrainedTokenizerFast) and (folder / "tokenizer.json").exists():
            file = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if invented := _invented_tokens(tokenizer, file, folder):
                tokenizer = AutoTokenizer.from_pretrained(folder, **dict.fromkeys(invented))
            _restore(tokenizer.backend_tokenizer, file)
    except Exception as error:  # the tokenizers library raises no narrower type
        raise MergingError(f"model {reference}: its tokenizer cannot be loaded: {first_line(error)}") from None
    # Every batch is padded on the left by whoever decodes; a missing pad token would make that fail.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _invented_tokens(tokenizer: PreTrainedTokenizerBase, file: Tokenizer, folder: Path) -> list[str]:
    # transformers 5 adds an architecture's usual special tokens (Qwen2's "<|endoftext|>" for padding) to a vocabulary
    # that has none of that name, with an id beyond the last row of the embedding.
    named: set[str] = set()
    for settings in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / settings).exists():
            named |= json.loads((folder / settings).read_text(encoding="utf-8")).keys()
    roles = tokenizer.special_tokens_map.items()
    return [role for role, token in roles if role not in named and file.token_to_id(str(token)) is None]


def _restore(loaded: Tokenizer, file: Tokenizer) -> None:
    # transformers 5 may put the architecture's own parts in place of those in tokenizer.json (seen with Llama's and
    # Qwen2's classes), and then splits digits, spaces or lines in other places than the model was trained with.
    loaded.model = file.model
    loaded.normalizer = file.normalizer
    loaded.pre_tokenizer = file.pre_tokenizer
    loaded.decoder = file.decoder


def merged_tokenizer(recipe: Recipe, parents: ParentSet) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a merge: `tokenizer_source`'s, by default the base's, with the recipe's `chat_template`.

    Raises MergingError where the recipe asks for a vocabulary that the parents' embeddings do not have.
    """
    reference = _source(recipe)
    tokenizer = load_tokenizer(reference)
    rows = parents.checkpoints[recipe.donor].config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise MergingError(
            f"model {reference}: its tokenizer has ids up to {highest}, but the merged embedding has {rows} rows; "
            "choose another tokenizer_source"
        )
    if recipe.tokenizer_source or recipe.tokenizer:
        _check_vocabulary(recipe, tokenizer, rows)
    if template := _chat_template(recipe):
        tokenizer.chat_template = template
    return tokenizer


def save_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Put the files of a merge's tokenizer into a folder."""
    for name in _FILES:
        file = locate(_source(recipe)) / name
        if file.exists():
            shutil.copyfile(file, folder / name)
    if template := _chat_template(recipe):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _source(recipe: Recipe) -> str:
    source = (recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source) or "base"
    return recipe.donor if source in ("base", "union") else source


def _check_vocabulary(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    # mergekit rearranges every parent's embedding to the tokenizer; here it must be in that order already.
    if recipe.tokenizer and (recipe.tokenizer.tokens or recipe.tokenizer.pad_to_multiple_of):
        raise MergingError(
            "tokenizer: 'tokens' and 'pad_to_multiple_of' change the embedding, which is not possible yet"
        )
    key = "tokenizer.source" if recipe.tokenizer else "tokenizer_source"
    vocabulary = tokenizer.get_vocab()
    reason = (
        f"the tokenizer has {len(vocabulary)} tokens and the embedding {rows} rows" if len(vocabulary) < rows else ""
    )
    for parent in recipe.parents():
        if (
            not reason
            and (locate(parent) / "tokenizer.json").exists()
            and load_tokenizer(parent).get_vocab() != vocabulary
        ):
            reason = f"the vocabulary of {parent} is another"
    if reason:
        raise MergingError(
            f"{key}: the embedding would have to be rearranged ({reason}), which is not possible yet; "
            f"leave {key} out to keep the rows as they are, with the tokenizer of {recipe.donor}"
        )


def _chat_template(recipe: Recipe) -> str | None:
    wanted = recipe.chat_template
    if wanted == "auto":
        found = [template.strip() for name in recipe.parents() if (template := _own_template(name))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted and "{" not in wanted:
        raise MergingError(f"chat_template: {wanted!r} is no Jinja template; give the template itself, or 'auto'")
    return wanted


def _own_template(reference: str) -> str | None:
    template = load_tokenizer(reference).chat_template
    return template.get("default") if isinstance(template, Mapping) else template
