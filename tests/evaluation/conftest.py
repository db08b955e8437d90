"""What the evaluation tests share: HumanEval, one sandbox a test process, tiny live models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation import Problem, ProblemSet, SandboxPool, load_problems
from merging import load_model, load_tokenizer
from tests.tiny import TinyModel, save_tiny_model


@pytest.fixture(scope="session")
def humaneval() -> ProblemSet:
    """HumanEval."""
    return load_problems("humaneval")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxPool]:
    """One pair of sandboxed processes."""
    with SandboxPool(workers=1) as pool:
        yield pool


@pytest.fixture(scope="session")
def adder() -> Problem:
    """A problem that `return a + b` solves."""
    return Problem(
        task_id="toy/add",
        prompt='def add(a, b):\n    """Return the sum of a and b."""\n',
        entry_point="add",
        canonical_solution="    return a + b\n",
        test="def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate('a', 'b') == 'ab'\n",
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A random float32 model and its byte-level tokenizer."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder / "model", TinyModel(dtype="float32", layers=2))
    return load_model(str(folder / "model")), load_tokenizer(str(folder / "model"))
