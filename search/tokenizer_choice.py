"""The choice of the tokenizer that a merge is exported with, and of the prompt format that suits it.

Guarantees: only the search split decides, which has chosen the merge, too; the report split is used once, to score the
choice. The weights stay as they are. The search's own prompt is given up only for one that solves more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evaluation import OutcomeCounter, Report, paired_test
from merging import Recipe, load_tokenizer
from merging.checkpoints.checkpoint import locate
from merging.tokenization.tokenizers import has_tokenizer
from search.board.search_verdict import shown_p
from search.errors import SearchError
from search.prompt_formats import Tried, try_prompt_formats
from search.rescoring import Candidate, scored_again

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEST: Final = "best"
"""Asks for the best of all parents' tokenizers and all prompt formats."""
_OWN: Final = "the merge"


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """What an export is written with.

    Attributes:
        owner: the place of the tokenizer's model; None for the recipe's tokenizer.
        section: what the model card says about the choice.
        tried: what was compared, if anything was.
        end_tokens: the ids that ended completions with it; None if it was not scored.
    """

    owner: str | None
    section: str
    tried: tuple[Tried, ...] = ()
    end_tokens: tuple[int, ...] | None = None


def named_tokenizer(merge: Candidate, wanted: str) -> TokenizerChoice:
    """Return the choice of the tokenizer of a parent that the user names; nothing is scored.

    Raises SearchError if it is not a parent, or if its ids do not match the merge's rows.
    """
    _refuse_arranged_rows(merge.recipe)
    owners = merge.owners
    found = {name: name for name in owners} | {place: name for name, place in owners.items()}
    if (name := found.get(wanted)) is None:
        known = ", ".join((BEST, *owners))
        raise SearchError(
            f"{merge.folder.path}: --tokenizer {wanted}: is not a parent of this merge; give one of {known}"
        )
    section = (
        f"\n## Tokenizer\n\nThe tokenizer and chat template are those of `{name}`, as asked for. The merge was not "
        "scored with them: the scores above are those of the tokenizer and prompt format that the search used.\n"
    )
    return TokenizerChoice(owners[name], section)


def best_tokenizer(merge: Candidate, allow_code_execution: bool, note: Callable[[str], None]) -> TokenizerChoice:
    """Try every parent's tokenizer in every prompt format; return the choice that solves most of the search split.

    Args:
        merge: what is to be exported.
        allow_code_execution: consent, if the config does not give it.
        note: called with notes for the user, in sentences.

    Raises:
        ConsentError: nobody has consented to execute code.
        SearchError, MergingError, EvaluationError: the merge cannot be scored here.
    """
    _refuse_arranged_rows(merge.recipe)
    settings, tasks = merge.evaluation, merge.folder.splits
    with scored_again(merge, allow_code_execution) as (evaluator, model, own):
        problems = evaluator.problems
        tokenizers, owners = _tokenizers(merge, own)
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


def _refuse_arranged_rows(recipe: Recipe) -> None:
    if recipe.vocabulary_source:
        raise SearchError(
            f"--tokenizer: the recipe arranges the embedding by tokenizer_source: {recipe.vocabulary_source}, and the "
            "ids of another tokenizer would name other rows; leave --tokenizer out"
        )


def _tokenizers(
    merge: Candidate, own: PreTrainedTokenizerBase
) -> tuple[dict[str, PreTrainedTokenizerBase], dict[str, str | None]]:
    """Return the tokenizers to try, the search's own first, and where their owners lie, both by displayed name."""
    options, owners = merge.sections.merging.load_options, merge.owners
    places: dict[str, str | None] = {_OWN: None}
    places.update((name, place) for name, place in owners.items() if has_tokenizer(locate(place, options)))
    if asked := merge.evaluation.prompt.tokenizer:
        place = merge.places.get(asked, asked)
        name = next((name for name, at in owners.items() if at == place), Path(asked).name)
        places = {name: place, **places}
    found = {name: load_tokenizer(place, options) if place else own for name, place in places.items()}
    return found, places


def _best(tried: Sequence[Tried], before: Tried) -> Tried:
    """Return the row that solves most; the search's own if none solves more."""
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
        if all(row.report or row.is_repeated for row in tried):
            return f"Every tokenizer makes the same prompts, and there is no other: {_called(best)}."
        return f"There is no choice but {_called(best)}: every other prompt is the same, or cannot be scored."
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
        "with them: the parents were not asked in this way."
    )


def _called(row: Tried) -> str:
    return f"{row.prompt} with the tokenizer of {_named(row)}"


def _named(row: Tried) -> str:
    return row.tokenizer if row.tokenizer == _OWN else f"`{row.tokenizer}`"


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

The tokenizer and chat template here are those of {_named(best)}; ask the model in the format `{best.prompt}`.

{_ruling(tried, best, before, report)}

| prompt | tokenizer | search split | won:lost against the search's |
|---|---|---|---|
{table}
"""
