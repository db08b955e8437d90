"""The ascent: proposals that lower the loss of solutions that it has not seen, until there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean
from unittest.mock import patch

import pytest

from evaluation import DraftStore, Evaluator, Solution, load_problems
from merging import Merger, ParentSet, Recipe
from search.ascent import ascent as module
from search.ascent.ascent import Ascent, AscentOverError, losses_with_gradients
from search.ascent.loss import losses
from search.ascent.unit_box import UnitBox
from search.run.setup import reference_models
from search.space.config import SearchConfig
from search.space.sections import AscentSection
from search.study.record import ASCENT, Parameters, Scoring, TrialRecord
from search.study.store import Proposal

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
    """Return what the parents solve of some problems."""
    import torch

    merger.compute_dtype = torch.float32
    problems = load_problems(config.evaluation.problems[0].source)
    some = problems.split(0.88, 0)[0]
    drafts = DraftStore()
    with Evaluator(some, allow_code_execution=True, max_new_tokens=32) as evaluator:
        for record in reference_models(config)[:2]:  # the fine-tunes
            recipe = Recipe.from_dict(record.recipe, "test")
            model, tokenizer = merger.apply(recipe), merger.tokenizer(recipe)
            evaluator.evaluate(model, tokenizer, drafts=drafts, parent=True)
        return evaluator.solutions(tokenizer, drafts, some)


def ascent(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution], settings: AscentSection | None = None
) -> Ascent:
    box = UnitBox.of(config.space.ranges, config.space.recipe_at)
    return Ascent(settings or AscentSection(), box, merger, lambda: solutions, [config.space.middle()])


def trial(number: int, proposal: Proposal) -> TrialRecord:
    """Return the record of a proposal."""
    notes = proposal.sampler_notes
    return TrialRecord("trial", number, parameters=proposal.parameters, proposed_by=ASCENT, sampler_notes=notes)


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
    config.space.require(first.parameters)
    record = trial(0, first)
    second = found.propose([record])
    held_out = [each for each in solutions if each.task_id in first.sampler_notes[ASCENT]["held_out"]]
    points = [found.starts[0], first.parameters, second.parameters]
    at_points = [mean(losses(merger.apply(config.space.recipe_at(point)), held_out)) for point in points]
    assert at_points[0] > at_points[1] > at_points[2]
    noted = [proposal.sampler_notes[ASCENT]["loss"] for proposal in (first, second)]
    assert noted == pytest.approx(at_points[1:])
    with pytest.raises(AscentOverError, match="its last proposal"):
        found.propose([record, replace(record, number=1)])


@pytest.mark.slow
def test_with_little_memory_the_proposal_is_the_same(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    one_step = ascent(config, merger, solutions, AscentSection(steps=1))
    frugal = replace(one_step, is_short_of_memory=True)
    with patch.object(merger, "take_gradients", side_effect=AssertionError):
        found = frugal.propose([])
    wanted = one_step.propose([])
    assert found.parameters == pytest.approx(wanted.parameters, abs=1e-4)


def test_it_is_over_where_no_step_lowers_the_loss(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    found = ascent(config, merger, solutions, AscentSection(steps=1))
    held_out = found.propose([]).sampler_notes[ASCENT]["held_out"]
    asked: list[Parameters] = []

    def rising(_: Ascent, parameters: Parameters, given: Sequence[Solution]) -> float:
        asked.append(parameters)
        assert [each.task_id for each in given] == held_out
        return float(len(asked))

    with patch.object(Ascent, "_loss", rising), pytest.raises(AscentOverError, match="no longer falls") as over:
        found.propose([])
    at, *places = ([found.box.point(each)[name] for name in found.box.names] for each in asked)
    parts = [(place[0] - at[0]) / (places[0][0] - at[0]) for place in places]
    assert parts == pytest.approx([1, 0.5, 0.25, 0.125])
    assert over.value.evaluations % 3 == len(asked) * len(held_out) % 3


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
    assert found._start([], solutions)[0] == good


@pytest.mark.parametrize("outcomes", ["ffffffff", "ppppppff"])
def test_it_is_over_where_a_proposal_is_worse_than_the_one_before(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution], outcomes: str
) -> None:
    found = ascent(config, merger, solutions, AscentSection(proposals=3, steps=1))
    first = found.propose([])
    both = (Scoring("complete", each, each.count("p") / 8) for each in ("pppppppp", outcomes))
    earlier = [replace(trial(number, first), search=scoring) for number, scoring in enumerate(both)]
    if outcomes == "ppppppff":  # two of eight may be chance
        assert found.propose(earlier).proposed_by == ASCENT
    else:
        with pytest.raises(AscentOverError, match=r"scored 0\.0%, the one before it 100\.0%"):
            found.propose(earlier)


def test_what_is_solved_later_steers(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution], monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = AscentSection(proposals=2, steps=1)
    monkeypatch.setattr(module, "_READ", len(solutions))
    first = ascent(config, merger, solutions[:-9], one_step).propose([])
    held_out = first.sampler_notes[ASCENT]["held_out"]
    assert 0 < len(held_out) < len(solutions) / 2
    with patch.object(module, "losses_with_gradients", wraps=losses_with_gradients) as asked:
        second = ascent(config, merger, solutions, one_step).propose([trial(0, first)])
    read = {each.task_id for each in asked.call_args.args[1]}
    later = {each.task_id for each in solutions[-9:]} - {*held_out}
    assert later
    assert read == {each.task_id for each in solutions} - {*held_out, *first.sampler_notes[ASCENT]["safe"]}
    assert second.sampler_notes[ASCENT]["held_out"] == held_out


def test_it_goes_no_farther_than_the_loss_falls(
    config: SearchConfig, merger: Merger, solutions: Sequence[Solution]
) -> None:
    found = ascent(config, merger, solutions, AscentSection(steps=1))
    first, start, loss = found.propose([]), found.box.point(found.starts[0]), Ascent._loss
    way = {name: at - start[name] for name, at in found.box.point(first.parameters).items()}

    def with_a_cliff(self: Ascent, parameters: Parameters, given: Sequence[Solution]) -> float:
        return 2.0 if parameters == pytest.approx(first.parameters) else loss(self, parameters, given)

    with patch.object(Ascent, "_loss", with_a_cliff):
        second = found.propose([])
    assert found.box.point(second.parameters) == pytest.approx({name: start[name] + way[name] / 2 for name in way})
    notes = [proposal.sampler_notes[ASCENT] for proposal in (first, second)]
    assert notes[1]["evaluations"] == notes[0]["evaluations"] + len(notes[0]["held_out"])
