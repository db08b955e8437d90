"""The checks of a card, in the order in which they are worth running: what comes first settles most."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from evaluation.generation.backends import BackendName
from tests.gpu import decode, merge_speed
from tests.gpu.decode import SMALL, Sizes

Result = Mapping[str, Any]
ROOT = Path(__file__).parents[2]
# By what a pass may take longer than what is read is copied, or launched.
_ALLOWED = 1.5
_NO_TESTS = 5  # what pytest exits with where all of a file is deselected


class SkippedCheck(Exception):
    """A check does not apply here."""


class FailedCheck(Exception):
    """A check found what it must not; what it measured is kept.

    Args:
        reason: what it found.
        result: what it measured.
    """

    def __init__(self, reason: str, result: Result | None = None) -> None:
        super().__init__(reason)
        self.result = result or {}


@dataclass(frozen=True, slots=True)
class Check:
    """A check: seconds that it takes on a card, by estimate, and what it does there, which can be sent to a process."""

    name: str
    estimate: float
    run: Callable[[Sizes, torch.device], Result]


def machine(sizes: Sizes, device: torch.device) -> Result:
    """Describe the machine, and measure what passes are compared with."""
    size = 1 << (24 if sizes == SMALL else 30)
    return {
        "machine": merge_speed.describe(device),
        "GB/s moved by a copy": round(decode.copy_speed(device, size) / 1e9, 1),
        "us per launch": round(decode.launch_seconds(device) * 1e6, 2),
        "total GB": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if _on_card(device) else None,
    }


def attention(sizes: Sizes, device: torch.device) -> Result:
    """Time the backends of attention in known and in new shapes."""
    return decode.attention_speeds(sizes, device, _dtype(device))


def tokens(sizes: Sizes, device: torch.device) -> Result:
    """Compare tokens in float32 with those of `generate`, and with those of the same model on the CPU."""
    less = replace(sizes, layers=min(4, sizes.layers))
    return _agreement(less, device, "transformers")


def tokens_vllm(sizes: Sizes, device: torch.device) -> Result:
    """Compare vLLM's tokens in float32 with those of `generate`."""
    if importlib.util.find_spec("vllm") is None:
        raise SkippedCheck("vllm is not installed")
    return _agreement(replace(sizes, layers=min(4, sizes.layers)), device, "vllm")


def _agreement(sizes: Sizes, device: torch.device, backend: BackendName) -> Result:
    model = decode.random_model(sizes, device, torch.float32)
    asked = decode.requests(sizes, 24, min(16, sizes.rows))
    expected = decode.by_generate(model, asked)
    found = decode.agreement(model, asked, decode.completions(model, asked, backend), expected)
    if not found.holds:
        raise FailedCheck("tokens differ from generate's where no two tokens are as likely", asdict(found))
    return asdict(found)


def decode_as_it_is(sizes: Sizes, device: torch.device) -> Result:
    """Time decoding passes."""
    return _decode(sizes, device, contextlib.nullcontext())


def decode_with_cudnn(sizes: Sizes, device: torch.device) -> Result:
    """Time decoding passes with the attention that torch would choose, which is cuDNN's on some cards."""
    if not _on_card(device):
        raise SkippedCheck("a CPU has no cuDNN")
    return _decode(sizes, device, decode.any_attention())


def _decode(sizes: Sizes, device: torch.device, attention: contextlib.AbstractContextManager[None]) -> Result:
    model = decode.random_model(sizes, device, _dtype(device))
    with attention:
        seconds = decode.pass_seconds(model, sizes)
        peak = decode.peak_bytes(device)
        contents = decode.pass_contents(model, sizes)
        syncs = decode.pass_syncs(model, sizes)
    reads = decode.bytes_read(model, sizes)
    copying = reads / decode.copy_speed(device, 1 << (24 if sizes == SMALL else 30))
    launching = contents["launches"] * decode.launch_seconds(device)
    ratio = seconds / max(copying, launching)
    return {
        "ms per pass": round(seconds * 1e3, 3),
        "ms to read": round(copying * 1e3, 3),
        "ms to launch": round(launching * 1e3, 3),
        "ratio": round(ratio, 2),
        "within 1.5": ratio <= _ALLOWED,
        "GB read": round(reads / 1e9, 3),
        "syncs": syncs,
        "peak GB": peak and round(peak / 1e9, 2),
        "weights GB": round(sum(each.nbytes for each in model.parameters()) / 1e9, 2),
        **contents,
    }


def merging(sizes: Sizes, device: torch.device) -> Result:
    """Time candidates against copies of the same bytes."""
    shape = ["--hidden", "128", "--vocabulary", "300", "--runs", "1"] if sizes == SMALL else []
    printed = io.StringIO()
    with redirect_stdout(printed), tempfile.TemporaryDirectory() as folder:
        merge_speed.main(["--device", str(device), "--layers", str(sizes.merged_layers), *shape, "--folder", folder])
    lines = [text for text in printed.getvalue().splitlines() if text.startswith("|") and "---" not in text]
    head, *rows = ([cell.strip() for cell in text.strip("|").split("|")] for text in lines)
    return {"rows": [dict(zip(head, row, strict=True)) for row in rows]}


def searching(sizes: Sizes, device: torch.device) -> Result:  # noqa: ARG001 - its models have sizes of their own
    """Run a whole search: of the quickstart, three trials."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "configs/quickstart.yaml", "--trials", "3", "--out", f"{folder}/out", "--device", str(device)]
        done = subprocess.run(
            [sys.executable, "-m", "search", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise FailedCheck(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return {"leaderboard": done.stdout.splitlines()[:12]}


def memory(sizes: Sizes, device: torch.device) -> Result:
    """Compare the most memory that generation takes with what is planned for it."""
    if importlib.util.find_spec("evaluation.generation.pass_memory") is None:
        raise SkippedCheck("there is no memory plan")
    model = decode.random_model(sizes, device, _dtype(device))
    asked = decode.requests(sizes, 64)
    planned = decode.planned_bytes(model, asked, device)
    if _on_card(device):
        torch.cuda.reset_peak_memory_stats(device)
    decode.completions(model, asked)
    peak = decode.peak_bytes(device)
    found = {"planned GB": round(planned / 1e9, 3), "peak GB": peak and round(peak / 1e9, 3)}
    if peak and peak > planned:
        raise FailedCheck("generation takes more than what is planned for it", found)
    return found


def tests_of(file: str, marker: str, sizes: Sizes, device: torch.device) -> Result:  # noqa: ARG001
    """Run a file of tests: those that `marker` selects."""
    if marker == "vllm" and importlib.util.find_spec("vllm") is None:
        raise SkippedCheck("vllm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", marker, f"--junitxml={report}", file]
        command = [sys.executable, "-m", "pytest", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise FailedCheck(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failures, skipped = {}, 0
    for case in cases:
        parts = {part.tag: part for part in case}
        skipped += "skipped" in parts
        for tag in parts.keys() & {"failure", "error"}:
            failures[str(case.get("name"))] = str(parts[tag].get("message"))[:500]
    counts = {"tests passed": len(cases) - len(failures) - skipped, "tests skipped": skipped}
    if failures or done.returncode not in (0, _NO_TESTS):
        raise FailedCheck(f"{len(failures)} tests failed", {**counts, "failures": failures})
    if not counts["tests passed"]:
        raise SkippedCheck(f"{file} skips all of its tests here")
    return counts


CHECKS: Sequence[Check] = (
    Check("machine", 15, machine),
    Check("attention", 15, attention),
    Check("tokens", 30, tokens),
    Check("decode", 50, decode_as_it_is),
    Check("decode with cuDNN", 50, decode_with_cudnn),
    Check("memory", 15, memory),
    Check("merge speed", 60, merging),
    Check("residency", 30, partial(tests_of, "tests/gpu/test_residency.py", "not vllm")),
    Check("merging", 90, partial(tests_of, "tests/gpu/test_merging.py", "not vllm")),
    Check("several cards", 20, partial(tests_of, "tests/gpu/test_sharded.py", "not vllm")),
    Check("search", 60, searching),
    Check("vllm tokens", 120, tokens_vllm),
    Check("vllm tests", 120, partial(tests_of, "tests/evaluation/test_vllm.py", "vllm")),
)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if _on_card(device) else torch.float32


def _on_card(device: torch.device) -> bool:
    return device.type == "cuda"


def work(run: Callable[[Sizes, torch.device], Result], sizes: Sizes, device: str, file: str) -> None:
    """Run a check and write its result, as JSON: the body of a process."""
    os.setsid()  # so that all that it starts can be ended with it
    found: dict[str, Any]
    try:
        found = {"status": "passed", **run(sizes, torch.device(device))}
    except SkippedCheck as error:
        found = {"status": "skipped", "reason": str(error)}
    except FailedCheck as error:
        found = {"status": "failed", "reason": str(error), **error.result}
    except Exception as error:
        trace = traceback.format_exc()[-2000:]
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}", "trace": trace}
    Path(file).write_text(json.dumps(found), encoding="utf-8")
