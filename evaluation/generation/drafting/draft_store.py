"""The draft store: completions of earlier models by prompt, and the reference of each prompt.

Guarantees: it is bounded: per prompt it keeps the first completions of parents and the most recent others, each once.
The same text in another tokenizer or prompt format is another prompt. The reference of a prompt is the first passing
completion of a parent. It never changes, so that its likelihoods can be compared.
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

    def is_new(self, entry: Draft) -> bool:
        """Whether a completion would change what the store holds, apart from the order of drafts."""
        kept = self._prompts.get(entry.prompt, _OfPrompt())
        if entry.passed and not (kept.reference if entry.parent else kept.solution):
            return True
        if entry.tokens in kept.parents:
            return False
        return (entry.parent and len(kept.parents) < _PARENTS) or entry.tokens not in kept.recent

    def add(self, entry: Draft) -> None:
        """Add a completion as the most recent one."""
        kept = self._prompts.setdefault(entry.prompt, _OfPrompt())
        if entry.passed and not kept.solution:
            kept.solution = entry.tokens
        is_reference = entry.parent and entry.passed and not kept.reference
        if is_reference:
            kept.reference = entry.tokens
        if entry.tokens in kept.parents:
            return
        if entry.parent and (is_reference or len(kept.parents) < _PARENTS):
            kept.parents.append(entry.tokens)
        else:
            kept.recent = [entry.tokens, *(tokens for tokens in kept.recent if tokens != entry.tokens)][:_RECENT]


def prompt_key(text: str, tokens: Sequence[int]) -> str:
    """Return the key of a prompt, made of its text and its token ids."""
    # Tokenizers that agree on this text may differ on others: then drafts get worse, but completions stay the same.
    return hashlib.sha256(text.encode() + b"\0" + array("Q", tokens).tobytes()).hexdigest()[:24]
