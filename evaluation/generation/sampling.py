"""Draws: the random numbers of completions that are sampled.

Guarantees: the numbers of a completion depend on the seed, the problem and the sample alone. Two models draw with the
same ones (common random numbers), and where their probabilities are nearly the same mostly the same tokens: what an
earlier candidate drew is a good guess for the next one, and their scores differ by their weights more than by luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a problem is answered.

    Attributes:
        samples: completions of each problem.
        temperature: 0 takes the likeliest token each time, of which more than one sample would be the same.
        top_p: see `Draw`.
        seed: of the random numbers.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for settings that make no sense, naming the one."""
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: needs to be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: needs to be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: needs to be above 0, and 1 at most")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples {self.samples}: are all the same at temperature 0; give a temperature, as 0.2")
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(f"top_p {self.top_p}: changes nothing at temperature 0; give a temperature, as 0.2")

    def draw(self, problem: str, sample: int) -> Draw | None:
        """Return how a sample of a problem is drawn; None: its tokens are the likeliest."""
        if self.temperature == 0:
            return None
        return Draw(f"{self.seed} {sample} {problem}", self.temperature, self.top_p)


@dataclass(frozen=True, slots=True)
class Draw:
    """How the tokens of one completion are drawn.

    Attributes:
        key: what tells this completion from others.
        temperature: that the logits are divided by, above 0.
        top_p: tokens are drawn of the fewest, likeliest first, that together have this probability (the nucleus,
            arXiv:1904.09751); within (0, 1].
    """

    key: str
    temperature: float
    top_p: float = 1.0

    @property
    def seed(self) -> int:
        """A number of 63 bits for generators of others."""
        return int.from_bytes(_digest(self.key), "little") >> 1

    def uniforms(self, start: int, count: int) -> list[float]:
        """Return the random numbers, in [0, 1), of the completion's tokens from `start` on."""
        digests = (_digest(f"{self.key} {position}") for position in range(start, start + count))
        return [(int.from_bytes(digest, "little") >> 11) / 2**53 for digest in digests]


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
