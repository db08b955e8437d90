"""A confirmation: more evidence for the finalists of a search, gathered in rounds, and fixed at its beginning.

In each round every parent with a score and every finalist generates one completion per problem. The split ``confirm``
of the search says how many rounds it has, and how the outcomes are read.

Guarantees: the levels of its looks follow from what is here and from the number of rounds, and from nothing it shows.
(A look that the search makes in between lowers those after it.)
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
    """What a confirmation is of.

    Attributes:
        finalists: the numbers of the trials, the best first.
        sources: of the problems beside those of the report split: names, absolute paths or hub ids.
        task_ids: of all problems, those of the report split first.
        digest: of all problems.
        temperature: of the samples; with 0 it is greedy, and has a single round.
        top_p: see `Sampling`.
        seed: from which that of each round is drawn.
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
        """Return the confirmation whose fields these are, as JSON keeps them."""
        listed = {key: tuple(plain[key]) for key in ("finalists", "sources", "task_ids")}
        return cls(**{**plain, **listed})

    def sampling(self, number: int) -> Sampling:
        """Return how a round, counted from 1, draws its completions."""
        from evaluation import Sampling

        seed = random.Random(f"{self.seed} confirm {number}").getrandbits(32)
        return Sampling(1, self.temperature, self.top_p, seed)
