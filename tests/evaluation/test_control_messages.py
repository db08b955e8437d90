"""What a pool and its zygotes say to each other arrives as it was sent, and the sandbox stands on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import evaluation.sandbox
from evaluation.sandbox.control_messages import (
    Ended,
    Judged,
    Message,
    Run,
    Stop,
    dumped,
    loaded,
)
from evaluation.sandbox.isolation import Isolation, SandboxLayer

MESSAGES: list[Message] = [
    Run("def f():\n    return '\ud800\0\u2028'\n", "", "f", 3.0, 30.0),
    Run('{"kind": "Stop"}', "def check(f): ...", "f", 0.5, 5.0),
    Stop(),
    Isolation((SandboxLayer("seccomp", True, "x86_64"), SandboxLayer("landlock", False)), ("forks",), ()),
    Judged("failed", "AssertionError"),
    Ended(-9, 1.25),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert loaded(dumped(message)) == message


@pytest.mark.parametrize("data", [b'{"kind": "Popen"}', b'{"kind": "Ended"}', b'{"kind": "Stop", "x": 1}', b"{}"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises((KeyError, TypeError)):
        loaded(data)


def test_the_sandbox_imports_nothing_else_of_this_project() -> None:
    folder = Path(evaluation.sandbox.__path__[0])
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                package, _, rest = node.module.partition(".")
                assert package not in ("merging", "search"), file
                assert package != "evaluation" or rest.startswith("sandbox"), file
