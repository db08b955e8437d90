"""Notes on a tokenizer's prompts, for users to read before a model is scored with them.

Guarantees: the notes say where prompts differ from what the tokenizer or its chat template would make, and which
choices cannot be decided here. They change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.chat_template import as_rendered, ask, special_tokens, turn_end
from evaluation.problems import Problem, PromptFormat
from evaluation.prompts import encode, question, render

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def prompt_notes(
    problems: Iterable[Problem],
    prompt_format: PromptFormat,
    tokenizer: PreTrainedTokenizerBase,
    ends: frozenset[int] | None = None,
) -> Sequence[str]:
    """Return sentences on what users would not expect in the prompts of some problems.

    Args:
        problems: the problems to solve.
        prompt_format: the format of problems that have none of their own.
        tokenizer: the tokenizer, with its chat template.
        ends: the tokens that end a text, according to the model's generation config or the tokenizer; by default the
            tokenizer's EOS.

    Raises:
        EvaluationError: a prompt cannot be made.
    """
    formats: dict[PromptFormat, list[Problem]] = {}
    for problem in problems:
        formats.setdefault(problem.prompt_format or prompt_format, []).append(problem)
    notes: list[str] = []
    file = _file(tokenizer)
    for own_format, those in formats.items():
        texts = {problem.task_id: render(problem, own_format, tokenizer) for problem in those}
        notes += _of_surroundings(next(iter(texts.values())), own_format, tokenizer, file)
        notes += _of_ids(texts, tokenizer, file) if file else ()
        if own_format == "chat":
            notes += _of_template(those, tokenizer)
            notes += _of_turn_end(tokenizer, {tokenizer.eos_token_id} if ends is None else ends)
        else:
            notes += _of_marks(texts, tokenizer)
    return list(dict.fromkeys(notes))


def _of_surroundings(
    text: str, prompt: PromptFormat, tokenizer: PreTrainedTokenizerBase, file: Tokenizer | None
) -> Iterator[str]:
    kept = encode(text, prompt, tokenizer, special_tokens(tokenizer))
    given = tokenizer.encode(text, add_special_tokens=prompt == "completion")
    bos, doubled = tokenizer.bos_token_id, 0
    while given[doubled : doubled + 2] == [bos, bos]:
        doubled += 1
    if doubled:
        yield f"{prompt} prompts begin with one {tokenizer.bos_token}, where the tokenizer would put {doubled + 1}"
    if appended := given[doubled + len(kept) :]:
        names = " ".join(map(str, tokenizer.convert_ids_to_tokens(appended)))
        yield f"{prompt} prompts end without {names}, which the tokenizer appends: a model generates nothing after it"
    begins = bos is not None and kept[:1] == [bos]
    if others := [who for who, puts in _who_puts_bos(prompt, tokenizer, file).items() if puts != begins]:
        yield (
            f"{prompt} prompts begin {'with' if begins else 'without'} {tokenizer.bos_token}, unlike "
            f"{' and '.join(others)}"
        )


def _who_puts_bos(
    prompt: PromptFormat, tokenizer: PreTrainedTokenizerBase, file: Tokenizer | None
) -> Mapping[str, bool]:
    """Return each place that says whether a text begins with BOS, and what it says."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return {}
    if prompt == "chat":  # the template decides
        return {"the tokenizer's encoding of plain text": True} if tokenizer.encode("x")[:1] == [bos] else {}
    found = {}
    if tokenizer.chat_template and as_rendered(tokenizer, "x").startswith(str(tokenizer.bos_token)):
        found["the chat template"] = True
    if file:
        found["tokenizer.json"] = file.encode("x").ids[:1] == [bos]
    settings = Path(tokenizer.name_or_path, "tokenizer_config.json")
    said = json.loads(settings.read_text(encoding="utf-8")).get("add_bos_token") if settings.is_file() else None
    if isinstance(said, bool):
        found[f"tokenizer_config.json (add_bos_token: {str(said).lower()})"] = said
    return found


def _of_ids(texts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, file: Tokenizer) -> Iterator[str]:
    plain = {task: tokenizer.encode(text, add_special_tokens=False) for task, text in texts.items()}
    differing = [task for task, text in texts.items() if file.encode(text, add_special_tokens=False).ids != plain[task]]
    if differing:
        name = type(tokenizer).__name__
        yield f"tokenizer.json and {name} give different ids for {_counted(differing, texts)}; prompts use {name}'s"


def _file(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """Return the tokenizer of tokenizer.json, if the tokenizer was read from a folder that has this file."""
    file = Path(tokenizer.name_or_path, "tokenizer.json")
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(file))
    found.no_truncation()
    found.no_padding()
    return found


def _of_template(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    questions = {problem.task_id: question(problem) for problem in problems}
    changed = [task for task, text in questions.items() if text not in as_rendered(tokenizer, text)]
    if changed:
        yield f"the chat template rewrites the user's message in {_counted(changed, questions)}; prompts keep it as is"
    template = str(tokenizer.chat_template)
    if "strftime_now" in template and "date_string" not in template:
        yield "the chat template writes today's date: models that are scored on another day get different prompts"
    asked = ask("x", tokenizer)
    if asked != as_rendered(tokenizer, "x"):
        yield (
            "the chat template does not open the assistant's turn in a prompt; prompts end with "
            f"{asked.splitlines()[-1]!r}, which opens it in the template's conversations"
        )


def _of_turn_end(tokenizer: PreTrainedTokenizerBase, ends: Collection[int | None]) -> Iterator[str]:
    end = turn_end(tokenizer)
    if end and end.token is None:
        yield (
            f"the chat template ends an answer with {end.text}, which is not a token of the tokenizer; an answer ends "
            "where the model generates it as text"
        )
    elif end and end.token not in ends:
        yield (
            f"the chat template ends an answer with {end.text}, which generation_config.json does not list "
            "(eos_token_id); an answer still ends there"
        )


def _of_marks(texts: Mapping[str, str], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    marks = {*tokenizer.all_special_tokens, *map(str, tokenizer.convert_ids_to_tokens(list(special_tokens(tokenizer))))}
    found = {task: mark for task, text in texts.items() for mark in sorted(marks) if mark in text}
    if found:
        mark = next(iter(found.values()))
        yield f"in {_counted(list(found), texts)}, the tokenizer reads {mark!r} as a special token, not as text"


def _counted(some: Sequence[str], of: Mapping[str, str]) -> str:
    return f"{len(some)} of {len(of)} prompts (first {some[0]})"
