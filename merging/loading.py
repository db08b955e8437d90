"""Loading: a plain checkpoint as a live model, to evaluate it.

Guarantees: every parameter has the values that the files hold. By itself, transformers fills missing ones with random
numbers and ignores layers beyond those that the config counts.
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
    """Load one plain checkpoint, with its adapter merged if it has one.

    Args:
        reference: a folder or a hub id, or one and an adapter (``base+adapter``).
        device: the device to put it on, as torch names it.
        dtype: the name of a torch dtype; by default that of the files.
        options: what may be done to open it.
        note: called with a sentence about each part of the model that is not used.

    Raises:
        MergingError: it is missing or broken, or its files and its config disagree about tensors; the error names them.
    """
    checkpoint = Checkpoint.open(reference, options)
    _ = checkpoint.config  # raises its short error before transformers raises a long one
    _ = checkpoint.generation_config  # raises if it is broken; transformers would ignore it
    architecture = checkpoint.architecture
    whole = assemble(checkpoint, checkpoint)
    check_fit(whole, architecture)  # before weights are read: transformers would fill gaps with random numbers
    model = _load(checkpoint, getattr(torch, dtype) if dtype else checkpoint.dtype)
    if note:
        if unused := left_out(name for name in whole.tensors if name not in architecture.shapes):
            note(f"model {reference}: these tensors in its files are not used: {unused}")
        if settings := checkpoint.generation_settings:
            note(f"model {reference}: its generation_config.json asks for {settings}; scoring ignores that")
    for name, tensor in checkpoint.adapted().items():
        model.get_parameter(name).data.copy_(tensor.read())
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    try:
        with _quiet():
            return AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, dtype=dtype, trust_remote_code=checkpoint.options.trust_remote_code
            )
    except Exception as error:  # a model's own code may raise anything for a config that does not fit it
        raise code_refused(checkpoint.reference, error) or MergingError(
            f"model {checkpoint.reference}: cannot be loaded: {first_line(error)}"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and reports off stderr; errors carry what matters."""
    logging: Any = transformers.utils.logging  # its functions are not annotated
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
