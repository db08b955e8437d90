"""Checks of the prompts of a search, before any model is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from transformers import PreTrainedTokenizerBase

from evaluation import EvaluationError, ProblemSet, prompt_notes
from evaluation.generation.text import configured_ends
from evaluation.prompts import check_ids, prompt_tokens
from merging import Merger, Recipe
from search.board.names import LABEL_WIDTH, parent_names
from search.errors import SearchError
from search.space.config import SearchConfig


def require_template(config: SearchConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise SearchError if prompts are chats and the tokenizer has no chat template."""
    if config.evaluation.prompt.format == "chat" and not tokenizer.chat_template:
        raise SearchError(
            f"{config.source}: evaluation.prompt: the format is chat, but the merge's tokenizer has no chat template; "
            "name a model that has one under evaluation.prompt.tokenizer"
        )


def notes_on_prompts(
    config: SearchConfig,
    problems: ProblemSet,
    merger: Merger,
    recipes: Mapping[str, Recipe],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Sequence[str]:
    """Return, in sentences, what is unusual about the prompts, and which models get other prompts than the first.

    Args:
        config: the search's.
        problems: the problems.
        merger: opens the tokenizers.
        recipes: the models, by their displayed names; a note that holds for all of them names none.
        tokenizer: the tokenizer for all models, if the config names one.

    Raises:
        SearchError: the prompts of the first model cannot be made.
    """
    prompt = config.evaluation.prompt.format
    parents = dict.fromkeys(name for recipe in recipes.values() for name in recipe.parents())
    short = parent_names([Recipe.single(name).to_dict() for name in parents], LABEL_WIDTH)

    @cache
    def tokens_with(own: PreTrainedTokenizerBase) -> Sequence[Sequence[int]]:
        return [tokens for _, tokens in prompt_tokens(problems, prompt, own)]

    @cache
    def notes_of(own: PreTrainedTokenizerBase, ends: frozenset[int]) -> Sequence[str]:
        return prompt_notes(problems, prompt, own, ends)

    found: dict[str, list[str]] = {}
    prompts: dict[str, Sequence[Sequence[int]]] = {}
    for name, recipe in recipes.items():
        own = tokenizer or merger.tokenizer(recipe)
        try:
            notes = notes_of(
                own, configured_ends(merger.parents.checkpoints[recipe.config_source].generation_config, own)
            )
            found_tokens = tokens_with(own)
            for problem, tokens in zip(problems, found_tokens, strict=True):
                check_ids(problem.task_id, tokens, _embeddings(merger, recipe), own)
            prompts[name] = found_tokens
        except EvaluationError as error:
            if not prompts:
                raise SearchError(f"{config.source}: evaluation.prompt: {error}") from None
            notes = [str(error)]
        for note in notes:
            found.setdefault(note, []).append(short.get(name, name))
    said = [note if len(names) == len(recipes) else f"{', '.join(names)}: {note}" for note, names in found.items()]
    (first, expected), *others = prompts.items()
    if unlike := [short.get(name, name) for name, tokens in others if tokens != expected]:
        said.append(
            f"{', '.join(unlike)}: the prompts have other tokens than for {short.get(first, first)}; set "
            "evaluation.prompt.tokenizer to use one tokenizer for all"
        )
    return said


def _embeddings(merger: Merger, recipe: Recipe) -> int:
    """Return the number of tokens that a merge has embeddings for."""
    name = merger.parents.architecture.embedding
    return next(entry.shape[0] for entry in merger.plan(recipe).entries if entry.name == name)
