"""The ascent of a search: what it ascends with, and whether it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluation import Solution
from merging import Recipe
from search.ascent.ascent import Ascent
from search.ascent.unit_box import UnitBox
from search.run.setup import Session
from search.space.config import SearchConfig
from search.study.record import ASCENT, Parameters, TrialRecord

_RANKS_WELL = 0.5


def why_none(config: SearchConfig) -> str:
    """Return why a search that wants an ascent has none, for people; empty if it has one, or wants none."""
    if config.search.ascent is None:
        return ""
    if config.objectives > 1:
        return "there are several objectives"
    return "" if config.evaluation.backend == "transformers" else "it needs backend: transformers"


def goes_on(records: Sequence[TrialRecord]) -> bool:
    """Whether an ascent may make the next proposal.

    It may if all reference models are scored, it was not over before, and has not ended its workers.
    """
    if any(record.kind != "trial" and not record.is_over for record in records):
        return False
    trials = [record for record in records if record.kind == "trial"]
    was_over = any("over" in record.sampler_notes.get(ASCENT, {}) for record in trials)
    return not was_over and not any(
        record.proposed_by == ASCENT and record.search.state == "failed" and not record.parameters for record in trials
    )


def ascent_of(session: Session, warm_starts: Sequence[Parameters]) -> Ascent:
    """Return the ascent of a search whose config wants one; it may also begin at a warm start."""
    config, bench = session.config, session.bench
    assert config.search.ascent
    middle = config.space.middle()

    def solutions() -> Sequence[Solution]:
        bench.drafts.sync()
        tokenizer = bench.tokenizer_of(config.space.recipe_at(middle))
        return bench.evaluator.solutions(tokenizer, bench.drafts, bench.splits["search"])

    box = UnitBox.of(config.space.ranges, lambda parameters: bench.located(config.space.recipe_at(parameters)))
    starts, split = [middle, *warm_starts], session.store.splits["search"]
    return Ascent(config.search.ascent, box, bench.merger, solutions, starts, split, bench.progress.step)


def ranking(session: Session, ascent: Ascent, records: Sequence[TrialRecord]) -> str:
    """Return how well the loss of an ascent that is over ranks models, for people; empty where that cannot be said."""
    found = ascent.rank_correlation(records, lambda it: session.bench.located(Recipe.from_dict(it.recipe, it.key)))
    if math.isnan(found):
        return ""
    warning = "" if found >= _RANKS_WELL else ", which is low: its proposals may be no better than others"
    return f"its loss ranks models as their scores do with a rank correlation of {found:.2f}{warning}"
