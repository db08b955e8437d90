"""The draft store: completions of earlier models by prompt, and the reference of each prompt.

Guarantees: it is bounded: per prompt it keeps the first completions of parents and the most recent others, each once.
The same text in another tokenizer or prompt format is another prompt. The reference of a prompt is the first passing
completion of a parent. It changes only if it is withdrawn, so that its likelihoods can be compared.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.generation.drafting.drafter import distinct

# Distinct completions kept per prompt: more do not improve the guesses, and every pass looks at all of them.
_PARENTS, _RECENT = 6, 10


@dataclass(frozen=True, slots=True)
class Draft:
    """A completion that may help to generate others.

    Attributes:
        prompt: the key of its prompt; see `prompt_key`.
        tokens: its token ids.
        parent: whether a parent or the average generated it.
        passed: whether it passed its problem's tests.
    """

    prompt: str
    tokens: tuple[int, ...]
    parent: bool = False
    passed: bool = False


@dataclass(slots=True)
class _OfPrompt:
    parents: list[tuple[int, ...]] = field(default_factory=list)
    recent: list[tuple[int, ...]] = field(default_factory=list)
    reference: tuple[int, ...] = ()
    solution: tuple[int, ...] = ()


class DraftStore:
    """Completions by prompt, added one by one."""

    def __init__(self) -> None:
        self._prompts: dict[str, _OfPrompt] = {}

    def drafts(self, prompt: str) -> Sequence[tuple[int, ...]]:
        """Return the distinct completions of a prompt: the most recent ones first, then those of parents."""
        kept = self._prompts.get(prompt, _OfPrompt())
        return distinct([*kept.recent, *kept.parents], _RECENT + _PARENTS)

    def reference(self, prompt: str) -> tuple[int, ...]:
        """Return the completion whose likelihood compares models; empty if there is none."""
        return self._prompts.get(prompt, _OfPrompt()).reference

    def solution(self, prompt: str) -> tuple[int, ...]:
        """Return a completion that has passed: the reference, else the first of a trial; empty if there is none."""
        kept = self._prompts.get(prompt, _OfPrompt())
        return kept.reference or kept.solution

    def add(self, entry: Draft) -> bool:
        """Add a completion as the most recent one; return whether it changes what the store holds."""
        kept = self._prompts.setdefault(entry.prompt, _OfPrompt())
        if entry.passed and not kept.solution:
            kept.solution = entry.tokens
        new = entry.parent and entry.passed and not kept.reference
        if new:
            kept.reference = entry.tokens
        if entry.tokens in kept.parents:
            return new
        if entry.parent and (new or len(kept.parents) < _PARENTS):
            kept.parents.append(entry.tokens)
            return True
        new |= entry.tokens not in kept.recent
        kept.recent = [entry.tokens, *(tokens for tokens in kept.recent if tokens != entry.tokens)][:_RECENT]
        return new

    def withdraw(self, entry: Draft) -> None:
        """Stop using a completion as the reference of its prompt; it stays a draft."""
        if self.reference(entry.prompt) == entry.tokens:
            self._prompts[entry.prompt].reference = ()


def prompt_key(text: str, tokens: Sequence[int]) -> str:
    """Return the key of a prompt, made of its text and its token ids."""
    # Tokenizers that agree on this text may differ on others: then drafts get worse, but completions stay the same.
    return hashlib.sha256(text.encode() + b"\0" + array("Q", tokens).tobytes()).hexdigest()[:24]
