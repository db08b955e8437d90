"""The special tokens of a merge: the ids that begin, end and pad a text, in the tokenizer and in every config."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from merging.tokenization.chat_templates import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids: TypeAlias = int | list[int] | None
"""What a config has for a role: an id, several, or none."""
ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids of a merge's tokenizer for each role, and the new ids of the config source's tokens.

    Attributes:
        ids: by role, the tokenizer's id, or None if it has no such token.
        moved: by old id, the new id of each of the config source's tokens; None if all keep theirs.
        ends: further ids that end an answer: the token with which the chat template closes a turn.
    """

    ids: Mapping[str, int | None]
    moved: Mapping[int, int] | None
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, moved: Mapping[int, int] | None) -> SpecialTokens:
        """Read the ids off a tokenizer."""
        end = turn_end(tokenizer)
        return cls({role: getattr(tokenizer, role) for role in ROLES}, moved, () if end is None else (end,))

    def ending(self, ends: Collection[int]) -> SpecialTokens:
        """Return these with further ids that end an answer."""
        return replace(self, ends=(*self.ends, *ends))

    def put(self, config: object, *, generates: bool = False) -> None:
        """Set the ids of a transformers config; `generates` says that it is a generation config."""
        found = {role: getattr(config, role, None) for role in ROLES}
        for role, value in self.values(found, generates=generates).items():
            setattr(config, role, value)

    def values(self, found: Mapping[str, Ids], *, generates: bool = False) -> dict[str, Ids]:
        """Return the ids for a config, by role, given the ids that it has now.

        A list of ids (several tokens end a text) is kept if the tokenizer's is among them. A generation config lists
        every token that ends an answer.
        """
        values = {role: self._value(role, found.get(role)) for role in ROLES}
        eos = values["eos_token_id"]
        listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
        if generates and (more := [end for end in dict.fromkeys(self.ends) if end not in listed]):
            values["eos_token_id"] = [*listed, *more]
        return {role: value for role, value in values.items() if value is not None or role in found}

    def _value(self, role: str, found: Ids) -> Ids:
        own = self.ids[role]
        if isinstance(found, list):
            kept = [index for index in map(self._now, found) if index is not None]
            return kept if own in kept or (own is None and kept) else own
        return self._now(found) if own is None else own

    def _now(self, index: int | None) -> int | None:
        return index if self.moved is None or index is None else self.moved.get(index)
