"""The command that checks a card runs every check, goes on in a second call, and says what is left, also on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.search.processes  # noqa: F401 - the processes of checks are forked where all of this is imported
from tests.gpu import __main__ as command
from tests.gpu.checks import CHECKS, Check, FailedCheck
from tests.gpu.decode import Agreement, Sizes, agreement, random_model, requests

CPU = ["--device", "cpu", "--small"]
SECONDS = 1e4


def passing(sizes: Sizes, device: torch.device) -> dict[str, str]:
    return {"device": str(device), "rows": str(sizes.rows)}


def failing(sizes: Sizes, device: torch.device) -> dict[str, str]:  # noqa: ARG001
    raise FailedCheck("too slow", {"ratio": str(sizes.rows)})


def lost(sizes: Sizes, device: torch.device) -> dict[str, str]:  # noqa: ARG001
    os._exit(9)


def endless(sizes: Sizes, device: torch.device) -> dict[str, str]:  # noqa: ARG001
    time.sleep(SECONDS)
    return {}


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let checks end as this says, by name, without running them; passed if it says nothing."""
    statuses: dict[str, str] = {}

    def perform(check: Check, sizes: Sizes, device: str, left: float) -> dict[str, Any]:  # noqa: ARG001
        return {"check": check.name, "status": statuses.get(check.name, "passed"), "seconds": 0.0}

    monkeypatch.setattr(command, "perform", perform)
    return statuses


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_second_call_runs_what_has_no_line(
    performed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "card.jsonl"
    assert command.main([*CPU, "--out", str(out), "--only", "machine", "tokens"]) == 0
    performed["decode"] = "cut off"
    assert command.main([*CPU, "--out", str(out)]) == 3
    assert capsys.readouterr().out.endswith("still to be run, by the same command: decode\n")
    performed["decode"] = "passed"
    assert command.main([*CPU, "--out", str(out)]) == 0
    names = [line["check"] for line in lines(out)]
    assert names[:2] == ["machine", "tokens"]
    assert sorted(names) == sorted([*(check.name for check in CHECKS), "decode"])


def test_a_check_that_does_not_fit_into_the_limit_is_left_for_the_next_call(
    performed: dict[str, str],  # noqa: ARG001
    tmp_path: Path,
) -> None:
    out = tmp_path / "card.jsonl"
    assert command.main([*CPU, "--out", str(out), "--limit", "40"]) == 3
    short = [check.name for check in CHECKS if check.estimate <= 37]
    assert [line["check"] for line in lines(out)] == short
    assert command.main([*CPU, "--out", str(out), "--limit", "1"]) == 3
    assert len(lines(out)) == len(short)


@pytest.mark.parametrize("status", ["failed", "timeout"])
def test_what_has_failed_is_not_run_again_and_told(
    performed: dict[str, str], tmp_path: Path, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    performed["attention"] = status
    for _ in range(2):
        assert command.main([*CPU, "--out", str(tmp_path / "card.jsonl")]) == 1
    assert capsys.readouterr().out.endswith("failed: attention\n")
    assert len(lines(tmp_path / "card.jsonl")) == len(CHECKS)


def test_half_a_line_is_run_again_and_other_options_need_another_file(
    performed: dict[str, str],  # noqa: ARG001
    tmp_path: Path,
) -> None:
    out = tmp_path / "card.jsonl"
    command.main([*CPU, "--out", str(out), "--only", "machine"])
    whole = out.read_text(encoding="utf-8")
    out.write_text(whole[:-20], encoding="utf-8")
    command.main([*CPU, "--out", str(out), "--only", "machine"])
    assert out.read_text(encoding="utf-8").endswith("\n" + whole)
    with pytest.raises(SystemExit, match=r"was made with cpu and .* give the same"):
        command.main([*CPU, "--out", str(out), "--rows", "7"])


def test_completions_that_part_where_two_tokens_are_as_likely_agree() -> None:
    sizes = Sizes(hidden=32, layers=1, vocabulary=300, rows=2, prompt=8)
    model, asked = random_model(sizes, torch.device("cpu"), torch.float32), requests(sizes, 2)
    with torch.inference_mode():
        for row in (1, 2):
            model.lm_head.weight[row] = model.lm_head.weight[0]
        best = [model(torch.tensor([list(each.prompt)])).logits[0, -1] for each in asked]
    least = [int(each.argmin()) for each in best]
    assert agreement(model, asked, [[0], [3, 4]], [[1], [3, 4]]) == Agreement(equal=1, ties=1, of=2)
    parted = agreement(model, asked, [[int(best[0].argmax())], [3]], [[least[0]], [3, 4]])
    assert (parted, parted.holds) == (Agreement(equal=0, ties=0, of=2), False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "estimate", "expected"),
    [
        (passing, 60, {"status": "passed", "device": "cpu", "rows": "3"}),
        (failing, 60, {"status": "failed", "reason": "too slow", "ratio": "3"}),
        (lost, 60, {"status": "failed", "reason": "its process ended with 9"}),
        (endless, 0.1, {"status": "timeout", "reason": "not over after 0 s"}),
    ],
)
def test_each_check_has_a_process_of_its_own(
    run: Callable[[Sizes, torch.device], dict[str, str]], estimate: float, expected: dict[str, str]
) -> None:
    found = command.perform(Check("check", estimate, run), Sizes(rows=3), "cpu", left=200)
    assert found.pop("seconds") < 200
    assert found == {"check": "check", **expected}


def test_what_a_check_has_started_ends_with_it() -> None:
    words = ["sh", "-c", "sleep 1000 & echo $!; wait"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as check:
        assert check.stdout
        assert int(check.stdout.readline())
        command.end(check.pid)
        assert check.stdout.read() == ""  # so nothing holds it open any more
        assert check.wait() == -signal.SIGKILL
    command.end(check.pid)  # a second call is not an error


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "card.jsonl"
    assert command.main([*CPU, "--out", str(out), "--only", "machine", "attention"]) == 0
    chosen = ["machine", "attention", "tokens", "decode", "decode with cuDNN", "memory", "merge speed"]
    assert command.main([*CPU, "--out", str(out), "--only", *chosen]) == 0
    found = {line["check"]: line for line in lines(out)}
    assert list(found) == chosen
    assert len(lines(out)) == len(chosen)
    assert found["tokens"]["equal"] + found["tokens"]["ties"] == found["tokens"]["of"] > 1
    assert found["decode"]["attention"] == ["flash_attention_for_cpu"]
    assert found["decode"]["launches"] > 50
    assert {row["method"] for row in found["merge speed"]["rows"]} == {"ties", "dare_ties", "linear", "slerp"}
