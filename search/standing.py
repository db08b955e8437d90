"""How a search stands: its best trial, its best parent, and who the finalists are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.study import KIND, LIKELIHOOD, OUTCOMES, RECIPE, Studies, score


def finalists(studies: Studies, count: int) -> Sequence[FrozenTrial]:
    """Return the best trials on the search split, those of the Pareto front first, if there is one; then the best ones.

    Of equals the likelier comes first, then the earlier one.
    """
    front = studies.front()
    ordered = sorted(_scored(studies.trials()), key=_merit, reverse=True)
    ordered.sort(key=lambda trial: studies.number(trial) not in front)
    chosen: dict[str, FrozenTrial] = {}
    for trial in ordered:
        if len(chosen) < count:
            chosen.setdefault(str(trial.user_attrs[RECIPE]), trial)
    return list(chosen.values())


def _scored(trials: Sequence[FrozenTrial]) -> Iterator[FrozenTrial]:
    return (trial for trial in trials if trial.state is TrialState.COMPLETE and OUTCOMES in trial.user_attrs)


def _merit(trial: FrozenTrial) -> tuple[float, float, int]:
    return score(trial) or 0.0, trial.user_attrs.get(LIKELIHOOD, -math.inf), -trial.number


def standing(studies: Studies) -> str:
    """Return the best trial and the best parent so far, in a few words; nothing before there are any."""
    best = max(_scored(studies.trials()), key=_merit, default=None)
    parents = [
        score(trial) or 0.0 for trial in _scored(studies.baseline_trials()) if trial.user_attrs[KIND] == "parent"
    ]
    known = [f"best {score(best):.1%} (trial {studies.number(best)})"] if best else []
    return ", ".join([*known, f"best parent {max(parents):.1%}"] if parents else known)


def least_likelihood(studies: Studies, margin: float | None) -> float | None:
    """Return the likelihood below which candidates are pruned, `margin` below the best, if any are."""
    # Those of the parents are no measure: what is known of a reference grows while they are scored.
    known = [trial.user_attrs[LIKELIHOOD] for trial in studies.trials() if LIKELIHOOD in trial.user_attrs]
    return None if margin is None or not known else max(known) - margin
