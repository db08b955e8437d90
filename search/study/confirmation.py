"""A confirmation: more evidence for the finalists of a search, gathered in rounds; its plan is fixed when it begins.

In each round every parent with a score and every finalist generates one completion per problem. The split ``confirm``
of the search says how many rounds there are, and how the outcomes are read.

Guarantees: the levels of its looks depend only on this plan and the number of rounds, not on any result. (A look that
the search makes in between lowers the levels after it.)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a leaderboard is read without waiting for it
    from evaluation import Sampling


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The plan of a confirmation.

    Attributes:
        finalists: the numbers of the trials, the best first.
        sources: the sources of problems in addition to the report split: names, absolute paths or hub ids.
        task_ids: the ids of all problems, those of the report split first.
        digest: the digest of all problems.
        temperature: the temperature of the samples; with 0, decoding is greedy and there is a single round.
        top_p: see `Sampling`.
        seed: the seed from which each round's seed is drawn.
    """

    finalists: tuple[int, ...]
    sources: tuple[str, ...]
    task_ids: tuple[str, ...]
    digest: str
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Confirmation:
        """Return the confirmation with these fields, as read from JSON."""
        listed = {key: tuple(plain[key]) for key in ("finalists", "sources", "task_ids")}
        return cls(**{**plain, **listed})

    def sampling(self, number: int) -> Sampling:
        """Return the sampling of a round, counted from 1."""
        from evaluation import Sampling

        seed = random.Random(f"{self.seed} confirm {number}").getrandbits(32)
        return Sampling(1, self.temperature, self.top_p, seed)
