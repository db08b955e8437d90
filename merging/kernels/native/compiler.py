"""Compiles the C passes for the processor at hand, and keeps them for the next run.

Guarantees: a pass is compiled at most once per source, compiler and processor; a half-written file is never loaded;
calls release Python's lock. Without a C compiler, or a folder that libraries can be loaded from, there are no passes,
and an error says why.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from merging.caches import cache_folder, part_folder, sweep
from merging.errors import MachineError, MergingError

_SOURCES = Path(__file__).parent
# Without errno and traps, the compiler can vectorize comparisons; contraction would skip a rounding.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True, slots=True)
class Variant:
    """A source file, and the constants that it is compiled with."""

    source: str
    constants: tuple[tuple[str, int], ...]


class Compiler:
    """The compiled passes of this process; threads may share it.

    Raises:
        MergingError: there is no C compiler, or no folder that a library can be loaded from.
    """

    def __init__(self) -> None:
        found = compiler()
        if found is None:
            raise MergingError(f"no C compiler is on the PATH ({', '.join(_COMPILERS)}); install one, e.g. gcc")
        self._compiler, self._folder = found, _folder()
        self._loaded: dict[Variant, ctypes.CDLL] = {}
        self._lock = threading.Lock()

    def load(self, variant: Variant) -> ctypes.CDLL:
        """Return a variant's library, compiled if it is not yet. Raises MachineError if the compiler fails."""
        library = self._loaded.get(variant)
        if library is None:
            with self._lock:
                library = self._loaded.get(variant) or ctypes.CDLL(str(self._compiled(variant)))
                self._loaded[variant] = library
        return library

    def _compiled(self, variant: Variant) -> Path:
        source = _SOURCES / f"{variant.source}.c"
        command = [self._compiler, *_FLAGS, *(f"-D{name}={value}" for name, value in variant.constants), str(source)]
        texts = (file.read_text() for file in (source, *sorted(_SOURCES.glob("*.h"))))
        words = [*command, _version(self._compiler), _processor(), *texts]
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]
        library = self._folder / f"{variant.source}-{digest}.so"
        if not library.exists():
            _compile(command, library)
        return library


def compiler() -> str | None:
    """Return the path of the C compiler (`CC`, or the first of cc, gcc and clang), or None."""
    chosen = os.environ.get("CC")
    return next((path for name in ([chosen] if chosen else _COMPILERS) if (path := shutil.which(name))), None)


def _compile(command: list[str], library: Path) -> None:
    with part_folder(library) as folder:
        part = folder / library.name
        done = subprocess.run([*command, "-o", str(part), "-lm"], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise MachineError(f"{command[0]} cannot compile {command[-1]}: {lines[0]}")
        part.replace(library)  # atomic: another process may be looking for it


def _folder() -> Path:
    """Return the folder of the compiled libraries. Raises MergingError if none can be loaded from."""
    kept = cache_folder("kernels")
    if kept and _runs_programs(kept):
        return kept
    with contextlib.suppress(FileNotFoundError):  # there is no folder for temporary files
        if _runs_programs(Path(tempfile.gettempdir())):
            return _passing_folder()
    raise MergingError(
        "compiled passes can be loaded neither from the cache nor from the folder for temporary files, which are "
        "read-only or mounted noexec; set TMPDIR to another folder, or start a container with --tmpfs /tmp:exec"
    )


def _runs_programs(folder: Path) -> bool:
    """Whether a folder's file system lets programs and libraries be loaded."""
    return not hasattr(os, "ST_NOEXEC") or not os.statvfs(folder).f_flag & os.ST_NOEXEC


@cache
def _passing_folder() -> Path:
    """Return a folder that is removed when this process exits; the next process removes that of a killed one."""
    target = Path(tempfile.gettempdir(), "merge-search-kernels")
    sweep(target.parent, f".{target.name}.*.part")
    until_exit = contextlib.ExitStack()
    atexit.register(until_exit.close)
    return until_exit.enter_context(part_folder(target))


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


@cache
def _processor() -> str:
    # -march=native makes code for this very processor, but machines with different ones may share a home folder.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0].strip() in names}))
