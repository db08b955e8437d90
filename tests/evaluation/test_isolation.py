"""What is told about the layers of a sandbox that a system lacks: all of it on request, and one line otherwise."""

from __future__ import annotations

import pytest

from evaluation.sandbox.isolation import Isolation, SandboxLayer

REFUSAL = (
    "/usr/bin/bwrap does not work here: bwrap: No permissions to create new namespace, likely because the kernel does "
    "not allow non-privileged user namespaces. See <https://deb.li/bubblewrap> or ..."
)


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        (REFUSAL, " (/usr/bin/bwrap does not work here: bwrap: No permissions to create new namespace)"),
        ("there is no bwrap on the PATH", " (there is no bwrap on the PATH)"),
        ("", ""),
    ],
)
def test_the_note_has_the_reason_why_a_layer_is_missing_and_the_rest_is_a_command_away(detail: str, told: str) -> None:
    isolation = Isolation((SandboxLayer("seccomp", True), SandboxLayer("bubblewrap", False, detail)))
    assert isolation.note == f"the sandbox works without bubblewrap{told}; run `merge-search check` for details"
    assert all(detail in missing for missing in isolation.missing)


def test_a_long_reason_is_cut() -> None:
    assert len(Isolation((SandboxLayer("landlock", False, "no " * 200),)).note) < 200
