"""The judge: its verdicts are about completions, and it remembers them for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from evaluation import EvaluationError, Problem, ProblemSet, Verdict
from evaluation import judge as module
from evaluation.judge import Judge
from evaluation.sandbox.pool import Submissions


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """A judge with one pair of processes."""
    with Judge(workers=1) as one:
        yield one


@pytest.mark.slow
def test_humaneval_can_be_scored(judge: Judge, humaneval: ProblemSet, caplog: pytest.LogCaptureFixture) -> None:
    judge.admit(humaneval)
    assert caplog.text == ""


def test_a_problem_that_its_own_solution_fails_is_named_and_scored(
    judge: Judge, adder: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = replace(adder, task_id="toy/wrong", canonical_solution="    return a - b\n")
    unknown = replace(adder, task_id="toy/unknown", canonical_solution="")
    judge.admit([adder, wrong, unknown])
    assert "1 of 3 problems fail with their own solutions: toy/wrong (AssertionError)" in caplog.text
    assert list(judge.verdicts([(wrong, adder.canonical_solution)])) == [(0, Verdict("passed"))]


def test_problems_that_cannot_be_scored_are_named_again_each_time(judge: Judge, adder: Problem) -> None:
    broken = [replace(adder, task_id=f"toy/{index}", test="import nowhere\n") for index in range(7)]
    for _ in range(2):
        with pytest.raises(EvaluationError, match=r"7 of 7 problems .* toy/0 \(.*nowhere'\), .* and 2 more"):
            judge.admit(broken)


# It calls the function with what the function gave, two lists deeper each time.
NESTING = """
def check(candidate):
    value = candidate([], 0)
    for _ in range(150):
        value = candidate([[value]], 0)
"""


def test_a_completion_cannot_make_its_problem_unscorable(judge: Judge, adder: Problem) -> None:
    problem = replace(adder, task_id="toy/nesting", canonical_solution="    return 0\n", test=NESTING)
    judge.admit([problem])
    [(_, verdict)] = judge.verdicts([(problem, "    return a\n")])
    assert verdict == Verdict("failed", "the tests' arguments: the value is nested too deeply")


def test_what_shows_later_to_be_unscorable_is_raised_by_name(judge: Judge, adder: Problem) -> None:
    problem = replace(adder, task_id="toy/late", canonical_solution="    raise ValueError\n", test=NESTING)
    judge.admit([problem])
    with pytest.raises(EvaluationError, match="toy/late: cannot be scored in the sandbox"):
        list(judge.verdicts([(problem, "    return a\n")]))


def test_verdicts_are_remembered_up_to_a_number(adder: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    programs = [(adder, f"    return a + b  # {index}\n") for index in range(30)]
    with Judge(workers=1) as judge:
        assert len(list(judge.verdicts(programs))) == 30
        assert len(judge._known) == 10
        other = replace(adder, test="def check(candidate):\n    assert False\n")
        again = dict(judge.verdicts([programs[29], programs[0], (other, programs[29][1])]))
    assert [again[index].status for index in range(3)] == ["passed", "passed", "failed"]


def executed(judge: Judge, programs: list[tuple[Problem, str]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many programs are executed when a judge is asked for the verdicts of some."""
    count = []
    submit = Submissions.submit
    monkeypatch.setattr(Submissions, "submit", lambda self, *program: (count.append(1), submit(self, *program))[1])
    found = dict(judge.verdicts(programs))
    monkeypatch.undo()
    assert sorted(found) == list(range(len(programs)))
    assert [found[index].passed for index in range(len(programs))] == ["+" in completion for _, completion in programs]
    return len(count)


class Verdicts(dict[bytes, Verdict]):
    """A store of verdicts in memory."""

    def verdict(self, key: bytes) -> Verdict | None:
        return self.get(key)

    def add_verdicts(self, verdicts: Mapping[bytes, Verdict]) -> None:
        self.update(verdicts)


def test_equal_completions_are_executed_once_and_then_known_from_the_store(
    adder: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = (adder, "    return a + b\n"), (adder, "    return a - b\n")
    store = Verdicts()
    with Judge(workers=1) as first:
        first.remember_in(store)
        assert executed(first, [right, wrong, right, right, wrong], monkeypatch) == 2
        with Judge(workers=1) as second:  # at the same time
            second.remember_in(store)
            assert executed(second, [right, wrong], monkeypatch) == 0
            other = replace(adder, test=adder.test + "\n")
            assert executed(second, [(other, right[1])], monkeypatch) == 1
    with Judge(workers=1, timeout_seconds=2.0) as longer:
        longer.remember_in(store)
        assert executed(longer, [right], monkeypatch) == 1


def test_what_was_found_before_a_caller_left_is_kept(adder: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Verdicts()
    programs = [(adder, f"    return a + b  # {index}\n") for index in range(5)]
    with Judge(workers=1) as judge:
        judge.remember_in(store)
        verdicts = judge.verdicts(programs)
        first, _ = next(verdicts)
        verdicts.close()  # type: ignore[attr-defined]
    with Judge(workers=1) as judge:
        judge.remember_in(store)
        assert executed(judge, [programs[first]], monkeypatch) == 0


@pytest.mark.slow
def test_each_problem_has_its_own_time_unless_the_judge_gives_one(adder: Problem) -> None:
    busy = "    import time\n    while time.process_time() < 0.7: pass\n    return a + b\n"
    test = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    short, long = (replace(adder, test=test, timeout_seconds=seconds) for seconds in (0.3, 10.0))
    with Judge(workers=1) as judge:
        assert [verdict.status for _, verdict in judge.verdicts([(short, busy), (long, busy)])] == ["timeout", "passed"]
    with Judge(workers=1, timeout_seconds=10.0) as judge:
        assert [verdict.status for _, verdict in judge.verdicts([(short, busy)])] == ["passed"]
