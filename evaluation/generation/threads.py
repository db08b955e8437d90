"""The number of torch's threads that a model uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

# On a CPU, the operations of a smaller model take less time than its threads would spend waiting for one another.
_PARAMETERS_WORTH_THREADS = 10_000_000


def threads_for(model: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
    """Let torch use one thread for a tiny model on a CPU, and as many as before afterwards."""
    is_tiny = model.device.type == "cpu" and model.num_parameters() < _PARAMETERS_WORTH_THREADS
    return one_thread() if is_tiny else contextlib.nullcontext()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
