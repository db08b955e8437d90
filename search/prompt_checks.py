"""How the models of a search are asked: what a person should know of that before any of them is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from transformers import GenerationConfig, PreTrainedTokenizerBase

from evaluation import EvaluationError, Problem, PromptFormat, prompt_notes
from evaluation.prompts import prompt_tokens

# The tokenizer that a model's prompts are made with, and the config that lists the tokens which end its texts.
Asked: TypeAlias = tuple[PreTrainedTokenizerBase, GenerationConfig]


def asking_notes(problems: Iterable[Problem], prompt: PromptFormat, models: Mapping[str, Asked]) -> Sequence[str]:
    """Return, in sentences, what is unusual about the prompts of some models, and who is asked unlike the first.

    Args:
        problems: what they are asked.
        prompt: the format, where a problem has none of its own.
        models: by their names; what holds for all of them is said once, without a name.

    Raises:
        EvaluationError: the first of them cannot be asked.
    """
    asked = list(problems)
    found: dict[str, list[str]] = {}
    tokens: dict[int, Sequence[Sequence[int]]] = {}
    for name, (tokenizer, config) in models.items():
        try:
            notes = prompt_notes(asked, prompt, tokenizer, config)
            if id(tokenizer) not in tokens:
                tokens[id(tokenizer)] = [prompt_tokens(problem, prompt, tokenizer)[1] for problem in asked]
        except EvaluationError as error:
            if not tokens:
                raise
            notes = [str(error)]
        for note in notes:
            found.setdefault(note, []).append(name)
    said = [note if len(names) == len(models) else f"{', '.join(names)}: {note}" for note, names in found.items()]
    first, *others = [(name, tokens.get(id(tokenizer), [])) for name, (tokenizer, _) in models.items()]
    for name, theirs in others:
        if unlike := sum(own != other for own, other in zip(first[1], theirs, strict=False)):
            said.append(
                f"{name}: {unlike} of {len(theirs)} prompts have other tokens than those of {first[0]}; one tokenizer "
                "asks all if evaluation.prompt.tokenizer names it"
            )
    return said
