"""A model's scores in each prompt format under each tokenizer, to choose one before a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation import PROMPT_FORMATS, EvaluationError, Evaluator, OutcomeCounter, ProblemSet, PromptFormat, Report
from evaluation.generation.text import end_tokens


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of a prompt format under a tokenizer.

    Attributes:
        prompt: the format.
        tokenizer: the owner of the tokenizer and its chat template.
        report: the model's report, if it was scored.
        note: why it was not scored.
        is_repeated: whether it was not scored because an earlier format and tokenizer make the same prompts.
    """

    prompt: PromptFormat
    tokenizer: str
    report: Report | None
    note: str = ""
    is_repeated: bool = False


def try_prompt_formats(
    evaluator: Evaluator,
    model: PreTrainedModel,
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    progress: Callable[[str, int, int], None],
    problems: ProblemSet | None = None,
) -> Sequence[Tried]:
    """Score a model in each prompt format under each tokenizer; the same prompts and ends are not scored again.

    Args:
        evaluator: scores it.
        model: the model.
        tokenizers: by their owners.
        progress: called with (what is scored, problems scored, problems in all).
        problems: some of the evaluator's, by default all.
    """
    rows: list[Tried] = []
    scored: dict[object, str] = {}
    for prompt in PROMPT_FORMATS:
        for name, tokenizer in tokenizers.items():
            here = f"{prompt}, {name}"
            try:
                tokens = evaluator.prompt_tokens(tokenizer, prompt, problems)
                asked = (tokens, end_tokens(model, tokenizer))
                if (before := scored.get(asked)) is not None:
                    rows.append(Tried(prompt, name, None, f"the same prompts as {before}", is_repeated=True))
                    continue
                counter = OutcomeCounter(partial(progress, here))
                report = evaluator.evaluate(
                    model, tokenizer, problems=problems, prompt_format=prompt, observers=[counter]
                )
            except EvaluationError as error:
                rows.append(Tried(prompt, name, None, str(error).partition(";")[0]))
                continue
            scored[asked] = here
            rows.append(Tried(prompt, name, report))
    return rows
