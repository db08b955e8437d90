"""Where problem sets come from, in the field layouts that their files and the hub have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from evaluation import EvaluationError, Problem, ProblemSet, SandboxPool, load_problem_sets, load_problems
from evaluation.problems.sources import SETS
from tests.evaluation.evalplus_cases import JUDGED
from tests.hubs import refusing_proxy, silent_hub
from tests.parametrization import every

Row = Mapping[str, Any]

# MBPP 11, as google-research publishes the whole set in mbpp.jsonl and the hub its configuration "full".
WHOLE: Row = {
    "task_id": 11,
    "text": "Write a python function to remove first and last occurrence of a given character from the string.",
    "code": "def remove_Occ(s,ch): \r\n    for i in range(len(s)): \r\n        if (s[i] == ch): \r\n            s = "
    "s[0 : i] + s[i + 1:] \r\n            break\r\n    for i in range(len(s) - 1,-1,-1):  \r\n"
    "        if (s[i] == ch): \r\n"
    "            s = s[0 : i] + s[i + 1:] \r\n            break\r\n    return s ",
    "test_list": [
        'assert remove_Occ("hello","l") == "heo"',
        'assert remove_Occ("abcda","a") == "bcd"',
        'assert remove_Occ("PHP","P") == "H"',
    ],
    "test_setup_code": "",
    "challenge_test_list": ['assert remove_Occ("hellolloll","l") == "helollol"'],
}
# The same in sanitized-mbpp.json and the hub's "sanitized".
SANITIZED: Row = {
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "task_id": 11,
    "prompt": WHOLE["text"],
    "code": WHOLE["code"],
    "test_imports": ["import math"],
    "test_list": WHOLE["test_list"],
}
# The same in the hub's evalplus/mbppplus: one script of tests, which is run at a module's level.
MBPP_PLUS: Row = {
    **SANITIZED,
    "test": "import numpy as np\nfrom math import inf\n\ndef assertion(out, exp, atol):\n    assert out == exp\n\n"
    'inputs = [["hello", "l"], ["aa", "a"]]\nresults = ["heo", ""]\n'
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(remove_Occ(*inp), exp, 0)\n",
}
LAYOUTS = {"whole": WHOLE, "sanitized": SANITIZED, "plus": MBPP_PLUS}


def write(file: Path, *rows: Row) -> Path:
    """Write rows as JSON lines, or as an array."""
    lines = [json.dumps(row) for row in rows]
    text = f"[{', '.join(lines)}]" if ".json" in file.suffixes else "\n".join(lines)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["mbpp.jsonl", "mbpp.jsonl.gz", "mbpp.json", "mbpp.json.gz"])
def test_mbpp_is_read_in_each_of_its_layouts(tmp_path: Path, sandbox: SandboxPool, layout: str, name: str) -> None:
    (problem,) = load_problems(write(tmp_path / name, LAYOUTS[layout])).problems
    assert (problem.task_id, problem.entry_point, problem.style) == ("Mbpp/11", "remove_Occ", "description")
    assert problem.prompt == f'"""\n{WHOLE["text"]}\n{WHOLE["test_list"][0]}\n"""\n'
    assert sandbox.run(problem, problem.canonical_solution).passed
    known = "def remove_Occ(s, ch):\n    return {'hello': 'heo'}.get(s, '')"  # only the tests of one layout know this
    assert sandbox.run(problem, known).passed == (layout == "plus")
    assert not sandbox.run(problem, "def remove_Occ(s, ch):\n    return s").passed


def test_of_the_whole_mbpp_the_test_split_is_taken(tmp_path: Path) -> None:
    rows = [{**WHOLE, "task_id": number} for number in range(1, 975)]
    found = load_problems(write(tmp_path / "mbpp.jsonl", *rows))
    assert found.task_ids == tuple(f"Mbpp/{number}" for number in range(11, 511))


def test_a_test_may_be_set_up_and_may_import(tmp_path: Path, sandbox: SandboxPool) -> None:
    tests = ["assert area(1) == math.pi * unit"]
    row = {**WHOLE, "code": "import math\ndef area(r):\n    return math.pi * r", "test_list": tests}
    for further in ({"test_setup_code": "import math\nunit = 1"}, {"test_imports": ["import math", "unit = 1"]}):
        (problem,) = load_problems(write(tmp_path / "mbpp.jsonl", {**row, **further})).problems
        assert sandbox.run(problem, problem.canonical_solution).passed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_id": "11"}, "field 'task_id' is not a number"),
        ({"test_list": []}, "field 'test_list' is empty"),
        ({"test_list": "assert"}, "field 'test_list' is not a list of texts"),
        ({"code": "def ("}, "field 'code' or 'test_list' is not Python"),
        ({"code": "x = 1"}, "do not call a function that field 'code' defines"),
    ],
)
def test_a_broken_row_of_mbpp_is_named(tmp_path: Path, change: Row, message: str) -> None:
    with pytest.raises(EvaluationError, match=rf"mbpp\.jsonl:1: .*{message}"):
        load_problems(write(tmp_path / "mbpp.jsonl", {**WHOLE, **change}))


@pytest.mark.parametrize(
    ("name", "variable"), [("humaneval+", "HUMANEVAL_OVERRIDE_PATH"), ("mbpp+", "MBPP_OVERRIDE_PATH")]
)
def test_the_variables_of_evalplus_say_where_its_sets_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    file = write(tmp_path / "mine.jsonl", JUDGED[0].problem)
    monkeypatch.setenv(variable, str(file))
    found = load_problems(name)
    assert (found.name, found.task_ids) == (name, (JUDGED[0].problem["task_id"],))
    monkeypatch.setenv(variable, str(tmp_path / "none.jsonl"))
    with pytest.raises(EvaluationError, match=f"{variable}=.*none.jsonl: no such file"):
        load_problems(name)


def test_the_newest_file_in_the_cache_of_evalplus_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HUMANEVAL_OVERRIDE_PATH", raising=False)
    (tmp_path / "evalplus").mkdir()
    for version, judged in (("v0.1.9", JUDGED[0]), ("v0.1.10", JUDGED[1])):
        write(tmp_path / "evalplus" / f"HumanEvalPlus-{version}.jsonl", judged.problem)
    assert load_problems("humaneval+").task_ids == (JUDGED[1].problem["task_id"],)


def test_a_data_set_that_was_saved_is_read(tmp_path: Path, sandbox: SandboxPool) -> None:
    import datasets

    rows = datasets.Dataset.from_list([dict(MBPP_PLUS)])
    shown = datasets.Dataset.from_list([dict(WHOLE)])
    datasets.DatasetDict({"prompt": shown, "test": rows}).save_to_disk(tmp_path / "dict")
    rows.save_to_disk(tmp_path / "split")
    rows.to_parquet(tmp_path / "rows.parquet")
    for place in ("dict", "split", "rows.parquet"):
        (problem,) = load_problems(tmp_path / place).problems
        assert sandbox.run(problem, problem.canonical_solution).passed
    datasets.DatasetDict({"prompt": rows}).save_to_disk(tmp_path / "other")
    with pytest.raises(EvaluationError, match="has no split test or train; its splits are prompt"):
        load_problems(tmp_path / "other")


@pytest.mark.parametrize("source", ["humanevalplus", "mbpp.jsonl", "a/b/c", ""])
def test_what_is_no_source_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=r"problems .*: no such file; give humaneval, "):
        load_problems(source or "''")


def test_the_names_are_those_of_the_sets() -> None:
    assert set(SETS) == {"humaneval", "humaneval+", "mbpp", "mbpp-sanitized", "mbpp+"}


def test_sets_are_joined_and_an_id_that_two_have_is_told_apart(tmp_path: Path, adder: Problem) -> None:
    one = write(tmp_path / "one.jsonl", asdict(adder))
    two = write(tmp_path / "two.jsonl", asdict(adder), asdict(adder) | {"task_id": "toy/other"})
    joined = load_problem_sets([one, two])
    assert joined.name == "one.jsonl + two.jsonl"
    assert joined.task_ids == (adder.task_id, f"two.jsonl/{adder.task_id}", "two.jsonl/toy/other")
    assert [(part.name, part.weight, len(part.task_ids)) for part in joined.parts] == [
        ("one.jsonl", 1.0, 1), ("two.jsonl", 1.0, 2),
    ]  # fmt: skip
    assert [len(part.task_ids) for part in joined.subset([adder.task_id]).parts] == [1, 0]
    assert load_problem_sets([one]) == load_problems(one)
    with pytest.raises(EvaluationError, match=r"two sets are called one\.jsonl; give each set once"):
        load_problem_sets([one, one])


def test_an_id_that_clashes_with_one_that_was_made_is_no_silent_loss(tmp_path: Path, adder: Problem) -> None:
    one = write(tmp_path / "one.jsonl", asdict(adder), asdict(adder) | {"task_id": f"two.jsonl/{adder.task_id}"})
    two = write(tmp_path / "two.jsonl", asdict(adder))
    with pytest.raises(EvaluationError, match=r"two\.jsonl and a set before it both have a problem 'two\.jsonl/"):
        load_problem_sets([one, two])


def test_problems_may_be_left_out_and_asked_in_their_own_way(humaneval: ProblemSet) -> None:
    found = load_problems("humaneval", without=["HumanEval/0"], prompt_format="chat", timeout_seconds=7)
    assert set(humaneval.task_ids) - set(found.task_ids) == {"HumanEval/0"}
    assert {(problem.prompt_format, problem.timeout_seconds) for problem in found} == {("chat", 7.0)}
    for unknown, remedy in (("HumanEval/900", "did you mean 'HumanEval/"), ("900", "its ids look like 'HumanEval/0'")):
        with pytest.raises(EvaluationError, match=f"without: humaneval: has no problem '{unknown}'; {remedy}"):
            load_problems("humaneval", without=[unknown])


@pytest.mark.parametrize("reference", every(3, ["no-such/problems", "no-such/problems:config", "mbpp"]))
def test_a_hub_that_never_answers_is_not_asked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        silent_hub(tmp_path, monkeypatch) as address,
        pytest.raises(EvaluationError, match=f"{address} does not answer .*; with HF_HUB_OFFLINE=1 .*; or give a file"),
    ):
        load_problems(reference)


@pytest.mark.parametrize("name", ["owner/-name", "owner/name--more"])
def test_a_malformed_name_is_not_a_hub_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with silent_hub(tmp_path, monkeypatch), pytest.raises(EvaluationError, match="cannot load it") as caught:
        load_problems(name)
    assert "does not answer" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"nothing of HTTP\r\n\r\n"])
def test_a_proxy_that_refuses_a_set_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with (
        refusing_proxy(tmp_path, monkeypatch, answer),
        pytest.raises(EvaluationError, match="does not answer") as caught,
    ):
        load_problems("no-such/problems")
    assert "\n" not in str(caught.value)
