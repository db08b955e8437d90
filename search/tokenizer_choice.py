"""The choice of the tokenizer that a merge is exported with, and of the prompt format that suits it.

Guarantees: the search split alone chooses, which has chosen the merge, too; the report split is asked once, of what was
chosen. The weights stay as they are. What the search scored with is left only for something that solves more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from evaluation import PROMPT_FORMATS, ConsentError, Evaluator, OutcomeCounter, ProblemSet, Report, paired_test
from evaluation.generation.room import Room
from merging import FileDigests, MergeOptions, Merger, ParentSet, Recipe, load_tokenizer, renamed
from merging.tokenization.tokenizers import has_tokenizer
from search.board.names import LABEL_WIDTH, parent_names
from search.board.search_verdict import shown_p
from search.confirmation_plan import recorded_evaluation
from search.devices import choose_device, device_map_of
from search.errors import SearchError
from search.planned_memory import Generation, plans_of_evaluation
from search.prompt_formats import Tried, try_prompt_formats
from search.results import ResultsFolder
from search.space.sections import EvaluationSection, Sections
from search.study.record import TrialRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BEST: Final = "best"
"""Of all parents' tokenizers, and in every prompt format."""
_OWN: Final = "the merge"


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """What an export is written with.

    Attributes:
        owner: the model whose tokenizer it is, by where it lies; None for that of the recipe.
        section: what the model card says about the choice.
        tried: what was compared, if anything was.
        end_tokens: the ids that ended completions with it; None if it was not scored.
    """

    owner: str | None
    section: str
    tried: tuple[Tried, ...] = ()
    end_tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A merge whose tokenizer is to be chosen.

    Attributes:
        folder: of its search.
        record: of the merge.
        places: where its parents are, by what the record calls them.
        digests: of their files.
        progress: called with (phase, done, in all).
    """

    folder: ResultsFolder
    record: TrialRecord
    places: Mapping[str, str]
    digests: FileDigests
    progress: Callable[[str, int, int], None]

    @property
    def recipe(self) -> Recipe:
        """The recipe, with its models called by where they are."""
        return Recipe.from_dict(renamed(self.record.recipe, self.places), str(self.folder.path))

    @property
    def owners(self) -> dict[str, str]:
        """Where the parents are, by the names that people call them."""
        recipe = Recipe.from_dict(self.record.recipe, str(self.folder.path))
        names = parent_names([Recipe.single(name).to_dict() for name in recipe.parents()], LABEL_WIDTH)
        return {names[name]: renamed(name, self.places) for name in recipe.parents()}

    @property
    def evaluation(self) -> EvaluationSection:
        """How the search scored."""
        return recorded_evaluation(self.folder.identity, Sections.load(self.folder.config_file), self.folder.path)


def named_tokenizer(merge: Candidate, wanted: str) -> TokenizerChoice:
    """Return the choice of the parent that a person names; nothing is scored.

    Raises SearchError if it is no parent, or if its ids do not mean the merge's rows.
    """
    _require_plain_rows(merge.recipe)
    owners = merge.owners
    found = {name: name for name in owners} | {place: name for name, place in owners.items()}
    if (name := found.get(wanted)) is None:
        known = ", ".join((BEST, *owners))
        raise SearchError(f"{merge.folder.path}: --tokenizer {wanted}: is no parent of this merge; give one of {known}")
    section = (
        f"\n## Tokenizer\n\nThe tokenizer and chat template are those of `{name}`, as asked for. The merge was not "
        "scored with them: the scores above are those of the tokenizer and prompt format that the search used.\n"
    )
    return TokenizerChoice(owners[name], section)


def best_tokenizer(merge: Candidate, allow_code_execution: bool, note: Callable[[str], None]) -> TokenizerChoice:
    """Return the choice that solves most of the search split, of every parent's tokenizer in every prompt format.

    Args:
        merge: what is to be exported.
        allow_code_execution: consent, if the config does not give it.
        note: told what a person should know, in sentences.

    Raises:
        ConsentError: nobody has consented to execute code.
        SearchError, MergingError, EvaluationError: the merge cannot be scored here.
    """
    config = Sections.load(merge.folder.config_file)
    if not (allow_code_execution or config.evaluation.allow_code_execution):
        raise ConsentError
    _require_plain_rows(merge.recipe)
    settings = merge.evaluation
    problems, tasks = settings.load_problems(str(merge.folder.path)), merge.folder.identity["problems"]
    if problems.digest != tasks["sha256"]:
        raise SearchError(f"{merge.folder.path}: the problems have changed since the search began; restore them")
    with _live(merge, config, problems) as (evaluator, model, own):
        asked = settings.prompt.tokenizer
        tokenizers, owners = _tokenizers(merge, own, config, asked)
        scored_by = next(iter(tokenizers))
        tried = try_prompt_formats(evaluator, model, tokenizers, merge.progress, problems.subset(tasks["search"]))
        before = next(row for row in tried if (row.prompt, row.tokenizer) == (settings.prompt.format, scored_by))
        best = _best(tried, before)
        report = None
        if best != before and tasks["report"]:
            report = evaluator.evaluate(
                model,
                tokenizers[best.tokenizer],
                problems=problems.subset(tasks["report"]),
                prompt_format=best.prompt,
                observers=[
                    OutcomeCounter(lambda *done: merge.progress("scoring the choice on the report split", *done))
                ],
                plain=True,
            )
    note(_ruling(tried, best, before, report))
    section = _section(tried, best, before, report)
    ends = best.report.end_tokens if best.report else None
    return TokenizerChoice(owners[best.tokenizer], section, tuple(tried), ends)


def _require_plain_rows(recipe: Recipe) -> None:
    if recipe.vocabulary_source:
        raise SearchError(
            f"--tokenizer: the recipe arranges the embedding by tokenizer_source: {recipe.vocabulary_source}, and the "
            " ids of another tokenizer would name other rows; leave --tokenizer out"
        )


@contextlib.contextmanager
def _live(
    merge: Candidate, config: Sections, problems: ProblemSet
) -> Iterator[tuple[Evaluator, PreTrainedModel, PreTrainedTokenizerBase]]:
    """Yield an evaluator that scores as the search did, the live merge, and the recipe's own tokenizer."""
    settings, recipe, source = merge.evaluation, merge.recipe, str(merge.folder.config_file)
    where = MergeOptions(
        choose_device(config.merging.device, f"{source}: merging.device", settings.backend),
        config.merging.device_map,
        memory_budget=0,
        statistics=merge.folder.statistics,
        load=config.merging.load_options,
    )
    with device_map_of(source), ParentSet.open(recipe, where, digests=merge.digests) as parents:
        merger = Merger(parents, config.merging.random_seed)
        is_wide = merge.folder.compute_dtype == "float32"
        own = merger.tokenizer(recipe)
        with Evaluator(
            problems,
            allow_code_execution=True,
            prompt_format=settings.prompt.format,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            timeout_seconds=settings.timeout,
            workers=settings.workers,
            backend=settings.backend,
            sampling=settings.sampling(merge.folder.identity["search"]["seed"]),
            room=_room(recipe, where, settings, problems, is_wide),
        ) as evaluator:
            merger.calibrate(recipe, lambda what, *read: merge.progress(what, *read))
            merger.compute_dtype = torch.float32 if is_wide else None
            model = merger.apply(recipe, lambda *done: merge.progress("merging", *done))
            yield evaluator, model, own


def _room(
    recipe: Recipe, where: MergeOptions, settings: EvaluationSection, problems: ProblemSet, is_wide: bool
) -> Room:
    own, wide = plans_of_evaluation(
        recipe,
        where,
        lambda tokenizer: Generation.of(
            settings.backend,
            [problems],
            tokenizer,
            PROMPT_FORMATS,
            settings.max_new_tokens,
            settings.samples,
            settings.batch_size,
        ),
    )
    plan = wide if is_wide else own
    if plan.refusal:
        raise SearchError(f"--tokenizer {BEST}: the merge has no room here to be scored: {plan.refusal}")
    return plan.room


def _tokenizers(
    merge: Candidate, own: PreTrainedTokenizerBase, config: Sections, asked: str | None
) -> tuple[dict[str, PreTrainedTokenizerBase], dict[str, str | None]]:
    """Return the tokenizers that are tried, that which the search used first, and their owners, by people's names."""
    options, owners = config.merging.load_options, merge.owners
    places: dict[str, str | None] = {_OWN: None}
    places.update((name, place) for name, place in owners.items() if _has_tokenizer(place))
    if asked:
        place = merge.places.get(asked, asked)
        name = next((name for name, at in owners.items() if at == place), Path(asked).name)
        places = {name: place, **places}
    found = {name: load_tokenizer(place, options) if place else own for name, place in places.items()}
    return found, places


def _has_tokenizer(place: str) -> bool:
    from merging.checkpoints.checkpoint import locate

    return has_tokenizer(locate(place))


def _best(tried: Sequence[Tried], before: Tried) -> Tried:
    """Return the row that solves most; what the search scored with, where nothing solves more than that."""
    scored = [row for row in tried if row.report]
    first = [before] if before.report else []
    return max([*first, *scored], key=lambda row: row.report.pass_at_1 if row.report else -1.0)


def _against(row: Tried, before: Tried) -> str:
    """Return how a prompt compares with that of the search, in words."""
    if not (row.report and before.report) or row == before:
        return ""
    test = paired_test(row.report.rates, before.report.rates)
    return f"{len(test.won)}:{len(test.lost)}, p = {shown_p(test.p_value)}"


def _ruling(tried: Sequence[Tried], best: Tried, before: Tried, report: Report | None) -> str:
    """Return what was chosen, and how sure that is, in sentences."""
    count = sum(row.report is not None for row in tried)
    problems = len(best.report.samples) if best.report else 0
    if count == 1:
        return f"Every tokenizer makes the same prompts, and there is no other: {_called(before)}."
    if best == before:
        return (
            f"Of {count} different prompts none solves more of the {problems} problems of the search split than that "
            f"of the search: {_called(before)}."
        )
    against = _against(best, before)
    compared = f" (won:lost {against}, McNemar, not corrected for the {count} that were tried)" if against else ""
    said = (
        f"Of {count} different prompts, {_called(best)} solves most of the {problems} problems of the search split: "
        f"{_percent(best)} against {_percent(before)} with that of the search, {_called(before)}{compared}."
    )
    if report is None:
        return said
    low, high = report.interval
    return (
        f"{said} On the report split, which had no part in this choice, it solves {report.pass_at_1:.1%} (95% interval "
        f"{low:.1%} to {high:.1%}). That is with another prompt than the other scores here, so it is not comparable "
        "with them: the parents were not asked so."
    )


def _called(row: Tried) -> str:
    return f"{row.prompt} with the tokenizer of {row.tokenizer}"


def _percent(row: Tried) -> str:
    return f"{row.report.pass_at_1:.1%}" if row.report else "no score"


def _escaped(text: str) -> str:
    """Return text as a cell of a Markdown table holds it."""
    return text.replace("|", "\\|")


def _section(tried: Sequence[Tried], best: Tried, before: Tried, report: Report | None) -> str:
    ranked = sorted(tried, key=lambda row: row.report.pass_at_1 if row.report else -1.0, reverse=True)
    cells = (
        (row.prompt, row.tokenizer, _percent(row) if row.report else row.note, _against(row, before)) for row in ranked
    )
    lines = [f"| {' | '.join(map(_escaped, each))} |" for each in cells]
    table = "\n".join(lines)
    return f"""
## Tokenizer and prompt

The tokenizer and chat template here are those of {best.tokenizer}; ask the model in the format `{best.prompt}`.

{_ruling(tried, best, before, report)}

| prompt | tokenizer | search split | won:lost against the search's |
|---|---|---|---|
{table}
"""
