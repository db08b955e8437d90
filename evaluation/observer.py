"""Watching an evaluation while it runs, and ending it early.

A pruner, a race and a progress bar are observers. What an observer raises ends the evaluation at once and reaches the
caller of `Evaluator.evaluate` as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from evaluation.report import Outcome


class Observer:
    """Hears of each event of an evaluation; both methods do nothing until they are overridden.

    In both, `done` counts the events of that kind so far, this one included, and `total` says how many there will be
    if nothing ends the evaluation.
    """

    def on_likelihood(self, task_id: str, log_likelihood: float, done: int, total: int) -> None:
        """Hear how likely the model finds a problem's reference completion, before it has generated much.

        Args:
            task_id: the problem.
            log_likelihood: the mean over the reference's tokens, in nats; NaN where the logits are.
            done: references so far.
            total: references of all problems that have one; a `StockGenerator` reads none of them.
        """

    def on_outcome(self, outcome: Outcome, done: int, total: int) -> None:
        """Hear what became of a completion.

        Outcomes arrive as completions end, so the first ones are those of short completions, whatever the order in
        which problems are generated: an unbiased partial mean takes a prefix of that order.

        Args:
            outcome: of one sample of one problem.
            done: outcomes so far.
            total: samples of all problems.
        """


class OutcomeCounter(Observer):
    """Calls a function with (outcomes so far, outcomes in all): a progress bar."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def on_outcome(self, outcome: Outcome, done: int, total: int) -> None:  # noqa: ARG002 - only how many
        """Tell how many there are."""
        self._tell(done, total)
