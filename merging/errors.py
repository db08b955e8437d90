"""The errors of the merging package, and the wording that they share.

Every error here is for the person who must act: its message names the file and the key or the
model, says what was read there, and what to do instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MergingError(Exception):
    """A recipe, a checkpoint or a merge that cannot be done as asked."""


class MachineError(MergingError):
    """Something that this machine cannot do now: read a file, compile, find room. The recipe may be fine."""


class OutOfMemory(MachineError):
    """Memory has run out. A caller that frees some may try again."""


class PlacementError(MergingError):
    """A device map that cannot be followed; the message begins with ``device_map``, and a search adds its file."""


class NonFiniteTensor(MergingError):
    """A merged tensor holds NaN or Inf.

    Attributes:
        tensor: the name of the tensor.
    """

    def __init__(self, tensor: str, method: str) -> None:
        self.tensor = tensor
        super().__init__(
            f"merged tensor {tensor} holds NaN or Inf (method {method}); "
            "look for a weight that is too large for the dtype, or for a parent that holds them itself"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message (and the next if it ends with a colon), or its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def code_refused(reference: str, error: Exception) -> MergingError | None:
    """Return the error for a model that brings its own code, if transformers refused to load it for that reason."""
    if "trust_remote_code" not in str(error):
        return None
    return MergingError(
        f"model {reference}: comes with its own Python code, which loading would execute; if you trust its author, "
        "allow that with --trust-remote-code (in a search's config merging.trust_remote_code: true)"
    )


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'density'?"`` for the nearest known word, else an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def shown(value: object) -> str:
    """Return a value as an error shows it: its repr, cut to a line's size."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
