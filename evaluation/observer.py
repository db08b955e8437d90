"""Watching an evaluation while it runs, and ending it early.

A pruner, a race and a progress bar are observers. An exception from an observer ends the evaluation at once and
reaches the caller of `Evaluator.evaluate` unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

from evaluation.report import Outcome


class Observer:
    """Receives each event of an evaluation. A subclass overrides what it wants to know.

    In all methods, `done` counts the events of that kind so far, this one included, and `total` says how many there
    will be if nothing ends the evaluation.
    """

    def on_likelihood(self, task_id: str, log_likelihood: float, done: int, total: int) -> None:
        """Receive the likelihood of a problem's reference completion, before the model has generated much.

        Args:
            task_id: the problem.
            log_likelihood: the mean over the reference's tokens, in nats; NaN if the logits are.
            done: references so far.
            total: how many problems have a reference; a `StockGenerator` reads none of them.
        """

    def on_completion(self, done: int, total: int) -> None:
        """Learn that a completion has been generated; its outcome follows.

        Args:
            done: completions so far.
            total: samples of all problems.
        """

    def on_outcome(self, outcome: Outcome, done: int, total: int) -> None:
        """Receive the outcome of a completion.

        Outcomes arrive as completions end, so those of short completions come first, whatever the order in which
        problems are generated. For an unbiased partial mean, take a prefix of the order of generation.

        Args:
            outcome: the outcome of one sample of one problem.
            done: outcomes so far.
            total: samples of all problems.
        """


class OutcomeCounter(Observer):
    """Calls a function with (outcomes so far, outcomes in all), as for a progress bar.

    Args:
        tell: the function.
        generated: takes the same counts; called once all completions are generated, if outcomes are still to come.
    """

    def __init__(
        self, tell: Callable[[int, int], None], generated: Callable[[int, int], None] = lambda _done, _total: None
    ) -> None:
        self._tell = tell
        self._generated = generated
        self._outcomes = 0

    def on_completion(self, done: int, total: int) -> None:
        """Call `generated` after the last completion, if outcomes are still to come."""
        if done == total and self._outcomes < total:
            self._generated(self._outcomes, total)

    def on_outcome(self, outcome: Outcome, done: int, total: int) -> None:  # noqa: ARG002 - it only counts
        """Pass the counts on."""
        self._outcomes = done
        self._tell(done, total)
