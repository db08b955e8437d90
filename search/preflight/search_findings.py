"""Findings about the search itself: its folder, problems, space, prompts, and what it can prove."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evaluation import EvaluationError, ProblemSet, PromptFormat
from evaluation.prompts import prompt_tokens, render
from merging import Merger, Recipe, load_tokenizer
from merging.tokenization.tokenizers import has_tokenizer
from search.board.power import ASSUMED_DISCORDANCE, least_gain, what_is_provable
from search.counts import counted
from search.preflight.finding import Finding
from search.progress import Progress
from search.prompt_checks import notes_on_prompts, require_template
from search.results import ResultsFolder
from search.space.config import SearchConfig
from search.space.space import SearchSpace
from search.unread import unread_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from search.preflight.subject import Subject

_PROMPTS = "prompts"


def results(subject: Subject) -> Iterator[Finding]:
    """Yield whether the search may run in its results folder, and whether it may execute code."""
    config, out = subject.config, subject.out
    ResultsFolder.refuse(out, config, fresh=False)
    if subject.begun:
        next_run = f"no other will run: {subject.ended.reason}" if subject.ended else "a run continues it"
        told = f"{out} holds this search with the results of {counted(len(subject.begun.over), 'trial')}; {next_run}"
        yield Finding("ok", "results", told)
    else:
        yield Finding("ok", "results", f"{out}: a new folder")
    if not config.evaluation.allow_code_execution:
        yield Finding(
            "note",
            "results",
            "scoring executes what models generate, and the config does not allow it yet",
            "run needs --allow-code-execution, or evaluation.allow_code_execution: true",
        )


def problems(subject: Subject) -> Iterator[Finding]:
    """Yield how many problems each split has."""
    visible, report = subject.splits
    parts = [f"{len(part.task_ids)} of {part.name}" for part in subject.problems.parts]
    sets = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    told = f"{len(subject.problems):,}{sets}: {len(visible):,} to search on, {len(report):,} for the report"
    yield Finding("ok", "problems", told)


def merges(subject: Subject) -> Iterator[Finding]:
    """Yield whether the points of the space can be merged."""
    space = subject.config.space
    if subject.space_warning:
        yield Finding("warning", "merges", subject.space_warning)
    methods = dict.fromkeys(recipe.merge_method for recipe in subject.candidates)
    numbers = sum(len(found.names) for found in space.ranges)
    told = f"{counted(numbers, 'parameter')} in {counted(len(space.ranges), 'range')}; {' or '.join(methods)}"
    yield Finding("ok", "merges", told)


def parameters(subject: Subject) -> Iterator[Finding]:
    """Yield the parameters that nothing reads."""
    found = list(unread_findings(subject.config.space, subject.merger, subject.candidates, subject.progress))
    yield from found or [Finding("ok", "parameters", "every number of the recipe matters to some tensor")]


def unread_findings(
    space: SearchSpace, merger: Merger, recipes: Sequence[Recipe], progress: Progress
) -> Iterator[Finding]:
    """Yield the parameters that nothing reads; see `unread_lines`."""
    yield from (Finding("warning", "parameters", line) for line in unread_lines(space, merger, recipes, progress))


def prompts(subject: Subject) -> Iterator[Finding]:
    """Yield what is unusual about the prompts, and whether they fit into the models' contexts."""
    config, merger = subject.config, subject.merger
    for recipe in subject.candidates:
        require_template(config, subject.tokenizer or merger.tokenizer(recipe))
    found = list(prompt_findings(config, subject.problems, merger, subject.models, subject.tokenizer))
    found += _of_auto_tokenizer(subject)
    own = subject.tokenizer or merger.tokenizer(subject.candidates[0])
    lengths = [len(tokens) for _, tokens in prompt_tokens(subject.problems, config.evaluation.prompt.format, own)]
    found += _of_context(subject, max(lengths))
    yield from found
    yield Finding(
        "ok",
        _PROMPTS,
        f"{counted(len(lengths), f'{config.evaluation.prompt.format} prompt')} of up to {max(lengths):,} tokens",
    )


def prompt_findings(
    config: SearchConfig,
    problems: ProblemSet,
    merger: Merger,
    recipes: Mapping[str, Recipe],
    tokenizer: PreTrainedTokenizerBase | None,
) -> Iterator[Finding]:
    """Yield what is unusual about the prompts; see `notes_on_prompts`."""
    notes = notes_on_prompts(config, problems, merger, recipes, tokenizer)
    yield from (Finding("warning", _PROMPTS, note) for note in notes)


def _of_context(subject: Subject, longest: int) -> Iterator[Finding]:
    wanted = longest + subject.config.evaluation.max_new_tokens
    source = subject.parents.checkpoints[subject.candidates[0].config_source]
    context = int(getattr(source.config.get_text_config(), "max_position_embeddings", 0) or wanted)
    if wanted > context:
        yield Finding(
            "warning",
            _PROMPTS,
            f"the longest prompt has {longest:,} tokens, which leaves {max(0, context - longest):,} of "
            f"{subject.config.evaluation.max_new_tokens:,} for its completion: models have a context of {context:,}",
            "set evaluation.max_new_tokens lower, or leave such problems out",
        )


def _of_auto_tokenizer(subject: Subject) -> Iterator[Finding]:
    """Yield the parents for which AutoTokenizer, which users of an export will load it with, gives other ids."""
    prompt = subject.config.evaluation.prompt
    texts = partial(_texts, subject.problems, prompt.format)
    for name in [prompt.tokenizer] if prompt.tokenizer else subject.names:
        folder = subject.parents.checkpoints[name].folder if name in subject.names else None
        options = subject.config.merging.load_options
        if folder and not has_tokenizer(folder):
            continue
        own = load_tokenizer(name, options)
        if differing := _differing(own, texts(own), options.trust_remote_code):
            yield Finding(
                "warning",
                _PROMPTS,
                f"{name}: AutoTokenizer splits {differing} of {len(subject.problems)} prompts differently from its "
                "tokenizer.json, which prompts are made with here; exports are used with AutoTokenizer",
                "set tokenizer_class to PreTrainedTokenizerFast in its tokenizer_config.json",
            )


def _texts(problems: ProblemSet, prompt: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> Sequence[str]:
    try:
        return [render(problem, problem.prompt_format or prompt, tokenizer) for problem in problems]
    except EvaluationError:  # told by the notes on prompts
        return []


def _differing(own: PreTrainedTokenizerBase, texts: Sequence[str], trust: bool) -> int:
    """Return how many texts AutoTokenizer splits differently from `load_tokenizer`, which keeps tokenizer.json."""
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(own.name_or_path, trust_remote_code=trust)
    return sum(plain.encode(text) != own.encode(text) for text in texts)


def evidence(subject: Subject) -> Iterator[Finding]:
    """Yield what the report split can prove."""
    yield provable(subject.config, len(subject.splits[1]), subject.looks.at_end(subject.config.search.trials))


def provable(config: SearchConfig, problems: int, at_end: float) -> Finding:
    """Return what a search with a number of report problems can prove; see `what_is_provable`."""
    told = what_is_provable(config, problems, at_end)
    if not told:
        return Finding("note", "evidence", "there is no report split, so nothing can be proven")
    if config.objectives > 1:
        return Finding("note", "evidence", told)
    if at_end <= 0 or least_gain(problems, ASSUMED_DISCORDANCE, at_end / config.search.finalists) is None:
        remedy = "score on more problems, or raise evaluation.report_fraction"
        return Finding("warning", "evidence", told, remedy)
    return Finding("ok", "evidence", told)
