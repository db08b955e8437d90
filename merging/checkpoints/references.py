"""References: how a recipe names a parent. A folder or a hub id (with @revision), and after a "+" a LoRA adapter."""

from __future__ import annotations

from pathlib import Path


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return the model and the adapter (or None) that a reference names; a "+" in a path that exists is part of it."""
    if "+" not in reference or _exists(reference):
        return reference, None
    splits = [(reference[:at], reference[at + 1 :]) for at, sign in enumerate(reference) if sign == "+"]
    return max(splits, key=lambda parts: sum(map(_exists, parts)))


def missing_part(reference: str) -> str | None:
    """Return what of a reference is neither a folder or file here nor may be a hub id, or None."""
    parts = [part for part in split_reference(reference) if part is not None]
    return next((part for part in parts if not _exists(part) and not is_hub_id(part)), None)


def is_hub_id(part: str) -> bool:
    """Whether the name of a model (or adapter) that is no folder here may be one on the hub."""
    return not Path(part).is_absolute() and not part.startswith((".", "~")) and part.count("/") == 1


def _exists(part: str) -> bool:
    return bool(part) and Path(part).expanduser().exists()
