"""Ascent: proposes parameters by the gradient of the loss on solutions; see `loss.py`.

What an ascent knows of its past is the parameters of its last proposal: Adam begins anew with each, so that any worker
may go on with the next one, also after a kill.

Guarantees: solutions are of the search split. About a fourth never steers: these choose how far a proposal goes on the
way that the others show. Where the loss on them no longer falls, or a proposal is worse than the one before it, the
ascent is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import cast
from zlib import crc32

import torch
from transformers import PreTrainedModel

from evaluation import Solution
from evaluation.scoring import p_better
from merging import Merger, MergingError, Recipe
from search.ascent.loss import losses
from search.ascent.unit_box import UnitBox
from search.space.sections import AscentSection
from search.study.outcomes import Split
from search.study.record import ASCENT, Parameters, TrialRecord, Value
from search.study.store import Proposal

LEAST = 8
"""With fewer solutions there is no ascent."""
LEAST_RANKED = 5
"""With fewer models a rank correlation says nothing."""

# Of Adam.
_DECAYS = (0.8, 0.95)
_HELD_OUT = 4
# A solution whose loss is no higher at the first step of a proposal has hardly a gradient, and is left out of the next.
_SAFE = 0.02
# The level of the test by which a proposal is worse than the one before.
_WORSE = 0.05


class AscentOverError(Exception):
    """The ascent has no further proposal.

    Args:
        reason: why, for people.
        evaluations: what it took to find that out, in forward passes over a solution.
    """

    def __init__(self, reason: str, evaluations: int = 0) -> None:
        super().__init__(reason)
        self.evaluations = evaluations


@dataclass(frozen=True, slots=True)
class Ascent:
    """An ascent in the space of a search.

    Attributes:
        settings: how far it goes.
        box: the parameters that it moves.
        merger: merges candidates.
        solutions: returns what has been solved of the search split so far.
        starts: where it may begin: the one of the least loss is chosen.
        split: how the outcomes of records on the search split are read.
        progress: told how many of its passes are done, and how many there will be.
    """

    settings: AscentSection
    box: UnitBox
    merger: Merger
    solutions: Callable[[], Sequence[Solution]]
    starts: Sequence[Parameters]
    split: Split = field(default_factory=Split)
    progress: Callable[[int, int], None] = lambda _done, _total: None
    _known: dict[frozenset[tuple[str, Value]], float] = field(default_factory=dict)

    def propose(self, records: Sequence[TrialRecord]) -> Proposal:
        """Return the next proposal. Raises AscentOverError if there is none."""
        earlier = [record for record in records if record.proposed_by == ASCENT and record.parameters]
        if len(earlier) >= self.settings.proposals:
            raise AscentOverError("it has made its last proposal")
        if not self.box.names:
            raise AscentOverError("no range of the recipe has a slope")
        self._require_no_fall(earlier)
        try:
            parameters, notes = self._next(earlier, *_split(self._readable_solutions()))
        except MergingError as error:
            raise AscentOverError(f"a merge on its way failed: {error}") from error
        finally:
            self._known.clear()
        seen = sum(record.is_over for record in records if record.kind == "trial")
        return Proposal(parameters, ASCENT, seen, {ASCENT: notes})

    def rank_correlation(self, records: Sequence[TrialRecord], recipe_of: Callable[[TrialRecord], Recipe]) -> float:
        """Return how well the loss ranks reference models and own proposals: Spearman's correlation with their scores.

        1 if a lower loss always goes with a higher score, -1 if with a lower one; nan for fewer than `LEAST_RANKED`
        models, or if all losses or all scores are equal.

        Args:
            records: of the search.
            recipe_of: returns the merge of a record.
        """
        from scipy.stats import spearmanr

        own = [record for record in records if record.kind != "trial" or record.proposed_by == ASCENT]
        scored = [record for record in own if record.search.state == "complete" and record.same_as is None]
        scores = [record.search.score for record in scored]
        if len(scored) < LEAST_RANKED or len(set(scores)) == 1:
            return math.nan
        solutions = self._readable_solutions()
        found = [self._mean_loss(recipe_of(record), solutions) for record in scored]
        return -float(spearmanr(found, scores).statistic) if len(set(found)) > 1 else math.nan

    def _require_no_fall(self, earlier: Sequence[TrialRecord]) -> None:
        """Raise AscentOverError if the last proposal is worse than the one before it."""
        scored = [record.search for record in earlier if record.search.state == "complete"]
        if len(scored) < 2:
            return
        before, last = scored[-2:]
        rates, rates_before = self.split.rates(last.outcomes), self.split.rates(before.outcomes)
        if p_better(rates_before, rates, self.split.weights) < _WORSE:
            raise AscentOverError(f"its last proposal scored {last.score:.1%}, the one before it {before.score:.1%}")

    def _readable_solutions(self) -> Sequence[Solution]:
        """Return the solutions whose tokens the merges have embeddings for: one of a parent may have further tokens."""
        model = self.merger.apply(self.box.recipe_at(self.starts[0]))
        rows = cast("torch.nn.Embedding", model.get_input_embeddings()).weight.shape[0]
        found = [each for each in self.solutions() if max(each.completion) < rows]
        if len(found) < LEAST:
            raise AscentOverError(f"{len(found)} problems are solved, and it needs {LEAST}")
        return found

    def _next(
        self, earlier: Sequence[TrialRecord], steering: Sequence[Solution], held_out: Sequence[Solution]
    ) -> tuple[Parameters, dict[str, object]]:
        start = self._start(earlier, held_out)
        before, (way, evaluations) = self._loss(start, held_out), self._climbed(start, steering)
        after, found = min(((self._loss(point, held_out), point) for point in way), key=itemgetter(0))
        evaluations += len(self._known) * len(held_out)
        if not after < before:
            reason = f"the loss on solutions that do not steer it no longer falls ({before:.3f})"
            raise AscentOverError(reason, evaluations)
        return found, {"held_out": [before, after], "evaluations": evaluations}

    def _start(self, earlier: Sequence[TrialRecord], held_out: Sequence[Solution]) -> Parameters:
        if earlier:
            return earlier[-1].parameters
        if len(self.starts) == 1:
            return self.starts[0]
        return min(self.starts, key=lambda start: self._loss(start, held_out))

    def _loss(self, parameters: Parameters, solutions: Sequence[Solution]) -> float:
        """Return the mean loss at some parameters; infinite where they make no merge."""
        key = frozenset(parameters.items())  # choices too: starts may differ in nothing else
        if key not in self._known:
            try:
                self._known[key] = self._mean_loss(self.box.recipe_at(parameters), solutions)
            except MergingError:
                return math.inf
        return self._known[key]

    def _mean_loss(self, recipe: Recipe, solutions: Sequence[Solution]) -> float:
        model = self.merger.apply(recipe)
        with torch.inference_mode():
            found = losses(model, solutions)
        return sum(found) / len(found)

    def _climbed(self, start: Parameters, solutions: Sequence[Solution]) -> tuple[list[Parameters], int]:
        """Return where some steps of Adam lead, one after the other, and how many evaluations they cost.

        A backward pass counts as two forward passes.
        """
        adam, way, doubtful, evaluations = _Adam(self.settings.step), [start], solutions, 0
        for number in range(self.settings.steps):
            self.progress(number, self.settings.steps)
            model = self.merger.apply(self.box.recipe_at(way[-1]))
            found = losses_with_gradients(model, doubtful)
            evaluations += 3 * len(doubtful)
            slopes = self.box.slopes(self.merger, self.merger.take_gradients(), way[-1])
            way.append(self.box.parameters(adam.moved(self.box.point(way[-1]), slopes), way[-1]))
            if number == 0:
                doubtful = [each for each, loss in zip(solutions, found, strict=True) if loss > _SAFE] or solutions
        return way[1:], evaluations


def losses_with_gradients(model: PreTrainedModel, solutions: Sequence[Solution]) -> list[float]:
    """Return the loss of each solution, and leave the gradient of their sum in the model's parameters."""
    model.requires_grad_(True)
    try:
        with torch.enable_grad():
            return losses(model, solutions, lambda batch: torch.autograd.backward(batch.sum()))
    except BaseException:
        model.zero_grad(set_to_none=True)  # as large as the model, and of no use
        raise
    finally:
        model.requires_grad_(False)


def _split(solutions: Sequence[Solution]) -> tuple[Sequence[Solution], Sequence[Solution]]:
    """Return the solutions that steer, and about a fourth that does not: the same whatever else is solved later."""
    held_out = [each for each in solutions if crc32(each.task_id.encode()) % _HELD_OUT == 0] or solutions[:1]
    return [each for each in solutions if each not in held_out], held_out


@dataclass
class _Adam:
    """Adam (arXiv:1412.6980) downhill in the unit box."""

    step: float
    mean: dict[str, float] = field(default_factory=dict)
    square: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def moved(self, point: Mapping[str, float], slopes: Mapping[str, float]) -> dict[str, float]:
        self.steps += 1
        first, second = _DECAYS
        moved = {}
        for name, slope in slopes.items():
            self.mean[name] = first * self.mean.get(name, 0.0) + (1 - first) * slope
            self.square[name] = second * self.square.get(name, 0.0) + (1 - second) * slope * slope
            mean = self.mean[name] / (1 - first**self.steps)
            size = math.sqrt(self.square[name] / (1 - second**self.steps))
            moved[name] = min(1.0, max(0.0, point[name] - self.step * mean / (size + 1e-12)))
        return moved
