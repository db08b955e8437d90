"""Prompts and completions: ``prompt + completion`` is always the program that is meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evaluation import EvaluationError, Problem, ProblemSet, SandboxPool, Verdict
from evaluation.prompts import extract, render, stops, truncate


@pytest.mark.slow
def test_the_canonical_solution_survives_being_written_by_a_model(humaneval: ProblemSet, sandbox: SandboxPool) -> None:
    def written(problem: Problem) -> str:
        # A model continues the prompt as it was given, without the white space at its end, and then goes on.
        rest = (problem.prompt + problem.canonical_solution)[len(problem.prompt.rstrip()) :]
        return extract(problem, "completion", rest.rstrip() + "\n\n\ndef next_function():\n    pass\n")

    verdicts = dict(sandbox.check((problem, written(problem)) for problem in humaneval))
    assert [humaneval.problems[index].task_id for index, verdict in verdicts.items() if not verdict.passed] == []


def test_a_chat_answer_is_cut_to_the_function(humaneval: ProblemSet, sandbox: SandboxPool) -> None:
    def answer(problem: Problem) -> str:
        code = problem.prompt + problem.canonical_solution
        return f"Sure! Here it is:\n\n```python\n{code}\nprint({problem.entry_point})\n```\n\nIt works because it does."

    chosen = humaneval.subset(humaneval.task_ids[::4])
    programs = [(problem, extract(problem, "chat", answer(problem))) for problem in chosen]
    verdicts = dict(sandbox.check(programs))
    assert [programs[index][0].task_id for index, verdict in verdicts.items() if not verdict.passed] == []


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "def add(a, b):\n    return a + b\n\nThis adds the two numbers.",
        "```\nimport math\n\ndef helper(x):\n    return x\n\ndef add(a, b):\n    return helper(a) + b\nadd(1)\n```",
        "```python\nprint('an example')\n```\nand then\n```python\ndef add(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n    return a + b\n\ndef unfinished(",
    ],
)
def test_chat_answers_of_many_shapes_are_understood(adder: Problem, sandbox: SandboxPool, answer: str) -> None:
    assert sandbox.run(adder, extract(adder, "chat", answer)).passed


PROMPTS = {
    "two spaces": 'def add(a, b):\n  """Add."""\n',
    "a tab": "def add(a, b):\n\t# add\n",
    "no body": "import math\n\ndef add(\n    a,\n    b,\n):\n",
    "a method before": "class A:\n  def f(self):\n      pass\n\ndef add(a, b):\n      # add\n",
    "no function": '"""Write add(a, b)."""\n',
    "a comment": "# Write add(a, b).",
    "a whole function": "def add(a, b):\n    return None\n",
    "a line separator": "def add(a, b):\n    if a is None:\n        # none\u2028at all\n",
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_chat_answer_follows_a_prompt_of_any_shape(adder: Problem, sandbox: SandboxPool, prompt: str) -> None:
    problem = replace(adder, prompt=PROMPTS[prompt])
    completion = extract(problem, "chat", "```python\ndef add(a, b):\n    return a + b\n```")
    assert sandbox.run(problem, completion) == Verdict("passed")
    assert not sandbox.run(problem, extract(problem, "chat", "Sorry.")).passed


@pytest.mark.parametrize("character", ["\f", "\x85", "\u2028"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_body_follows_a_prompt_with_characters_that_end_no_line_of_python(
    adder: Problem, sandbox: SandboxPool, character: str, end: str
) -> None:
    prompt = f'WORDS = "one{character}two"\ndef add(a, b):\n  """Add."""\n'.replace("\n", end)
    problem = replace(adder, prompt=prompt)
    assert sandbox.run(problem, extract(problem, "chat", "```python\nreturn a + b\n```")) == Verdict("passed")


def test_a_prompt_that_ends_within_a_statement_is_refused_for_chat(
    adder: Problem, tiny_model: tuple[Any, Any], sandbox: SandboxPool
) -> None:
    problem = replace(adder, prompt="def helper(a):\n    return a\n\ndef add(a, b):\n    return (")
    tokenizer = tiny_model[1]
    tokenizer.chat_template = "{{ messages[0].content }}"
    try:
        with pytest.raises(EvaluationError, match="toy/add: its prompt ends within a statement"):
            render(problem, "chat", tokenizer)
    finally:
        tokenizer.chat_template = None
    assert sandbox.run(replace(problem, test=f"assert helper(1) == 1\n{problem.test}"), "a + helper(b))\n").passed


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "```python\n```", "def add(a, b:\n  return"])
def test_an_answer_without_the_function_fails_and_breaks_nothing(
    adder: Problem, sandbox: SandboxPool, answer: str
) -> None:
    assert sandbox.run(adder, extract(adder, "chat", answer)).status == "failed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return 1\n\ndef other():", "    return 1\n"),
        ("    return 1\nprint(1)\nclass A:", "    return 1"),
        ("    return 1  # done", "    return 1  # done"),
        ("\n# at once", ""),
    ],
)
def test_a_completion_ends_before_the_first_stop(adder: Problem, text: str, expected: str) -> None:
    assert truncate(text, stops(adder, "completion")) == expected


def test_a_completion_prompt_ends_without_white_space(humaneval: ProblemSet, tiny_model: tuple[Any, Any]) -> None:
    for problem in humaneval:
        prompt = render(problem, "completion", tiny_model[1])
        assert prompt == problem.prompt.strip()


def test_a_chat_prompt_uses_the_tokenizers_template(adder: Problem, tiny_model: tuple[Any, Any]) -> None:
    _, tokenizer = tiny_model
    with pytest.raises(EvaluationError, match="no chat template"):
        render(adder, "chat", tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    try:
        prompt = render(adder, "chat", tokenizer)
    finally:
        tokenizer.chat_template = None
    assert prompt.startswith("<user>")
    assert prompt.endswith("```<assistant>")
    assert adder.prompt.strip() in prompt
