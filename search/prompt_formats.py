"""Each prompt format under each tokenizer, as a person would try them by hand before a search chooses one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation import PROMPT_FORMATS, EvaluationError, Evaluator, OutcomeCounter, PromptFormat, Report

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a prompt format under a tokenizer.

    Attributes:
        prompt: the format.
        tokenizer: whose tokenizer and chat template it was.
        report: what the model did, if it was asked.
        note: why it was not.
    """

    prompt: PromptFormat
    tokenizer: str
    report: Report | None
    note: str = ""


def try_prompt_formats(
    evaluator: Evaluator,
    model: PreTrainedModel,
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    progress: Callable[[str, int, int], None],
) -> Sequence[Tried]:
    """Score a model in each prompt format under each tokenizer; what would be asked word for word again is not.

    Args:
        evaluator: scores it.
        model: the model.
        tokenizers: by whose they are.
        progress: called with (what is scored, problems scored, problems in all).
    """
    rows: list[Tried] = []
    asked: dict[object, str] = {}
    for prompt in PROMPT_FORMATS:
        for name, tokenizer in tokenizers.items():
            here = f"{prompt}, {name}"
            try:
                tokens = evaluator.prompt_tokens(tokenizer, prompt)
                if (before := asked.get(tokens)) is not None:
                    rows.append(Tried(prompt, name, None, f"the same prompts as {before}"))
                    continue
                _check_ids(tokens, model)
                counter = OutcomeCounter(partial(progress, here))
                report = evaluator.evaluate(model, tokenizer, prompt_format=prompt, observers=[counter])
            except EvaluationError as error:
                rows.append(Tried(prompt, name, None, str(error).partition(";")[0]))
                continue
            asked[tokens] = here
            rows.append(Tried(prompt, name, report))
    return rows


def table(rows: Sequence[Tried]) -> Table:
    """Return what was tried as a table, the best first."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("prompt", "tokenizer", "pass@1 [95%]", "s", ""):
        shown.add_column(column, justify="right" if column in ("pass@1 [95%]", "s") else "left")
    for row in sorted(rows, key=lambda row: -1.0 if row.report is None else row.report.pass_at_1, reverse=True):
        cells = [row.prompt, row.tokenizer, "", "", row.note]
        if row.report is not None:
            low, high = row.report.interval
            cells[2:4] = [f"{row.report.pass_at_1:.1%} [{low:.0%}, {high:.0%}]", f"{row.report.seconds:.1f}"]
        shown.add_row(*(Text(cell) for cell in cells))
    return shown


def _check_ids(tokens: Sequence[Sequence[int]], model: PreTrainedModel) -> None:
    table: Any = model.get_input_embeddings()
    rows = table.weight.shape[0]
    highest = max((max(ids, default=0) for ids in tokens), default=0)
    if highest >= rows:
        raise EvaluationError(f"the tokenizer has ids up to {highest}, and the model's embedding has {rows} rows")
