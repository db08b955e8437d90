"""The book of drafts: what models wrote before, by prompt, and which of it is the reference of a prompt.

Guarantees: bounded: of a prompt it holds the completions of the parents that came first, and the most recent others,
each once. A prompt that another tokenizer or format made is another prompt. The reference of a prompt is the first
completion by a parent that passed, and never changes, so that likelihoods of it can be compared.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.generation.drafting.drafter import distinct

# Distinct completions kept of a prompt: more make no better guesses, and every pass looks at all.
_PARENTS, _RECENT = 6, 10


@dataclass(frozen=True, slots=True)
class Draft:
    """One completion.

    Attributes:
        prompt: the key of its prompt; see `prompt_key`.
        tokens: what was written, as ids.
        parent: whether a parent wrote it, or a baseline of the same standing.
        passed: whether it passed its problem's tests.
    """

    prompt: str
    tokens: tuple[int, ...]
    parent: bool = False
    passed: bool = False


@dataclass(slots=True)
class _Page:
    parents: list[tuple[int, ...]] = field(default_factory=list)
    recent: list[tuple[int, ...]] = field(default_factory=list)
    reference: tuple[int, ...] = ()


class DraftStore:
    """Completions by prompt, as entries are added one by one."""

    def __init__(self) -> None:
        self._pages: dict[str, _Page] = {}

    def drafts(self, prompt: str) -> Sequence[tuple[int, ...]]:
        """Return the distinct completions of a prompt, the most recent first, then the parents'."""
        page = self._pages.get(prompt, _Page())
        return distinct([*page.recent, *page.parents], _RECENT + _PARENTS)

    def reference(self, prompt: str) -> tuple[int, ...]:
        """Return the completion of a prompt whose likelihood models are compared by; empty if there is none."""
        return self._pages.get(prompt, _Page()).reference

    def add(self, entry: Draft) -> bool:
        """Put a completion first; return whether that says anything that the book did not hold."""
        page = self._pages.setdefault(entry.prompt, _Page())
        new = entry.parent and entry.passed and not page.reference
        if new:
            page.reference = entry.tokens
        if entry.tokens in page.parents:
            return new
        if entry.parent and (new or len(page.parents) < _PARENTS):
            page.parents.append(entry.tokens)
            return True
        new |= entry.tokens not in page.recent
        page.recent = [entry.tokens, *(tokens for tokens in page.recent if tokens != entry.tokens)][:_RECENT]
        return new

    def entries(self) -> Sequence[Draft]:
        """Return what, added to an empty book in this order, makes this one."""
        found = []
        for prompt, page in self._pages.items():
            if page.reference:
                found.append(Draft(prompt, page.reference, parent=True, passed=True))
            found += [Draft(prompt, tokens, parent=True) for tokens in page.parents if tokens != page.reference]
            found += [Draft(prompt, tokens) for tokens in reversed(page.recent)]
        return found


def prompt_key(text: str, tokens: Sequence[int]) -> str:
    """Return the key of a prompt: of its text and of the ids that a tokenizer made of it."""
    # A tokenizer that cuts this text alike and another one otherwise makes worse drafts, never other completions.
    return hashlib.sha256(text.encode() + b"\0" + array("Q", tokens).tobytes()).hexdigest()[:24]
