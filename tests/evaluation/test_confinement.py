"""The layers: what each is to stop gets through without it, and where too few are left nothing is executed."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from evaluation.sandbox import seccomp, syscalls
from evaluation.sandbox.bubblewrap import find
from evaluation.sandbox.isolation import Isolation, SandboxLayer
from tests.evaluation.settings import on_kernel

pytestmark = pytest.mark.sandbox

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
TABLES = {**syscalls.ALLOWED, **syscalls.GUARDED, **syscalls.FORBIDDEN}
needs_bubblewrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")


@cache
def instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter of a machine."""
    return list(struct.iter_unpack("HBBI", seccomp.build(machine)))


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Return what the filter of a machine makes of a call, by the rules of classic BPF."""
    program = instructions(machine)
    arch = seccomp.MACHINES[machine][1] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    at = accumulator = 0
    while True:
        code, jump_true, jump_false, operand = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return int(operand)
        else:
            true = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: accumulator & operand != 0}[code]
            at += jump_true if true else jump_false


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_numbers_of_calls_are_those_that_libseccomp_knows(machine: str) -> None:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(name)
    column, architecture = seccomp.MACHINES[machine]
    known = {call: library.seccomp_syscall_resolve_name_arch(architecture, call.encode()) for call in TABLES}
    # Negative: a call that the architecture lacks.
    assert {call: number if number >= 0 else None for call, number in known.items()} == {
        call: numbers[column] for call, numbers in TABLES.items()
    }


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine: str) -> None:
    column, _ = seccomp.MACHINES[machine]
    guarded = {numbers[column] for numbers in syscalls.GUARDED.values()}
    allowed = {numbers[column] for numbers in syscalls.ALLOWED.values()}
    for number in set(range(700)) - guarded:
        assert decide(machine, number) == (ALLOW if number in allowed else EPERM), number
    assert decide(machine, 1, architecture=0x40000003) == KILL
    assert {decide(machine, number) for number in (0x40000000, 0x40000001, 0x7FFFFFFF, 0xFFFFFFFF)} == {KILL}


THREAD = 0x3D0F00
CALLS = [
    ("clone", (THREAD,), ALLOW),
    ("clone", (17,), EPERM),
    ("clone", (THREAD | 0x20000000,), EPERM),
    ("clone3", (), ENOSYS),
    ("prlimit64", (0, 7, 0, 1), ALLOW),
    ("prlimit64", (0, 7, 1, 0), EPERM),
    ("prlimit64", (0, 7, 1 << 32, 0), EPERM),
    ("prlimit64", (1, 7, 0, 0), EPERM),
    ("fcntl", (3, 3), ALLOW),
    ("fcntl", (3, 8), EPERM),
    ("ioctl", (0, 0x5401), ALLOW),
    ("ioctl", (0, 0x5412), EPERM),
    ("ioctl", (0, 0x541C), EPERM),
]


@pytest.mark.parametrize("machine", seccomp.MACHINES)
@pytest.mark.parametrize(("name", "arguments", "outcome"), CALLS)
def test_some_calls_depend_on_their_arguments(
    machine: str, name: str, arguments: tuple[int, ...], outcome: int
) -> None:
    number = syscalls.GUARDED[name][seccomp.MACHINES[machine][0]]
    assert number is not None
    assert decide(machine, number, *arguments) == outcome


def run(program: str, path: str | None = None) -> str:
    """Run a program, which may fork and confine itself, and return what it prints."""
    environment = os.environ | ({} if path is None else {"PATH": path})
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_every_attack_gets_through_where_nothing_stops_it() -> None:
    program = "from evaluation.sandbox.confinement import _EVERYTHING, _breaches\n"
    program += "print(sorted(set(_EVERYTHING) - set(_breaches(lambda: None, _EVERYTHING))))"
    stopped = eval(run(program))
    # Of another user than root, the kernel itself refuses some.
    assert stopped == [] or os.geteuid() != 0
    assert set(stopped) <= {"traces another process", "changes a file's mode"}


def test_a_layer_that_is_there_and_does_not_stop_what_it_should_is_missing() -> None:
    program = "from evaluation.sandbox.confinement import Confinement\n"
    program += "print(Confinement(None, bubblewrap='9.9').examine().missing)"
    assert eval(run(program)) == ("bubblewrap (it does not stop what it should)",)


CHECK = """
from evaluation.sandbox.pool import SandboxPool
from evaluation.sandbox.errors import ConfinementError
with SandboxPool(workers=1) as pool:
    try: print(pool.isolation)
    except ConfinementError as error: print(f"refused: {error}")
"""

ENOUGH = [
    ("no landlock", "missing: landlock"),
    ("container", "missing: bubblewrap (/usr/bin/bwrap does not work here: "),
]


@needs_bubblewrap
@pytest.mark.parametrize(("kernel", "missing"), ENOUGH)
def test_without_one_of_the_layers_about_files_programs_are_executed(kernel: str, missing: str) -> None:
    said = run(on_kernel(kernel, CHECK))
    assert said.startswith("two processes, rlimits, no-new-privs, seccomp")
    assert missing.replace("BWRAP", shutil.which("bwrap") or "") in said


TOO_LITTLE = [
    ("no seccomp", None, "this system lacks seccomp (run on Linux on x86_64 or aarch64 with CONFIG_SECCOMP_FILTER"),
    (
        "no landlock",
        "/nowhere",
        "this system lacks bubblewrap (install it (apt-get install bubblewrap); ",
    ),
]


@pytest.mark.parametrize(("kernel", "path", "reason"), TOO_LITTLE)
def test_below_the_minimum_nothing_is_executed_and_what_to_do_is_said(
    kernel: str, path: str | None, reason: str
) -> None:
    said = run(on_kernel(kernel, CHECK), path)
    assert said.startswith(f"refused: foreign code is not executed here: {reason}")


def test_what_a_bubblewrap_that_fails_says_ends_at_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho {'No permissions ' * 20} >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find().detail == f"{program} does not work here: {'No permissions ' * 13}..."


def test_an_attack_that_gets_through_all_layers_is_a_refusal() -> None:
    layers = tuple(SandboxLayer(name, True) for name in ("rlimits", "no-new-privs", "seccomp", "landlock"))
    assert Isolation(layers).shortfall == ""
    broken = Isolation(layers, breaches=("opens a socket",))
    assert broken.shortfall == "under all its layers a program still opens a socket; please report this system"


ELSEWHERE = """
import sys
sys.platform = {platform!r}
for module in ("resource", "fcntl"): sys.modules[module] = None  # Windows has none of them
from evaluation import SandboxPool
from evaluation.sandbox.errors import SandboxError
try: SandboxPool(workers=1)
except SandboxError as error: print(error)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_on_another_system_the_container_is_named(platform: str) -> None:
    said = run(ELSEWHERE.replace("{platform!r}", repr(platform)))
    assert f"needs Linux, and this is {platform}; run it in a Linux container, as docs/how-to/container.md says" in said
