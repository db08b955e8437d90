"""The ascent of a search: how it is set up, and whether it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation import Solution
from search.ascent.ascent import Ascent
from search.ascent.unit_box import UnitBox
from search.memory_demand import GradientRoom
from search.run.setup import Session
from search.space.config import SearchConfig
from search.study.record import ASCENT, Parameters, TrialRecord

# With fewer proposals than _LEAST_JUDGED, a low correlation may well be chance.
_LEAST_RANKED, _LEAST_JUDGED, _RANKS_WELL = 3, 6, 0.5


def why_none(config: SearchConfig, gradient: GradientRoom) -> str:
    """Return in words why a search that wants an ascent has none; empty if it has one, or wants none."""
    if config.search.ascent is None:
        return ""
    if config.objectives > 1:
        return "there are several objectives"
    if config.evaluation.backend != "transformers":
        return "it needs backend: transformers"
    return "" if gradient != "none" else "memory has no room for it"


def goes_on(records: Sequence[TrialRecord]) -> bool:
    """Whether an ascent may make the next proposal.

    It may if all reference models are scored, and the ascent is not already over and has not killed its workers.
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
    starts, split, short = [middle, *warm_starts], session.store.splits["search"], session.gradient == "tensor"
    return Ascent(config.search.ascent, box, bench.merger, solutions, starts, split, bench.progress.step, short)


def ranking(records: Sequence[TrialRecord]) -> str:
    """Return in words how well the loss of an ascent ranks its proposals; empty if that cannot be said."""
    from scipy.stats import spearmanr

    own = [it for it in records if it.proposed_by == ASCENT and it.search.state == "complete"]
    scores = [it.search.score for it in own]
    if len(own) < _LEAST_RANKED or len(set(scores)) == 1:
        return ""
    found = [it.sampler_notes[ASCENT]["loss"] for it in own]
    correlation = -float(spearmanr(found, scores).statistic)
    is_low = len(own) >= _LEAST_JUDGED and correlation < _RANKS_WELL
    warning = ", which is low: they may be no better than others" if is_low else ""
    told = f"its loss ranks its {len(own)} proposals as their scores do with a rank correlation of"
    return f"{told} {correlation:.2f}{warning}"
