"""What a benchmark says of where it ran."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe_machine() -> str:
    """Return the processor, its cores, and the versions of what does the work, in one line."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "optuna"))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
