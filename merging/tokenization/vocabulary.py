"""The vocabulary of a merge: its tokens, and their rows in each parent's embedding.

Guarantees: computed only from tokenizers and the number of embedding rows; missing rows are filled as in mergekit
0.1.5. Pure data, no weights; embeddings.py handles the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

from merging.errors import MergingError, suggest
from merging.recipes.schema import ModelToken, TokenEmbedding, ZeroEmbedding


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a merge and of its parents.

    Attributes:
        name: its name in a plan, unique among the vocabularies of the same parents.
        ids: the id of each token of the merge.
        rows: the number of rows of the merged embedding: at least one per id, and padding.
        parents: for each parent, the row of each token that its embedding has.
        sizes: for each parent, the rows of its embedding.
        wanted: the sources of tokens' embeddings that the recipe names.
    """

    name: str
    ids: Mapping[str, int] = field(repr=False)
    rows: int
    parents: Mapping[str, Mapping[str, int]] = field(repr=False)
    sizes: Mapping[str, int]
    wanted: Mapping[str, TokenEmbedding]


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the embeddings of some parents are brought to one vocabulary.

    Attributes:
        rows: the number of rows of each of them afterwards.
        ids: (tokens,) the rows with a token, ascending; the others hold the mean of these.
        own: by parent, (rows,) the row of its own embedding that it keeps there, or -1 if it is filled.
        copied: by parent, (rows,) its row that fills that of parents without one, or -1.
        averaged: (n,) the rows that are filled with the mean of the parents that have one.

    A filled row that is neither copied nor averaged holds zeros.
    """

    rows: int
    ids: Tensor
    own: Mapping[str, Tensor]
    copied: Mapping[str, Tensor]
    averaged: Tensor

    def keeps(self, parent: str, size: int) -> bool:
        """Whether a parent's embedding of `size` rows needs no change."""
        return size == self.rows == len(self.ids) and torch.equal(self.own[parent], torch.arange(self.rows))

    def digest(self, parents: Sequence[str]) -> str:
        """Return a digest of the rows' sources that does not depend on the names of the parents, given in order."""
        found = sha256(f"{self.rows} {[parent in self.copied for parent in parents]}".encode())
        copied = [self.copied[parent] for parent in parents if parent in self.copied]
        for rows in (self.ids, self.averaged, *(self.own[parent] for parent in parents), *copied):
            found.update(len(rows).to_bytes(8, "little") + rows.numpy().tobytes())
        return found.hexdigest()


def align(vocabulary: Vocabulary, parents: Sequence[str], base: str | None) -> Alignment:
    """Decide the source of each row, for parents that are merged together.

    A parent keeps the rows of its own tokens. A token that it lacks gets the row that `wanted` names; else
    the row of the only parent that has it, or of the base, or the mean over all that have it; else zeros.

    Args:
        vocabulary: the vocabulary of the merge.
        parents: the parents whose embeddings are merged, in the recipe's order.
        base: the base model, if there is one.

    Raises:
        MergingError: `wanted` names a model that is not a parent, or a token that the model does not have.
    """
    own = {parent: torch.full((vocabulary.rows,), -1) for parent in parents}
    copied = {parent: torch.full((vocabulary.rows,), -1) for parent in parents}
    averaged = []
    for parent in parents:
        row = vocabulary.parents[parent]
        found = [(index, row[token]) for token, index in vocabulary.ids.items() if token in row]
        own[parent][[index for index, _ in found]] = torch.tensor([at for _, at in found], dtype=torch.int64)
    everywhere = torch.stack(list(own.values())).ge(0).all(dim=0).tolist()
    for token, index in vocabulary.ids.items():
        wanted = vocabulary.wanted.get(token)
        forced = wanted is not None and wanted.force
        if everywhere[index] and not forced:
            continue
        if wanted is not None:
            origin = _wanted(vocabulary, parents, token, wanted)
            for table in own.values() if forced else ():
                table[index] = -1
        else:
            having = [parent for parent in parents if token in vocabulary.parents[parent]]
            if len(having) > 1 and base not in having:
                averaged.append(index)
                continue
            origin = _row(vocabulary, having[0] if len(having) == 1 else base, token) if having else None
        if origin:
            copied[origin[0]][index] = origin[1]
    ids = torch.tensor(sorted(vocabulary.ids.values()), dtype=torch.int64)
    used = {parent: rows for parent, rows in copied.items() if bool(rows.ge(0).any())}
    return Alignment(vocabulary.rows, ids, own, used, torch.tensor(averaged, dtype=torch.int64))


def _row(vocabulary: Vocabulary, parent: str | None, token: str) -> tuple[str, int] | None:
    return (parent, vocabulary.parents[parent][token]) if parent else None


def _wanted(
    vocabulary: Vocabulary, parents: Sequence[str], token: str, wanted: TokenEmbedding
) -> tuple[str, int] | None:
    """Return the parent and the row that a recipe names for a token, or None for zeros."""
    key = f"tokenizer.tokens.{token}.source"
    source = wanted.source
    if source is None:
        raise MergingError(f"{key}: is missing, and some parents do not have the token; name a model that has it")
    if isinstance(source, ZeroEmbedding):
        return None
    model = source.model if isinstance(source, ModelToken) else source
    if model not in parents:
        raise MergingError(
            f"{key}: {model} is not a parent of this merge{suggest(model, parents)} (parents: {', '.join(parents)})"
        )
    if isinstance(source, ModelToken) and source.token_id is not None:
        if not 0 <= source.token_id < vocabulary.sizes[model]:
            raise MergingError(
                f"{key}.token_id: {source.token_id} is outside the {vocabulary.sizes[model]} rows of {model}"
            )
        return model, source.token_id
    text = source.token if isinstance(source, ModelToken) and source.token is not None else token
    if text not in vocabulary.parents[model]:
        raise MergingError(
            f"{key}: {model} has no token {text!r}; give a model that has it, {{kind: model_token}} with a token that "
            "it has, or {kind: zero}"
        )
    return model, vocabulary.parents[model][text]
