"""The rounds of a confirmation as one worker goes through them, and the worker's setup.

Guarantees: a kill costs at most one model's round. No sampler, ascent or draft uses what the rounds write.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from evaluation.scoring import weighted_mean
from merging import FileDigests, Recipe, renamed
from search.board.names import record_name
from search.board.round_looks import confirmation_ended, confirmed, hindrance, round_look, rounds_over
from search.board.search_verdict import search_verdict
from search.confirmation_plan import Planned
from search.contents import ParentContents, find
from search.devices import with_device
from search.errors import STOPS, SearchError
from search.identity import Identity
from search.progress import Progress
from search.prompt_checks import notes_on_prompts
from search.results import ResultsFolder
from search.run.phases import Phases
from search.run.setup import Session, Setup, room_in
from search.run.trial import Bench, Result, describe, run_job
from search.shell import shell_command
from search.space.config import SearchConfig
from search.space.sections import EvaluationSection, Sections
from search.space.space import SearchSpace
from search.study.drafts import SharedDrafts
from search.study.outcomes import Split
from search.study.record import Scoring, TrialRecord
from search.study.store import Job, next_round

_LOG = logging.getLogger("search.rounds")


@contextlib.contextmanager
def set_up_rounds(
    folder: ResultsFolder,
    evaluation: EvaluationSection,
    planned: Planned,
    progress: Progress,
    device: str | None = None,
) -> Iterator[Session]:
    """Begin a confirmation unless one has begun, and yield a worker's session in it.

    Args:
        folder: the folder of the search.
        evaluation: the search's settings for scoring, with the present places of its problems.
        planned: the confirmation.
        progress: shows what happens.
        device: the device to merge and evaluate on, instead of the config's.

    Raises:
        SearchError: a parent has changed or is gone, or another confirmation has begun meanwhile.
        MergingError, EvaluationError: the models cannot be loaded, or the problems cannot be scored.
    """
    with folder.reading() as known:
        identity = known.identity
        models = confirmed(known.changed()[0], planned.plan.finalists)
    sections, digests = Sections.load(folder.config_file), FileDigests()
    merging = with_device(sections.merging, device, evaluation.backend, str(folder.config_file))
    sections = sections.model_copy(update={"merging": merging})
    named = {"recipe": identity["recipe"], "models": [dict(it.recipe) for it in models]}
    named["tokenizer"] = evaluation.prompt.tokenizer
    places = find(
        identity,
        named,
        folder.path,
        digests,
        sections.merging,
        lambda what, *read: progress.count(what, "files", *read),
    )
    config = _config(folder, identity, sections, evaluation, places)
    with ExitStack() as opened:
        setup = Setup(config, folder.path, len(models) * planned.split.samples, progress, False, opened)
        contents = ParentContents(config, digests, folder.path)
        here = [replace(it, recipe=renamed(it.recipe, places)) for it in models]
        parents = setup.parents(here, digests)
        merger = setup.merger(parents, 0)
        recipes = [Recipe.from_dict(it.recipe, config.source) for it in here]
        named_recipes = dict(zip(map(record_name, here), recipes, strict=True))
        for note in notes_on_prompts(config, planned.problems, merger, named_recipes, setup.prompt_tokenizer):
            progress.say(note)
        compute, plan = setup.plan(merger, recipes, [planned.problems])
        evaluator = opened.enter_context(setup.evaluator(planned.problems, room_in(identity, plan)))
        setup.load(parents, plan)
        for recipe in recipes:
            merger.calibrate(recipe, lambda what, *read: progress.count(what, "texts", *read))
        store, worker = setup.sign_in(folder, merger, evaluator, compute)
        bench = Bench(
            merger, evaluator, {"confirm": planned.problems}, 1, setup.prompt_tokenizer, folder, SharedDrafts(store),
            progress, contents, places,
        )  # fmt: skip
        store.begin_confirmation(planned.plan, planned.split)
        if (store.confirmation, store.splits["confirm"]) != (planned.plan, planned.split):
            raise SearchError(
                f"{folder.path}: another confirmation has begun meanwhile; run "
                f"`{shell_command('confirm', folder.path)}` without options"
            )
        yield Session(config, bench, store, worker)


def _config(
    folder: ResultsFolder,
    identity: Identity,
    sections: Sections,
    evaluation: EvaluationSection,
    places: Mapping[str, str],
) -> SearchConfig:
    """Return the config of a search, with the present places of its models and files."""
    source = str(folder.config_file)
    tokenizer = evaluation.prompt.tokenizer
    prompt = evaluation.prompt.model_copy(update={"tokenizer": tokenizer and places.get(tokenizer, tokenizer)})
    return SearchConfig(
        source,
        "",
        SearchSpace.read(renamed(identity["recipe"], places), source),
        evaluation.model_copy(update={"prompt": prompt}),
        sections.search.model_copy(update={"seed": identity["search"]["seed"]}),
        sections.merging.model_copy(update=identity["merging"]),
        (),
        {},
        folder.path,
    )


@dataclass
class Rounds(Phases):
    """The work of one worker in a confirmation; `total` has no meaning here.

    Attributes:
        planned: the confirmation.
    """

    planned: Planned

    def run(self) -> None:
        """Run rounds, with a look after each, until the confirmation or the worker ends. Raises SearchError."""
        session, rounds = self.session, self.planned.split.samples
        keys = [record.key for record in self._models]
        self._progress.watch(self._status)
        self._progress.begin("confirm", rounds * len(keys), self.deadline)
        self._look()
        while not self.ended() and self._may_begin(self.deadline):
            job = session.store.claim_round(session.worker, keys, self.machine.failed)
            if job is None:
                break
            number = self._had(job.record.on("confirm")) + 1
            done = sum(self._had(record.on("confirm")) for record in self._models)
            self._progress.trial(f"{self._name(job.record)}, round {number} of {rounds}", done)
            self._run(job, partial(self._round, job, number))
            self._look()
        self.machine.rests()

    def unfinished(self) -> str:
        """Return a sentence on the remaining work that no worker is doing; usually empty."""
        others = self.session.store.at_work() - {self.session.worker}
        at_it = any(it.on("confirm").state == "running" and it.on("confirm").worker in others for it in self._models)
        if at_it or confirmation_ended(self.records.read(), self._splits, self.session.store.looks):
            return ""
        over = rounds_over(self.records.read(), self._splits, self.planned.plan.finalists)
        return f"{over} of {self.planned.split.samples} rounds of the confirmation are over."

    def ended(self) -> str:
        """Return in words why the confirmation has ended or cannot go on; empty if it goes on."""
        if found := confirmation_ended(self.records.read(), self._splits, self.session.store.looks):
            return found
        failed = hindrance(self.records.read(), self.planned.plan.finalists)
        return f"{self._name(failed)} could not be scored: {failed.on('confirm').error}" if failed else ""

    @property
    def _models(self) -> list[TrialRecord]:
        return confirmed(self.records.read(), self.planned.plan.finalists)

    def _had(self, scoring: Scoring) -> int:
        """Return how many rounds a model has had."""
        return len(scoring.outcomes) // self.planned.split.problems

    def _look(self) -> None:
        """Make the looks that are due, and report what they show."""
        store, finalists = self.session.store, self.planned.plan.finalists
        while look := round_look(self.records.read(), self._splits, looks := store.looks, finalists):
            store.begin_look(look, looks)
            verdict = search_verdict(self.records.read(), self._splits, store.looks)
            self._progress.say(f"look {look.rounds} of {self.planned.split.samples}: {verdict.sentence}")

    def _round(self, job: Job, number: int) -> Result:
        """Run a round of a model, and add it to its earlier rounds."""
        bench, before, taken = self.session.bench, job.record.on("confirm"), ""
        bench.evaluator.sampling = self.planned.plan.sampling(number)
        if self.planned.takes_reported and (taken := job.record.on("report").outcomes):
            rest = self.planned.problems.subset(self.planned.plan.task_ids[len(taken) :])
            bench = replace(bench, splits={"confirm": rest})
        recipe = partial(Recipe.from_dict, job.record.recipe, self.session.config.source)
        result = run_job(job, recipe, bench, number=number)
        if result.record is None or result.record.on("confirm").state == "failed":
            return result
        round_ = result.record.on("confirm")
        added = added_up(before, replace(round_, outcomes=taken + round_.outcomes), self.planned.split)
        if number == 1 and job.record.kind == "trial":
            added = replace(added, by_seed=self._by_seed(recipe(), added.outcomes, self._name(job.record)))
        return replace(result, record=result.record.scored("confirm", added))

    def _by_seed(self, recipe: Recipe, outcomes: str, name: str) -> tuple[float, ...]:
        """Return the score of a round of a finalist with random masks, and its scores under other seeds."""
        bench, how = self.session.bench, replace(self.planned.split, samples=1)
        try:
            if not bench.merger.is_random(bench.located(recipe)):
                return ()
            self._progress.trial(f"{name}, under other random seeds", 0)
            with bench.parents.unchanged():
                others = bench.under_other_seeds(recipe, "confirm")
        except STOPS:
            raise
        except Exception as error:  # the round itself is complete
            _LOG.exception("scoring under other random seeds")
            self._progress.say(f"not scored under other random seeds: {describe(error)}")
            return ()
        return tuple(weighted_mean(how.groups(each)) for each in (outcomes, *others))


def added_up(before: Scoring, round_: Scoring, split: Split) -> Scoring:
    """Return the scoring of a model after one more round.

    Args:
        before: the scoring after all earlier rounds.
        round_: the scoring of this round.
        split: the split of the confirmation.
    """
    outcomes = before.outcomes + round_.outcomes
    how = replace(split, samples=len(outcomes) // split.problems)
    score = weighted_mean(how.groups(how.of_rounds(outcomes)))
    seconds = {phase: before.seconds.get(phase, 0.0) + took for phase, took in round_.seconds.items()}
    scoring = replace(
        round_,
        outcomes=outcomes,
        score=score,
        scores=(score,),
        log_likelihood=None,
        seconds=seconds,
        tokens=before.tokens + round_.tokens,
        guessed=before.guessed + round_.guessed,
        accepted=before.accepted + round_.accepted,
    )
    return scoring if how.samples == split.samples else next_round(scoring)
