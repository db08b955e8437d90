"""Added tokens: the tokens that a tokenizer gains or loses in a merge, written into its tokenizer.json.

Guarantees: tokens that stay keep their ids. Knows only the number of rows of embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import MergingError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase


def missing_tokens(tokenizers: Sequence[tuple[PreTrainedTokenizerBase, int]]) -> list[str | AddedToken]:
    """Return the tokens that the first tokenizer lacks to have the tokens of all.

    As in mergekit, a token from the vocabulary of a later tokenizer becomes a plain added token, and an added token
    keeps its settings; where settings differ, the first tokenizer's win.

    Args:
        tokenizers: each with the rows of its embedding; tokens without a row do not count.
    """
    added: dict[str, AddedToken] = {}
    plain: dict[str, None] = {}
    for tokenizer, rows in tokenizers:
        own = [token for index, token in _added(tokenizer) if index < rows]
        flagged = {token.content for token in own}
        for text, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if index < rows and text not in flagged:
                plain.setdefault(text)
        for token in own:
            added.setdefault(token.content, token)
    first, first_rows = tokenizers[0]
    known = {text for text, index in first.get_vocab().items() if index < first_rows}
    return [*(text for text in plain if text not in known and text not in added), *added.values()]


def changed(
    model: str, folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int | None, more: Sequence[str | AddedToken]
) -> Tokenizer | None:
    """Return a model's tokenizer with tokens removed and added, or None if nothing changes.

    Args:
        model: the model that has the tokenizer.
        folder: the model's folder.
        tokenizer: the tokenizer, which stays unchanged.
        rows: tokens with this id or a higher one are removed.
        more: tokens to add, in this order; a text becomes a plain added token.

    Raises:
        MergingError: this kind of tokenizer cannot be changed.
    """
    vocabulary = tokenizer.get_vocab()
    beyond = {text for text, index in vocabulary.items() if rows is not None and index >= rows}
    added = [token for _, token in _added(tokenizer) if token.content not in beyond]
    known, flagged = vocabulary.keys() - beyond, {token.content for token in added}
    new = [each for each in more if (each not in known if isinstance(each, str) else each.content not in flagged)]
    if not beyond and not new:
        return None
    file = _file(model, folder, tokenizer)
    if beyond:
        file = _without(model, file, beyond)
    file.add_tokens([*added, *new])
    return file


def _added(tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, AddedToken]]:
    decoder: dict[int, Any] = tokenizer.added_tokens_decoder  # transformers 5.24 annotates the values as str
    return sorted(decoder.items())


def _file(model: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise MergingError(
            f"model {model}: its tokenizer has no tokenizer.json, and so no tokens can be added or left out; choose "
            "another tokenizer_source"
        )
    file = folder / "tokenizer.json"
    if file.exists():
        return Tokenizer.from_file(str(file))
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def _without(model: str, tokenizer: Tokenizer, tokens: set[str]) -> Tokenizer:
    from tokenizers import Tokenizer

    content: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary = content["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        raise MergingError(
            f"model {model}: its tokenizer has {len(tokens)} tokens without a row in its embedding, which cannot be "
            f"left out of a vocabulary of type {content['model']['type']}; choose another tokenizer_source"
        )
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in tokens]
    content["model"]["vocab"] = {text: index for text, index in vocabulary.items() if text not in tokens}
    if "merges" in content["model"]:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in content["model"]["merges"]]
        content["model"]["merges"] = [pair for pair in pairs if tokens.isdisjoint((*pair, "".join(pair)))]
    return Tokenizer.from_str(json.dumps(content))
