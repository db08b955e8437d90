"""Drafts: guesses of what a model will write next, from what similar models wrote after the same prompt.

What was generated so far and begins a known completion goes on as most of those do that agree (the majority path of a
trie); else as a text that counts goes on; else as after the last place where its end stands in the row's own text or
in a known completion (prompt lookup; SuffixDecoding, arXiv:2411.04975).

Guarantees: no more than guesses. A generator verifies them, so that a bad one costs time alone.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, islice, pairwise, takewhile
from operator import mul
from typing import Literal, TypeAlias

from evaluation.generation.drafting.numbered_text import NO_DIGITS, WINDOW, continued

_TYPE = "I"
_WIDTH = array(_TYPE).itemsize

# Where a guess is from: completions that agree with everything generated (all of several, one alone, most of them), the
# step of a text that counts, or the place after as many tokens as also stand elsewhere.
Source: TypeAlias = Literal["all", "one", "most", "counted"] | int
_Path: TypeAlias = tuple[Sequence[int], Sequence[Source]]
_LONGEST_MATCH, _SHORTEST_MATCH = 16, 2
# The part of guesses that is expected to hold before any was seen, and how many guesses that is worth as experience.
_PRIOR: dict[Source, float] = {"all": 0.98, "one": 0.97, "most": 0.7, "counted": 0.9}
_PRIOR |= {length: 1 - 1.1 / length for length in range(_SHORTEST_MATCH, _LONGEST_MATCH + 1)}
_PRIOR_GUESSES = 30
# The most guesses where nothing agrees with everything generated: twice what held last time, within these.
_FEWEST, _FIRST, _MOST = 4, 16, 64


class Trust:
    """How often guesses of each source hold, as seen so far."""

    def __init__(self) -> None:
        self._seen = {source: [_PRIOR_GUESSES * part, float(_PRIOR_GUESSES)] for source, part in _PRIOR.items()}

    def __getitem__(self, source: Source) -> float:
        held, tried = self._seen[source]
        return held / tried

    def learn(self, sources: Sequence[Source], held: int) -> None:
        """Take note that the first ``held`` guesses of these sources held, and the next one, if any, did not."""
        for index, source in enumerate(sources[: held + 1]):
            self._seen[source][0] += index < held
            self._seen[source][1] += 1


class Drafter:
    """The guesses for one prompt.

    Args:
        prompt: token ids.
        known: completions of it, likelier ones first.
        trust: how far a source is worth a guess; learns.
        digits: of the tokenizer, see `digits_of`; without them a text that counts is not understood.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        known: Sequence[Sequence[int]],
        trust: Trust,
        digits: Mapping[int, str] = NO_DIGITS,
    ) -> None:
        self._agreeing = [tuple(completion) for completion in known]
        self._generated_tokens: tuple[int, ...] = ()
        self._texts = [_packed(completion) for completion in self._agreeing]
        self._own = _packed(prompt)
        self._trust = trust
        self._digits = digits
        self._sources: Sequence[Source] = ()
        self._cap = _FIRST

    def propose(self, generated: Sequence[int], most: int, certainty: float) -> Sequence[int]:
        """Return tokens that may follow what was generated so far.

        Args:
            generated: tokens; calls go on from one another, never back.
            most: how many guesses there may be.
            certainty: the least probability that a guess, with all before it, holds.
        """
        self._advance(generated)
        if any(len(known) > len(generated) for known in self._agreeing):
            path, self._sources = self._majority(most, certainty)
        else:
            most = min(most, self._cap)
            path, self._sources = self._counted(most, certainty) or self._found(most, certainty) or ((), ())
        return path

    def learn(self, held: int) -> None:
        """Take note of how many of the last proposal's guesses held."""
        self._trust.learn(self._sources, held)
        if self._sources and (self._sources[0] == "counted" or isinstance(self._sources[0], int)):
            self._cap = min(_MOST, max(_FEWEST, 2 * held))
        self._sources = ()

    def _advance(self, generated: Sequence[int]) -> None:
        start = len(self._generated_tokens)
        new = tuple(generated[start:])
        self._generated_tokens += new
        self._own += _packed(new)
        self._agreeing = [known for known in self._agreeing if known[start : start + len(new)] == new]

    def _majority(self, most: int, certainty: float) -> _Path:
        path: list[int] = []
        sources: list[Source] = []
        end, likely = len(self._generated_tokens), 1.0
        agreeing = [known for known in self._agreeing if len(known) > end]
        while agreeing and len(path) < most:
            # Of tokens that equally many wrote, the one that came first.
            token, count = Counter(known[end] for known in agreeing).most_common(1)[0]
            source: Source = "one" if len(agreeing) == 1 else "all" if count == len(agreeing) else "most"
            likely *= self._trust[source]
            if likely < certainty:
                break
            path.append(token)
            sources.append(source)
            end += 1
            agreeing = [known for known in agreeing if known[end - 1] == token and len(known) > end]
        return path, sources

    def _counted(self, most: int, certainty: float) -> _Path | None:
        tokens = continued(_unpacked(self._own[-WINDOW * _WIDTH :]), self._digits, most)
        return self._while_likely(tokens, ["counted"] * len(tokens), certainty) if tokens else None

    def _found(self, most: int, certainty: float) -> _Path | None:
        shortest = self._own[-_SHORTEST_MATCH * _WIDTH :]
        texts = [text for text in self._texts if shortest in text]
        for length in range(min(_LONGEST_MATCH, len(self._own) // _WIDTH), _SHORTEST_MATCH - 1, -1):
            wanted = self._own[-length * _WIDTH :]
            for text in (self._own, *texts):
                if tokens := _after(wanted, text, most, repeats=text is self._own):
                    # A guess that holds makes the match longer by one.
                    sources = [min(length + index, _LONGEST_MATCH) for index in range(len(tokens))]
                    return self._while_likely(tokens, sources, certainty)
        return None

    def _while_likely(self, tokens: Sequence[int], sources: Sequence[Source], certainty: float) -> _Path:
        likely = accumulate((self._trust[source] for source in sources[: len(tokens)]), mul)
        count = sum(1 for _ in takewhile(lambda each: each >= certainty, likely))
        return tokens[:count], sources[:count]


def distinct(completions: Sequence[Sequence[int]], most: int) -> list[tuple[int, ...]]:
    """Return the first ``most`` completions that differ; one that another begins with says nothing more and is left."""
    ordered = sorted({tuple(completion) for completion in completions if completion})
    prefixes = {one for one, other in pairwise(ordered) if other[: len(one)] == one}
    kept = dict.fromkeys(tuple(completion) for completion in completions if completion)
    return [completion for completion in kept if completion not in prefixes][:most]


def _packed(tokens: Sequence[int]) -> bytes:
    return array(_TYPE, tokens).tobytes()


def _unpacked(packed: bytes) -> Sequence[int]:
    return array(_TYPE, packed).tolist()


def _after(wanted: bytes, text: bytes, most: int, repeats: bool) -> Sequence[int]:
    """Return up to ``most`` tokens that follow the last place where these stand in a text.

    Args:
        wanted: tokens.
        text: tokens.
        most: how many to return.
        repeats: whether the text ends with the tokens; they are looked for before that, and what follows goes on over
            the text's end: a text that has begun to repeat itself is guessed to do so for ever.
    """
    place = _last_place(text[:-_WIDTH] if repeats else text, wanted)
    following = _unpacked(text[place + len(wanted) :][: most * _WIDTH]) if place >= 0 else []
    return list(islice(cycle(following), most)) if repeats else following


def _last_place(text: bytes, wanted: bytes) -> int:
    """Return the last byte at which some whole tokens stand in a text, or -1."""
    place = text.rfind(wanted)
    while place >= 0 and place % _WIDTH:
        place = text.rfind(wanted, 0, place + len(wanted) - 1)
    return place
