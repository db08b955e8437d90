"""What a benchmark prints about the machine that ran it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

# What decides how fast matrices are multiplied, by the names of /proc/cpuinfo.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_bf16": "AMX-BF16",
    "amx_fp16": "AMX-FP16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
}
# What lets torch and its libraries do without some of them, as a lesser processor.
_EMULATION = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def describe_machine() -> str:
    """Return the processor, its features and cores, what is emulated, and the versions of what does the work."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    values = {name.strip(): value for name, _, value in (line.partition(": ") for line in reversed(lines))}
    flags = (values.get("flags") or values.get("Features") or "").split()
    features = " ".join(name for flag, name in _FEATURES.items() if flag in flags) or "no features known"
    emulated = " ".join(f"{name}={os.environ[name]}" for name in _EMULATION if name in os.environ)
    return ", ".join(
        [
            f"{values.get('model name', platform.machine())} ({features})",
            *([f"restricted by {emulated}"] if emulated else []),
            f"{os.cpu_count()} cores",
            f"Python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in ("torch", "transformers", "optuna")),
        ]
    )
