"""The backends by name: the one list of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, TypeAlias, get_args

from evaluation.errors import EvaluationError
from evaluation.generation.backend_protocol import Backend
from evaluation.generation.room import UNLIMITED, Room

BackendName: TypeAlias = Literal["transformers", "vllm"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
# The backends that need no live model: they read its weights while the weights are made.
STREAMING: frozenset[BackendName] = frozenset({"vllm"})


def require_backend(name: BackendName) -> None:
    """Raise EvaluationError if a backend is not installed."""
    if name == "vllm" and find_spec("vllm") is None:
        raise EvaluationError(
            "backend vllm is not installed; pip install 'merge-search[vllm]' on a machine with a GPU (or see "
            "docs/evaluation.md for a CPU)"
        )


def make_backend(
    name: BackendName, batch_size: int | None = None, room: Room = UNLIMITED, tell: Callable[[str], None] | None = None
) -> Backend:
    """Return a backend that keeps within its room, and calls `tell` before slow steps.

    Raises EvaluationError if it is not installed.
    """
    require_backend(name)
    # Imported on demand, so that the names are known without waiting for torch.
    if name == "vllm":
        from evaluation.generation.vllm_backend import VllmBackend

        return VllmBackend(batch_size, room=room, tell=tell)
    from evaluation.generation.transformers_backend import TransformersBackend

    return TransformersBackend(batch_size, room)
