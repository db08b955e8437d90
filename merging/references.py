"""References: how a recipe names a parent. A folder or a hub id (with @revision), and after a "+" a LoRA adapter."""

from __future__ import annotations

from pathlib import Path


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return the model and the adapter (or None) that a reference names; a "+" in a path that exists is part of it."""
    if "+" not in reference or _exists(reference):
        return reference, None
    splits = [(reference[:at], reference[at + 1 :]) for at, sign in enumerate(reference) if sign == "+"]
    return max(splits, key=lambda parts: sum(map(_exists, parts)))


def _exists(part: str) -> bool:
    return bool(part) and Path(part).expanduser().exists()
