"""How many threads a model is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

# On a CPU, the operations of a smaller model are shorter than its threads' waiting for one another.
_PARAMETERS_WORTH_THREADS = 10_000_000


@contextlib.contextmanager
def threads_for(model: PreTrainedModel) -> Iterator[None]:
    """Use one thread for a tiny model on a CPU, and give the others back."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.num_parameters() < _PARAMETERS_WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
