"""Ascent: proposes parameters by the gradient of the loss on solutions; see `loss.py`.

An ascent remembers only its last proposal and the notes on it. Adam starts again with each proposal, so that any worker
can make the next one, even after a kill.

Guarantees: solutions are from the search split. About a fourth of those known at the first proposal are held out: the
others give the direction of each proposal, and the held-out ones decide how far it goes. The ascent is over when the
loss on them no longer falls, or when a proposal is worse than the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from statistics import mean
from typing import cast
from zlib import crc32

import torch
from transformers import PreTrainedModel

from evaluation import Solution
from evaluation.scoring import p_better
from merging import Merger, MergingError
from search.ascent.checkpointing import checkpointed
from search.ascent.loss import losses
from search.ascent.unit_box import UnitBox
from search.counts import counted
from search.space.sections import AscentSection
from search.study.outcomes import Split
from search.study.record import ASCENT, Parameters, TrialRecord
from search.study.store import Proposal

LEAST = 8
"""The fewest solutions that an ascent needs."""

# Adam's decay rates.
_DECAYS = (0.8, 0.95)
_HELD_OUT = 4
# The fraction of the way of its steps that a proposal goes: the first of these with which the loss falls.
_PARTS = (1.0, 0.5, 0.25, 0.125)
# How many solutions a step reads, chosen at random. A solution whose loss was at most _SAFE has hardly any gradient,
# and is not read again, unless all are safe.
_READ, _SAFE = 40, 0.02
# The level of the test of whether a proposal is worse than the one before.
_WORSE = 0.05


class AscentOverError(Exception):
    """The ascent has no further proposal.

    Args:
        reason: why, in words for users.
        evaluations: the cost of finding that out, in forward passes over a solution.
    """

    def __init__(self, reason: str, evaluations: int = 0) -> None:
        super().__init__(reason)
        self.evaluations = evaluations


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes on a proposal, for the worker that makes the next one.

    Attributes:
        loss: the mean loss of the held-out solutions.
        held_out: the problems of the held-out solutions, the same during a whole ascent.
        safe: the problems whose solutions no further step reads, unless all are safe.
        evaluations: the cost of the proposal, in forward passes over a solution.
    """

    loss: float
    held_out: Sequence[str]
    safe: Sequence[str]
    evaluations: int


@dataclass(frozen=True, slots=True)
class Ascent:
    """An ascent in the space of a search.

    Attributes:
        settings: how far it goes.
        box: the parameters that it moves.
        merger: merges candidates.
        solutions: returns the solutions of the search split known so far.
        starts: the parameters where it may begin: those with the least loss are chosen.
        split: how the outcomes of records on the search split are read.
        progress: called with how many steps of a proposal are done, and how many there will be.
        is_short_of_memory: whether memory has no room for the gradient of a whole model. Slopes are then taken tensor
            by tensor, and activations are computed twice, which takes several times as long.
    """

    settings: AscentSection
    box: UnitBox
    merger: Merger
    solutions: Callable[[], Sequence[Solution]]
    starts: Sequence[Parameters]
    split: Split = field(default_factory=Split)
    progress: Callable[[int, int], None] = lambda _done, _total: None
    is_short_of_memory: bool = False

    def propose(self, records: Sequence[TrialRecord]) -> Proposal:
        """Return the next proposal. Raises AscentOverError if there is none."""
        earlier = [record for record in records if record.proposed_by == ASCENT and record.parameters]
        if len(earlier) >= self.settings.proposals:
            raise AscentOverError("it has made its last proposal")
        if not self.box.names:
            raise AscentOverError("no range of the recipe has a slope")
        self._require_no_fall(earlier)
        try:
            parameters, notes = self._next(earlier)
        except MergingError as error:
            raise AscentOverError(f"a merge on its way failed: {error}") from error
        seen = sum(record.is_over for record in records if record.kind == "trial")
        return Proposal(parameters, ASCENT, seen, {ASCENT: asdict(notes)})

    def _require_no_fall(self, earlier: Sequence[TrialRecord]) -> None:
        """Raise AscentOverError if the last proposal is worse than the one before it."""
        scored = [record.search for record in earlier if record.search.state == "complete"]
        if len(scored) < 2:
            return
        before, last = scored[-2:]
        rates, rates_before = self.split.rates(last.outcomes), self.split.rates(before.outcomes)
        if p_better(rates_before, rates, self.split.weights) < _WORSE:
            raise AscentOverError(f"its last proposal scored {last.score:.1%}, the one before it {before.score:.1%}")

    def _next(self, earlier: Sequence[TrialRecord]) -> tuple[Parameters, Notes]:
        solutions = self._readable_solutions(earlier[-1].parameters if earlier else self.starts[0])
        start, last = self._start(earlier, solutions)
        stopping = frozenset(last.held_out)
        held_out = [it for it in solutions if it.task_id in stopping]
        steering = [it for it in solutions if it.task_id not in stopping]
        if not held_out:
            raise AscentOverError("the solutions that do not steer it are gone")
        draw = Random(len(earlier))  # the same draws, whichever worker makes the proposal
        end, safe, evaluations = self._climbed(start, steering, frozenset(last.safe), draw)
        evaluations += last.evaluations
        for part in _PARTS:
            place = {name: (1 - part) * at + part * end[name] for name, at in self.box.point(start).items()}
            found = self.box.parameters(place, start)
            loss = self._loss(found, held_out)
            evaluations += len(held_out)
            if loss < last.loss:
                return found, Notes(loss, last.held_out, sorted(safe), evaluations)
        reason = f"the loss on solutions that do not steer it no longer falls ({last.loss:.3f})"
        raise AscentOverError(reason, evaluations)

    def _readable_solutions(self, parameters: Parameters) -> Sequence[Solution]:
        """Return the solutions whose tokens all have embeddings in the merges; a parent may know further tokens."""
        model = self.merger.apply(self.box.recipe_at(parameters))
        rows = cast("torch.nn.Embedding", model.get_input_embeddings()).weight.shape[0]
        found = [each for each in self.solutions() if max(each.completion) < rows]
        if len(found) < LEAST:
            raise AscentOverError(f"{counted(len(found), 'problem is', 'problems are')} solved, and it needs {LEAST}")
        return found

    def _start(self, earlier: Sequence[TrialRecord], solutions: Sequence[Solution]) -> tuple[Parameters, Notes]:
        """Return the last proposal, or the start with the least loss, and the notes on it."""
        if earlier:
            return earlier[-1].parameters, replace(Notes(**earlier[-1].sampler_notes[ASCENT]), evaluations=0)
        held_out = [it for it in solutions if crc32(it.task_id.encode()) % _HELD_OUT == 0] or solutions[:1]
        found = [self._loss(start, held_out) for start in self.starts]
        notes = Notes(min(found), [it.task_id for it in held_out], (), len(found) * len(held_out))
        return self.starts[found.index(min(found))], notes

    def _loss(self, parameters: Parameters, solutions: Sequence[Solution]) -> float:
        """Return the mean loss at some parameters; infinite if these cannot be merged."""
        try:
            model = self.merger.apply(self.box.recipe_at(parameters))
        except MergingError:
            return math.inf
        with torch.inference_mode():
            return mean(losses(model, solutions))

    def _climbed(
        self, start: Parameters, steering: Sequence[Solution], safe: frozenset[str], draw: Random
    ) -> tuple[dict[str, float], frozenset[str], int]:
        """Return the place in the box after some steps of Adam, the problems that are safe then, and the evaluations.

        A backward pass counts as two forward passes.
        """
        adam, place, evaluations = _Adam(self.settings.step), self.box.point(start), 0
        for number in range(self.settings.steps):
            self.progress(number, self.settings.steps)
            doubtful = [it for it in steering if it.task_id not in safe] or steering
            read = draw.sample(doubtful, min(len(doubtful), _READ))
            found, slopes = self._slopes(self.box.parameters(place, start), read)
            evaluations += 3 * len(read)
            place = adam.moved(place, slopes)
            safe |= {it.task_id for it, loss in zip(read, found, strict=True) if loss <= _SAFE}
        return place, safe, evaluations

    def _slopes(self, parameters: Parameters, solutions: Sequence[Solution]) -> tuple[list[float], dict[str, float]]:
        """Return the loss of each solution, and the slopes of their sum."""
        moves = self.box.moves(self.merger, parameters)
        pairs = [(move.low, move.high) for move in moves]
        model = self.merger.apply(self.box.recipe_at(parameters))
        if self.is_short_of_memory:
            with self.merger.slopes_in_backward(pairs) as changes, checkpointed(model):
                found = losses_with_gradients(model, solutions)
        else:
            found = losses_with_gradients(model, solutions)
            gradients = self.merger.take_gradients()
            changes = [self.merger.slopes(gradients, *pair) for pair in pairs]
        slopes: dict[str, float] = {}
        for move, change in zip(moves, changes, strict=True):
            slopes |= move.slopes(self.merger, change)
        return found, slopes


def losses_with_gradients(model: PreTrainedModel, solutions: Sequence[Solution]) -> list[float]:
    """Return the loss of each solution, and leave the gradient of their sum in the model's parameters."""
    model.requires_grad_(True)
    try:
        with torch.enable_grad():
            return losses(model, solutions, lambda batch: torch.autograd.backward(batch.sum()))
    except BaseException:
        model.zero_grad(set_to_none=True)  # it is as large as the model, and useless
        raise
    finally:
        model.requires_grad_(False)


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
