"""The settings in which the sandbox must hold: as root, as the user nobody, without bubblewrap, without Landlock.

Each is a process of its own that has a pool and checks what it is sent, so that a test may ask in any of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import evaluation
from evaluation.sandbox.interpreter import executable

Setting = Literal["root", "nobody", "no bubblewrap", "no landlock"]

NOBODY = 65534
SECRET = "what must not be told"

# It needs no more than the standard library and evaluation.sandbox: what nobody may read.
_PROGRAM = """
import json, sys
from types import SimpleNamespace
from evaluation.sandbox.pool import SandboxPool
with SandboxPool(workers=1, timeout_seconds=0.5) as pool:
    print(json.dumps(str(pool.isolation)), flush=True)
    for line in sys.stdin:
        problem, completion = json.loads(line)
        verdict = pool.run(SimpleNamespace(**problem), completion)
        print(json.dumps([verdict.status, verdict.detail]), flush=True)
"""

# What is run before the pool: filters that make this kernel one that lacks something, as far as it can be told.
_FILTER = """
import os, struct
from evaluation.sandbox import limits, seccomp
column = seccomp.MACHINES[os.uname().machine][0]
code = {code}
limits.forbid_new_privileges()
seccomp.install(b"".join(struct.pack("HBBI", *instruction) for instruction in code))
"""
_ALLOW, _EPERM, _EINVAL, _ENOSYS = (
    "(6, 0, 0, 0x7FFF0000)",
    "(6, 0, 0, 0x50001)",
    "(6, 0, 0, 0x50016)",
    "(6, 0, 0, 0x50026)",
)
_NUMBER, _FIRST_ARGUMENT = "(0x20, 0, 0, 0)", "(0x20, 0, 0, 16)"
KERNELS = {
    "no landlock": f"[{_NUMBER}, (0x35, 0, 2, 444), (0x25, 1, 0, 446), {_ENOSYS}, {_ALLOW}]",
    # Docker's default profile: no unshare, no mount, no clone with a new namespace.
    "container": f"[{_NUMBER}, (0x15, 0, 1, (272, 97)[column]), {_EPERM}, (0x15, 0, 1, (165, 40)[column]), {_EPERM}, "
    f"(0x15, 0, 3, (56, 220)[column]), {_FIRST_ARGUMENT}, (0x45, 0, 1, 0x7E020000), {_EPERM}, {_ALLOW}]",
    "no seccomp": f"[{_NUMBER}, (0x15, 0, 3, (157, 167)[column]), {_FIRST_ARGUMENT}, (0x15, 0, 1, 22), {_EINVAL}, "
    f"{_ALLOW}]",
}


def on_kernel(kernel: str, program: str) -> str:
    """Return a program that runs as if on a kernel of KERNELS."""
    return _FILTER.replace("{code}", KERNELS[kernel]) + program


class Unavailable(Exception):
    """A setting that this machine does not have, and why."""


@dataclass
class Sandboxed:
    """A pool in a setting.

    Attributes:
        isolation: its layers.
        secret: a file that its programs must not read.
    """

    isolation: str
    secret: str
    process: subprocess.Popen[str]

    def run(self, problem: Mapping[str, str], completion: str) -> tuple[str, str]:
        """Return the status and the detail of a verdict."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([problem, completion]) + "\n")
        self.process.stdin.flush()
        status, detail = json.loads(self.process.stdout.readline())
        return status, detail

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.communicate()


@contextlib.contextmanager
def start(setting: Setting) -> Iterator[Sandboxed]:
    """Start a setting. Raises Unavailable."""
    if setting == "root" and os.geteuid() != 0:
        raise Unavailable("the tests do not run as root")
    if setting in ("nobody", "no landlock") and not shutil.which("bwrap"):
        raise Unavailable("bubblewrap is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text(SECRET)
        nobody = setting == "nobody" and os.geteuid() == 0
        python, code = executable(), str(Path(evaluation.__file__).parents[1])
        if nobody:
            python = _readable_python()
            code = str(folder)
            shutil.copytree(Path(evaluation.__file__).parent, folder / "evaluation")
        program = on_kernel(setting, _PROGRAM) if setting in KERNELS else _PROGRAM
        path = "/nowhere" if setting == "no bubblewrap" else os.environ["PATH"]
        process = subprocess.Popen(
            [python, "-B", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": path, "HOME": str(folder), "SECRET": SECRET, "PYTHONPATH": code},
            **_identity() if nobody else {},  # type: ignore[arg-type]
        )
        assert process.stdout is not None
        with Sandboxed(json.loads(process.stdout.readline()), str(folder / "secret"), process) as sandboxed:
            yield sandboxed


def _identity() -> dict[str, object]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _readable_python() -> str:
    """Return an interpreter that nobody can start; the tests' own may lie in a home. Raises Unavailable."""
    ask = "import sys; raise SystemExit(sys.version_info < (3, 11))"
    for python in (executable(), "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([python, "-c", ask], check=True, cwd="/", **_identity())  # type: ignore[call-overload]
            return python
    raise Unavailable(f"user {NOBODY} can start no Python of 3.11 or later: {sys.executable} lies in a closed folder")
