"""Looks at the report split: when a search may test its best trial there, and how much of alpha each look costs.

Every look tests at a level that is its part of `ALPHA`. Whatever the search does and however often it is resumed, the
parts, with those of earlier searches that looked at its report split, sum to at most `ALPHA`. So by the union bound, a
search in which no merge is better than every parent says "proven" with at most this probability, if the test keeps its
level (see `evaluation.scoring.p_better`). The looks need not be independent, but neither their times nor their parts
may depend on results on the report split: they follow only from the search split and the plan. (A look that proves its
trial ends the search. The looks that it thereby cancels could only have added false claims.)

The planned looks while trials run share `_WHILE_RUNNING` of alpha equally, and what one leaves unspent goes to the
next. Each later look, at an end or beyond the planned trials, takes half of the rest. A confirmation has one look after
each round, and each takes twice as much as the one before: the rounds have the same problems, so that the last look
sees most of what all see. So most of alpha is kept for the end, as O'Brien and Fleming do (doi:10.2307/2530245): a
large gain is proven at a small level, and a small gain only after a long search. The exact test is discrete, so that
its true level is lower still.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ALPHA: Final = 0.05
"""The greatest probability of "proven" if no merge is better than every parent."""
SPENT: Final = "the searches that this one starts from have used up the looks that its report split allows"
"""The reason why nothing can be proven once alpha is spent."""
_WHILE_RUNNING = 0.3
_FIRST, _GROWTH = 4, 2.5


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the report split that has begun.

    Attributes:
        due: how many trials had to be over; None at an end of the search.
        alpha: the level of its test, for all its finalists together.
        finalists: the numbers of the trials that it tests, best first; none if it stands for the looks of earlier
            searches.
        rounds: how many rounds of a confirmation it reads; None for a look at the report split.
    """

    due: int | None
    alpha: float
    finalists: tuple[int, ...]
    rounds: int | None = None


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of a search.

    Attributes:
        planned: the number of trials that the search was to have when it was created.
        made: the looks that have begun, in order.
    """

    planned: int = 0
    made: tuple[Look, ...] = ()

    @property
    def budget(self) -> float:
        """This search's own part of alpha: earlier searches that looked at its report split have spent the rest."""
        return ALPHA - sum(look.alpha for look in self.made if not look.finalists)

    @property
    def left(self) -> float:
        """The part of alpha that is not spent."""
        return ALPHA - sum(look.alpha for look in self.made)

    @property
    def times(self) -> tuple[int, ...]:
        """The numbers of trials after which the planned looks are due, except the one at the end."""
        return tuple(itertools.takewhile(lambda due: due < self.planned, _times()))

    def at_end(self, trials: int, over: int = 0) -> float:
        """Return the lowest possible level of the next look at an end, whatever is spent before.

        Args:
            trials: the number of trials that the search is to have at that end.
            over: how many of them are over.
        """
        first = self.due(over) or over
        to_come = [due for due in itertools.takewhile(lambda due: due <= trials, _times()) if due >= first]
        unplanned = [due for due in to_come if due > self._last and (self._has_ended or due not in self.times)]
        left = self.left if self._has_ended else min(self.left, (1 - _WHILE_RUNNING) * self.budget)
        return left * 0.5 ** (len(unplanned) + 1)

    def at_round(self, number: int, rounds: int) -> float:
        """Return the level of the look after a round of a confirmation, counted from 1, if it is made next.

        Each look takes twice as much as the one before, and the last takes half of what was left before the first.
        """
        return self.left / (2.0 ** (rounds - number + 1) - 1 + 2.0 ** (1 - number))

    def due(self, over: int) -> int | None:
        """Return the time of the look that is due when this many trials are over; None if none is due or left."""
        due = max(itertools.takewhile(lambda due: due <= over, _times()), default=None)
        return due if due is not None and due > self._last else None

    def alpha(self, due: int | None) -> float:
        """Return the level of the next look if it is due at that time; None stands for an end."""
        times = self.times
        if due not in times or self._has_ended:
            return self.left / 2
        share = (times.index(due) + 1) / len(times)
        return _WHILE_RUNNING * self.budget * share - (self.budget - self.left)

    @property
    def _last(self) -> int:
        """The time of the last look while trials ran; 0 before the first."""
        return max((look.due for look in self.made if look.due is not None), default=0)

    @property
    def _has_ended(self) -> bool:
        """Whether a look at an end of this search was made."""
        return any(look.due is None and look.finalists for look in self.made)


def _times() -> Iterator[int]:
    return (round(_FIRST * _GROWTH**count) for count in itertools.count())
