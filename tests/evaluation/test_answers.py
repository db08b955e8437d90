"""Chat answers: what code is found in them, against what evalplus 0.3.1 finds."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.answers import code
from evaluation.answers.code import blocks, code_of
from evaluation.problems.problem import parse
from tests.evaluation.evalplus_cases import NOTHING, REDEFINED, Answer, answers
from tests.evaluation.evalplus_table import recorded

# evalplus 0.3.1 takes the first of two definitions, which Python forgets.
LAST = {REDEFINED: "def f(x):\n    return 2"}
CASES = [
    (answer, LAST.get(answer.text, theirs)) for answer, theirs in zip(answers(), recorded()["sanitized"], strict=True)
]


def statements(program: str) -> Sequence[str]:
    """Return what the statements of a program mean, however they are laid out."""
    return [ast.dump(node) for node in ast.parse(program).body]


def defines(program: str, name: str) -> bool:
    try:
        body = ast.parse(program).body
    except SyntaxError:
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in body)


@pytest.mark.parametrize(("answer", "theirs"), CASES, ids=[str(index) for index in range(len(CASES))])
def test_an_answer_is_cut_as_evalplus_cuts_it(answer: Answer, theirs: str) -> None:
    found = code_of(answer.text, answer.entry_point)
    assert defines(found, answer.entry_point) == defines(theirs, answer.entry_point)
    if defines(theirs, answer.entry_point):
        assert statements(found) == statements(theirs)


def test_evalplus_finds_the_function_in_most_of_the_answers() -> None:
    assert sum(defines(theirs, answer.entry_point) for answer, theirs in CASES) > len(CASES) - 5


def test_what_holds_no_code_is_given_back() -> None:
    assert code_of(NOTHING, "f") == NOTHING


@pytest.mark.parametrize(
    "text",
    ["(\n" * 200, "<think>\n" * 99, "'''\n" * 99, f"def f(x):\n    return {'+'.join('1' * 900)}", "```\n~~~\n" * 50],
)
def test_what_a_broken_model_repeats_raises_nothing(text: str) -> None:
    assert "".join(text.split()).startswith("".join(code_of(text, "f").split()))


_REPEATED = [
    "```",
    "```python\nx",
    "(",
    "@a",
    "x = [",
    "if x:",
    "def f(x):",
    "'''",
    "x",
    "Here it is:",
    "try:\n    x",
    ")",
    "    y",
]


@given(st.lists(st.tuples(st.sampled_from(_REPEATED), st.integers(1, 150)), min_size=1, max_size=3))
@settings(max_examples=10)
def test_whatever_is_repeated_is_parsed_a_bounded_number_of_times(parts: list[tuple[str, int]]) -> None:
    text = "".join(f"{line}\n" * count for line, count in parts)
    with pytest.MonkeyPatch.context() as patch:
        parsed: list[int] = []
        patch.setattr(code, "_LEAST_CHARACTERS", 0)
        patch.setattr(code, "_MOST_TIMES", 20)
        patch.setattr(code, "parse", lambda program: parsed.append(len(program)) or parse(program))
        code_of(text, "f", "    ")
    assert sum(parsed) <= 20 * len(text)


@pytest.mark.parametrize("line", ["```", "~~~", "Here it is:", "1. So", "else:", "don't"])
def test_lines_that_begin_no_program_are_parsed_with_nothing_that_follows(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(code, "parse", lambda program: parsed.append(program) or parse(program))
    assert not list(blocks(f"{line}\n" * 300))
    assert parsed == []


@given(st.text())
def test_any_text_gives_some_code_and_raises_nothing(text: str) -> None:
    code_of(text, "f")
    for block in blocks(text):
        assert ast.dump(ast.parse(block.text)) == ast.dump(block.tree)


@given(before=st.text(alphabet="ab (:\n", max_size=40), after=st.text(alphabet="ab ):\n", max_size=40))
def test_a_function_is_found_whatever_stands_around_it(before: str, after: str) -> None:
    answer = f"{before}\n```python\ndef wanted(x):\n    return x + 1\n```\n{after}"
    assert statements(code_of(answer, "wanted"))[-1:] == statements("def wanted(x):\n    return x + 1")
