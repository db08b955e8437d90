"""Power: how much better a merge must be for a search to prove it, computed before the search costs a night.

Guarantees: exact for the test at the end of a search with one sample per problem, at the lowest level that the test may
have. Looks while trials run may prove a merge earlier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final

from search.board.ranking import best_parent
from search.counts import counted
from search.study.looks import SPENT
from search.study.outcomes import Split
from search.study.record import TrialRecord

if TYPE_CHECKING:
    from search.space.config import SearchConfig

ASSUMED_DISCORDANCE: Final = 0.3
"""The fraction of problems on which two models are assumed to differ until two have been scored."""
_POWER = 0.8


def power(problems: int, gain: float, discordance: float, alpha: float) -> float:
    """Return the probability that the one-sided exact McNemar test proves a gain.

    Args:
        problems: the number of problems that both models are scored on.
        gain: the fraction of them that the better model passes in addition.
        discordance: the fraction on which the two differ; it is at least the gain.
        alpha: the level of the test.
    """
    import numpy as np
    from scipy.stats import binom

    discordance = max(discordance, gain)
    discordant = np.arange(problems + 1)
    enough = binom.isf(alpha, discordant, 0.5)  # more wins than these are significant
    wins = (discordance + gain) / (2 * discordance) if discordance else 0.5
    proven = binom.sf(enough, discordant, wins)
    return float(binom.pmf(discordant, problems, discordance) @ proven)


def least_gain(problems: int, discordance: float, alpha: float) -> float | None:
    """Return the least gain, in steps of 0.1 points, that is proven with probability 0.8; None if there is none."""
    steps = range(1001)
    least = bisect_left(steps, _POWER, key=lambda step: power(problems, step / 1000, discordance, alpha))
    return least / 1000 if least < len(steps) else None


def parents_discordance(records: Sequence[TrialRecord], search: Split) -> float | None:
    """Return the mean fraction of the search split on which parents differ from the best; None without two parents."""
    first = best_parent(records)
    others = [
        record for record in records if record.kind == "parent" and record.search.outcomes and record is not first
    ]
    if first is None or not others:
        return None
    known = search.rates(first.search.outcomes)
    rates = [search.rates(other.search.outcomes) for other in others]
    return fmean(fmean(rate != known[place] for place, rate in each.items() if place in known) for each in rates)


def what_is_provable(config: SearchConfig, problems: int, at_end: float, discordance: float | None = None) -> str:
    """Return a sentence on what a search can prove, or why nothing; empty without a report split.

    Args:
        config: the search's config.
        problems: the number of problems in its report split.
        at_end: the level of the look at the end, for all finalists together.
        discordance: the parents' own discordance, if it is known.
    """
    if config.objectives > 1:
        return "several objectives: no trial is proven, and only trials and timeout end the search"
    if not problems:
        return ""
    if at_end <= 0:
        return f"{SPENT}: nothing is proven"
    return power_line(problems, at_end / config.search.finalists, discordance, config.evaluation.more_with_mbpp)


def power_line(problems: int, alpha: float, discordance: float | None = None, added: int = 0) -> str:
    """Return a sentence on what a search can prove.

    Args:
        problems: the number of problems in the report split.
        alpha: the level of a finalist's test.
        discordance: the parents' own discordance, if it is known.
        added: how many more problems it would have with MBPP+.
    """
    assumed = ASSUMED_DISCORDANCE if discordance is None else discordance
    gain = least_gain(problems, assumed, alpha)
    if gain is None:
        return (
            f"the report split has {counted(problems, 'problem')}, which is too few to prove that any merge is better"
        )
    because = f"if it differs from each on {max(assumed, gain):.0%} of them"
    if discordance is not None and discordance >= gain:
        because += ", as the parents do"
    more = least_gain(problems + added, assumed, alpha) if added else None
    with_more = f"; with mbpp+ added, {more * 100:.1f} points" if more is not None else ""
    return (
        f"{problems:,} report problems prove, in 8 of 10 searches, a merge that solves {gain * 100:.1f} points more "
        f"than any parent ({because}{with_more})"
    )
