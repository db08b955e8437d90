"""Sampling: how many completions per problem, and the random numbers that draw them.

Guarantees: the numbers of a completion depend only on the seed, the problem and the sample. All models draw with the
same ones (common random numbers), so that models with nearly the same probabilities draw mostly the same tokens: a
completion of an earlier candidate is a good draft, and scores differ by the weights more than by luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are chosen.

    Attributes:
        samples: completions per problem.
        temperature: 0 takes the likeliest token each time, so that all samples would be the same.
        top_p: see `TokenDraws`.
        seed: the seed of the random numbers.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that makes no sense; the message names it."""
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: needs to be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: needs to be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: needs to be above 0 and at most 1")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples {self.samples}: all samples are the same at temperature 0; give a temperature, such as 0.2"
            )
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(f"top_p {self.top_p}: changes nothing at temperature 0; give a temperature, such as 0.2")

    def draw(self, problem: str, sample: int) -> TokenDraws | None:
        """Return how a sample of a problem is drawn; None takes the likeliest tokens."""
        if self.temperature == 0:
            return None
        return TokenDraws(f"{self.seed} {sample} {problem}", self.temperature, self.top_p)


@dataclass(frozen=True, slots=True)
class TokenDraws:
    """How the tokens of one completion are drawn.

    Attributes:
        key: identifies the completion.
        temperature: the number, above 0, that divides the logits.
        top_p: the probability of the nucleus, within (0, 1]: tokens are drawn from the fewest tokens, likeliest first,
            that together have it (arXiv:1904.09751).
    """

    key: str
    temperature: float
    top_p: float = 1.0

    @property
    def seed(self) -> int:
        """A 63-bit seed for other random generators."""
        return int.from_bytes(_digest(self.key), "little") >> 1

    def uniforms(self, start: int, count: int) -> list[float]:
        """Return the random numbers in [0, 1) for `count` tokens, from position `start` on."""
        digests = (_digest(f"{self.key} {position}") for position in range(start, start + count))
        return [(int.from_bytes(digest, "little") >> 11) / 2**53 for digest in digests]


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
