"""The part of a problem that the sandbox needs."""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """A problem: a prompt that begins a program, and tests that define ``check``; see `SandboxPool`."""

    @property
    def task_id(self) -> str:
        """Its name, for the log."""

    @property
    def prompt(self) -> str:
        """The beginning of the program; a completion follows it."""

    @property
    def entry_point(self) -> str:
        """The function that the tests call."""

    @property
    def test(self) -> str:
        """A program that defines ``check``."""

    @property
    def timeout_seconds(self) -> float:
        """The time for all tests."""
