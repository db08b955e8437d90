"""Commands as a person copies them into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path


def shell_command(*words: str | float | Path) -> str:
    """Return a command as a shell takes it; a path that begins with a dash gets `./`, so that it is not an option."""
    plain = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join(["merge-search", *plain])
