"""The drafter: guesses the next tokens of a completion, mostly from completions of similar models.

If known completions begin with all tokens so far, the guess is how most of them continue (the majority path of a
trie). Otherwise the guess continues a numbered text, or copies the tokens after the last place where the newest tokens
occur in the text itself or in a known completion (prompt lookup; SuffixDecoding, arXiv:2411.04975).

Guarantees: the generator verifies every guess, so a bad one only costs time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, cycle, islice, pairwise, takewhile
from operator import mul
from typing import Literal, TypeAlias

from evaluation.generation.drafting.numbered_text import NO_DIGITS, WINDOW, continued

# Where a guess comes from: known completions that agree with all tokens so far (all of several, a single one, or most),
# a numbered text, or an earlier occurrence of this many of the newest tokens.
GuessSource: TypeAlias = Literal["all", "one", "most", "numbered"] | int
_Path: TypeAlias = tuple[Sequence[int], Sequence[GuessSource]]
_LONGEST_MATCH, _SHORTEST_MATCH = 16, 2
# The fraction of guesses expected to hold before any is made, and how many guesses this expectation counts as.
_PRIOR: dict[GuessSource, float] = {"all": 0.98, "one": 0.97, "most": 0.7, "numbered": 0.9}
_PRIOR |= {length: 1 - 1.1 / length for length in range(_SHORTEST_MATCH, _LONGEST_MATCH + 1)}
_PRIOR_GUESSES = 30
# The most guesses if no completion agrees with all tokens so far: twice as many as held last time, within these bounds.
_FEWEST, _FIRST, _MOST = 4, 16, 64


class Trust:
    """How often the guesses of each source have held so far."""

    def __init__(self) -> None:
        self._seen = {source: [_PRIOR_GUESSES * part, float(_PRIOR_GUESSES)] for source, part in _PRIOR.items()}

    def __getitem__(self, source: GuessSource) -> float:
        held, tried = self._seen[source]
        return held / tried

    def learn(self, sources: Sequence[GuessSource], held: int) -> None:
        """Learn that the first ``held`` guesses of these sources held, and that the next one, if any, did not."""
        for index, source in enumerate(sources[: held + 1]):
            self._seen[source][0] += index < held
            self._seen[source][1] += 1


class Drafter:
    """Makes the guesses for one prompt.

    Args:
        prompt: the prompt's token ids.
        known: completions of it, likelier ones first.
        trust: the trust in each source, shared by all prompts; it learns.
        digits: the tokenizer's digits, see `digits_of`; without them numbered text is not recognized.
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
        self._digits, self._digit_characters = digits, _packed(list(digits))
        self._sources: Sequence[GuessSource] = ()
        self._cap = _FIRST

    def propose(self, generated: Sequence[int], most: int, certainty: float) -> Sequence[int]:
        """Return guesses of the next tokens.

        Args:
            generated: all tokens so far; each call continues the one before.
            most: the most guesses.
            certainty: the least probability that a guess and all before it hold.
        """
        self._advance(generated)
        if any(len(known) > len(generated) for known in self._agreeing):
            path, self._sources = self._majority(most, certainty)
        else:
            most = min(most, self._cap)
            path, self._sources = self._numbered(most, certainty) or self._found(most, certainty) or ((), ())
        return path

    def learn(self, held: int) -> None:
        """Learn how many guesses of the last proposal held."""
        self._trust.learn(self._sources, held)
        if self._sources and (self._sources[0] == "numbered" or isinstance(self._sources[0], int)):
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
        sources: list[GuessSource] = []
        end, likely = len(self._generated_tokens), 1.0
        agreeing = [known for known in self._agreeing if len(known) > end]
        while agreeing and len(path) < most:
            # Of equally common tokens, take the first.
            token, count = Counter(known[end] for known in agreeing).most_common(1)[0]
            source: GuessSource = "one" if len(agreeing) == 1 else "all" if count == len(agreeing) else "most"
            likely *= self._trust[source]
            if likely < certainty:
                break
            path.append(token)
            sources.append(source)
            end += 1
            agreeing = [known for known in agreeing if known[end - 1] == token and len(known) > end]
        return path, sources

    def _numbered(self, most: int, certainty: float) -> _Path | None:
        window = self._own[-WINDOW:]
        # A quick check first: in a numbered text, the tokens after the last whole number have occurred before.
        whole = window.rstrip(self._digit_characters)
        last = max(map(whole.rfind, self._digit_characters), default=-1)
        if whole.find(whole[last + 1 :], 0, max(0, last)) < 0:
            return None
        tokens = continued(_unpacked(window), self._digits, most)
        return self._while_likely(tokens, ["numbered"] * len(tokens), certainty) if tokens else None

    def _found(self, most: int, certainty: float) -> _Path | None:
        match = _longest_match(self._own, self._texts) if most > 0 else None
        if match is None:
            return None
        length, text, end = match
        following = _unpacked(text[end : end + most])
        # A text that has begun to repeat itself is expected to go on doing so, beyond its end.
        tokens = list(islice(cycle(following), most)) if text is self._own else following
        # Each guess that holds makes the match one token longer.
        sources = [min(length + index, _LONGEST_MATCH) for index in range(len(tokens))]
        return self._while_likely(tokens, sources, certainty)

    def _while_likely(self, tokens: Sequence[int], sources: Sequence[GuessSource], certainty: float) -> _Path:
        likely = accumulate((self._trust[source] for source in sources[: len(tokens)]), mul)
        count = sum(1 for _ in takewhile(lambda each: each >= certainty, likely))
        return tokens[:count], sources[:count]


def distinct(completions: Sequence[Sequence[int]], most: int) -> list[tuple[int, ...]]:
    """Return the first ``most`` distinct completions, leaving out those that another one begins with."""
    ordered = sorted({tuple(completion) for completion in completions if completion})
    prefixes = {one for one, other in pairwise(ordered) if other[: len(one)] == one}
    kept = dict.fromkeys(tuple(completion) for completion in completions if completion)
    return [completion for completion in kept if completion not in prefixes][:most]


def _packed(tokens: Sequence[int]) -> str:
    """Return tokens as the characters of a string, because Python searches strings fastest."""
    return "".join(map(chr, tokens))


def _unpacked(packed: str) -> Sequence[int]:
    return list(map(ord, packed))


def _longest_match(own: str, texts: Sequence[str]) -> tuple[int, str, int] | None:
    """Find the longest match of a text's newest tokens, earlier in the text or in another text.

    Args:
        own: the text.
        texts: the other texts; if several texts have a match, the text itself comes first.

    Returns:
        The number of tokens, the text of the match, and the end of its last occurrence; None if no match is long enough
        and has tokens after it.
    """
    longest = min(_LONGEST_MATCH, len(own))
    best = None
    places = [(own, own[:-1]), *((text, text) for text in texts)]
    # Most matches have the greatest length, or are short. A text without a short match has no longer one.
    for length in (longest, *range(_SHORTEST_MATCH, longest)) if longest >= _SHORTEST_MATCH else ():
        wanted = own[-length:]
        found = [(text, searched, searched.rfind(wanted)) for text, searched in places]
        ends = ((length, text, at + length) for text, _, at in found if 0 <= at < len(text) - length)
        best = next(ends, best)
        if length < longest:
            places = [(text, searched) for text, searched, at in found if at >= 0]
        elif best:
            return best
        if not places:
            break
    return best
