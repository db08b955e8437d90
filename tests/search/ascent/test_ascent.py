"""The ascent: proposals that lower the loss of solutions that it has not seen, until there are none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any
from unittest.mock import patch

import pytest
from scipy.stats import spearmanr

from evaluation import DraftStore, Evaluator, Solution, load_problems
from merging import Merger, ParentSet, Recipe
from search.ascent.ascent import LEAST_RANKED, Ascent, AscentOverError, losses_with_gradients
from search.ascent.loss import losses
from search.ascent.unit_box import UnitBox
from search.run.setup import reference_models
from search.space.config import SearchConfig
from search.space.sections import AscentSection
from search.study.record import ASCENT, Scoring, TrialRecord

QUICKSTART = "configs/quickstart.yaml"


@pytest.fixture(scope="module")
def config() -> SearchConfig:
    return SearchConfig.load(QUICKSTART)


@pytest.fixture(scope="module")
def merger(config: SearchConfig) -> Iterator[Merger]:
    references = [Recipe.from_dict(record.recipe, "test") for record in reference_models(config)]
    with ParentSet.open([*config.space.extreme_recipes, *references]) as parents:
        yield Merger(parents)


@pytest.fixture(scope="module")
def solutions(config: SearchConfig, merger: Merger) -> Sequence[Solution]:
    """Return what the parents solve of the first problems of each kind."""
    import torch

    merger.compute_dtype = torch.float32
    problems = load_problems(config.evaluation.problems[0].source)
    some = problems.split(0.8, 0)[0]
    drafts = DraftStore()
    with Evaluator(some, allow_code_execution=True, max_new_tokens=32) as evaluator:
        for record in reference_models(config):
            recipe = Recipe.from_dict(record.recipe, "test")
            model, tokenizer = merger.apply(recipe), merger.tokenizer(recipe)
            evaluator.evaluate(model, tokenizer, drafts=drafts, parent=True)
        return evaluator.solutions(tokenizer, drafts, some)


def ascent(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution], settings: AscentSection | None = None
) -> Ascent:
    box = UnitBox.of(config.space.ranges, config.space.recipe_at)
    return Ascent(settings or AscentSection(), box, merger, lambda: solutions, [config.space.middle()])


def test_solutions_are_what_was_generated_end_included(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    tokenizer = merger.tokenizer(config.space.example())
    assert len(solutions) > 20
    assert len({solution.task_id for solution in solutions}) == len(solutions)
    for solution in solutions:
        assert solution.completion
        assert tokenizer.decode(solution.prompt).startswith("def ")
    assert sum(solution.completion[-1] == tokenizer.eos_token_id for solution in solutions) > 0


@pytest.mark.slow
def test_proposals_lower_the_loss_that_does_not_steer_them(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    found = ascent(config, merger, solutions, AscentSection(proposals=2, steps=2))
    first = found.propose([])
    assert first.proposed_by == ASCENT
    notes: Mapping[str, Sequence[float]] = first.sampler_notes[ASCENT]
    assert notes["held_out"][1] < notes["held_out"][0]
    config.space.require(first.parameters)
    record = TrialRecord("trial", 0, parameters=first.parameters, proposed_by=ASCENT)
    second = found.propose([record])
    # It begins where the first one ended, whoever made that.
    assert second.sampler_notes[ASCENT]["held_out"][0] == pytest.approx(notes["held_out"][1])
    with pytest.raises(AscentOverError, match="its last proposal"):
        found.propose([record, replace(record, number=1)])


def test_it_is_over_where_no_step_lowers_the_loss(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    """Uphill, for example."""
    found = ascent(config, merger, solutions, AscentSection(steps=1))
    downhill = UnitBox.slopes

    def uphill(*given: Any) -> dict[str, float]:
        return {name: -slope for name, slope in downhill(*given).items()}

    with patch.object(UnitBox, "slopes", uphill), pytest.raises(AscentOverError, match="no longer falls"):
        found.propose([])


def test_an_error_leaves_no_gradients(merger: Merger, config: SearchConfig, solutions: Sequence[Solution]) -> None:
    model = merger.apply(config.space.recipe_at(config.space.middle()))
    unreadable = Solution("last", solutions[0].prompt * 40, (10**6,))  # a batch of its own, after the others
    with pytest.raises(IndexError):
        losses_with_gradients(model, [*solutions, unreadable])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_few_solutions_are_not_enough(config: SearchConfig, merger: Merger, solutions: Sequence[Solution]) -> None:
    with pytest.raises(AscentOverError, match="7 problems are solved, and it needs 8"):
        ascent(config, merger, solutions[:7]).propose([])


def test_it_begins_where_the_loss_is_least(config: SearchConfig, merger: Merger, solutions: Sequence[Solution]) -> None:
    box = UnitBox.of(config.space.ranges, config.space.recipe_at)
    bad = box.parameters(dict.fromkeys(box.names, 0.0), config.space.middle())
    good = config.space.middle()
    one = AscentSection(steps=1, step=0.01)
    found = Ascent(one, box, merger, lambda: solutions, [bad, good]).propose([])
    assert box.point(found.parameters) == pytest.approx(box.point(good), abs=0.011)


def test_starts_may_differ_in_what_it_does_not_move(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    box = UnitBox.of(config.space.ranges[:1], config.space.recipe_at)
    good = config.space.middle()
    bad = {**good, **{name: 0.0 for name in good if name not in box.names}}
    found = Ascent(AscentSection(), box, merger, lambda: solutions, [bad, good])
    assert found._start([], solutions[:8]) == good


@pytest.mark.parametrize("outcomes", ["ffffffff", "ppppppff"])
def test_it_is_over_where_a_proposal_is_worse_than_the_one_before(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution], outcomes: str
) -> None:
    found = ascent(config, merger, solutions, AscentSection(proposals=3, steps=1))
    start, earlier = found.starts[0], []
    for number, each in enumerate(("pppppppp", outcomes)):
        scoring = Scoring("complete", each, each.count("p") / 8)
        earlier.append(TrialRecord("trial", number, parameters=start, search=scoring, proposed_by=ASCENT))
    if outcomes == "ppppppff":  # two of eight may be chance
        assert found.propose(earlier).proposed_by == ASCENT
    else:
        with pytest.raises(AscentOverError, match=r"scored 0\.0%, the one before it 100\.0%"):
            found.propose(earlier)


def test_its_loss_ranks_models_by_spearmans_correlation(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    found, middle = ascent(config, merger, solutions), config.space.middle()
    points = [found.box.parameters(dict.fromkeys(found.box.names, at), middle) for at in (0.1, 0.3, 0.5, 0.7, 0.9)]
    recipes = [config.space.recipe_at(point) for point in points]
    by_models = [mean(losses(merger.apply(recipe), solutions)) for recipe in recipes]
    scores = [0.5, 0.9, 0.6, 0.2, 0.7]
    records = [
        TrialRecord("trial", place, search=Scoring("complete", score=score), proposed_by=ASCENT)
        for place, score in enumerate(scores)
    ]

    def recipe_of(record: TrialRecord) -> Recipe:
        return recipes[record.number]

    expected = spearmanr([-loss for loss in by_models], scores).statistic
    assert found.rank_correlation(records, recipe_of) == pytest.approx(expected)
    assert math.isnan(found.rank_correlation(records[: LEAST_RANKED - 1], recipe_of))
    equal = [replace(record, search=records[0].search) for record in records]
    assert math.isnan(found.rank_correlation(equal, recipe_of))
