"""Loading: a plain checkpoint as a live model, to evaluate it.

Guarantees: every parameter has the values that the files hold. transformers alone would fill missing ones with random
numbers and leave out layers that the config does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers.utils
from transformers import AutoModelForCausalLM, PreTrainedModel

from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.differences import left_out
from merging.checkpoints.fit import check_fit
from merging.errors import MergingError, code_refused, first_line
from merging.options import LOAD, LoadOptions


def load_model(
    reference: str,
    device: str = "cpu",
    dtype: str | None = None,
    options: LoadOptions = LOAD,
    *,
    note: Callable[[str], None] | None = None,
) -> PreTrainedModel:
    """Load one plain checkpoint, its adapter merged if it has one.

    Args:
        reference: a folder or a hub id, or one and an adapter (``base+adapter``).
        device: where to put it, as torch names devices.
        dtype: a torch dtype's name; by default the one that it is saved in.
        options: what opening it may do.
        note: called with what of it is not used, in sentences.

    Raises:
        MergingError: it is missing or broken, or its files hold other tensors than its config asks for; names them.
    """
    checkpoint = Checkpoint.open(reference, options)
    _ = checkpoint.config  # refused before transformers explains at length
    _ = checkpoint.generation_config  # which transformers leaves out where it is broken
    architecture = checkpoint.architecture
    whole = assemble(checkpoint, checkpoint)
    check_fit(whole, architecture)  # before weights are read: transformers would fill gaps with random numbers
    model = _load(checkpoint, getattr(torch, dtype) if dtype else checkpoint.dtype)
    if note:
        if unused := left_out(name for name in whole.tensors if name not in architecture.shapes):
            note(f"model {reference}: what its files hold besides is not used: {unused}")
        if settings := checkpoint.generation_settings:
            note(f"model {reference}: its generation_config.json asks for {settings}; scoring leaves it out")
    for name, tensor in checkpoint.adapted().items():
        model.get_parameter(name).data.copy_(tensor.read())
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    try:
        with _quiet():
            return AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, dtype=dtype, trust_remote_code=checkpoint.options.trust_remote_code
            )
    except Exception as error:  # whatever the model's own code makes of a config that does not fit it
        raise code_refused(checkpoint.reference, error) or MergingError(
            f"model {checkpoint.reference}: cannot be loaded: {first_line(error)}"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers off stderr: what matters of them is raised."""
    logging: Any = transformers.utils.logging  # whose functions are not annotated
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
