"""Loading: a plain checkpoint as a live model, to evaluate it.

Guarantees: every parameter has the numbers that the files hold. transformers itself fills with random ones what it does
not find, and leaves out layers that the config does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers.utils
from transformers import AutoModelForCausalLM, PreTrainedModel

from merging.checkpoints.architecture import layer_head
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.differences import left_out
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
    model, found = _load(checkpoint, getattr(torch, dtype) if dtype else checkpoint.dtype)
    _check(checkpoint, model, found)
    if note:
        if unused := left_out(found["unexpected_keys"]):
            note(f"model {reference}: what its files hold besides is not used: {unused}")
        if settings := checkpoint.generation_settings:
            note(f"model {reference}: its generation_config.json asks for {settings}; scoring leaves it out")
    for name, tensor in checkpoint.adapted().items():
        model.get_parameter(name).data.copy_(tensor.read())
    return cast(PreTrainedModel, model.to(device).eval().requires_grad_(False))


def _load(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]]:
    """Return the model, and which tensors transformers did not find, had no use for, or found in another shape."""
    loaded: Any
    try:
        with _quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder, dtype=dtype, trust_remote_code=checkpoint.options.trust_remote_code,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
        return cast(tuple[Any, Mapping[str, Any]], loaded)
    except Exception as error:  # whatever the model's own code makes of a config that does not fit it
        raise code_refused(checkpoint.reference, error) or MergingError(
            f"model {checkpoint.reference}: cannot be loaded: {first_line(error)}"
        ) from None


def _check(checkpoint: Checkpoint, model: Any, found: Mapping[str, Any]) -> None:
    where = f"model {checkpoint.reference}"
    for name in sorted(found["missing_keys"]):
        raise MergingError(f"{where}: has no tensor {name}, which its config asks for; download or save it again")
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise MergingError(
            f"{where}: tensor {name} has shape {list(stored)}, but its config makes it {list(wanted)}; the files are "
            "not of one model"
        )
    # Of what is beside the language model (a vision tower) nothing is used, as in a merge.
    heads = {layer_head(name) for name in model.state_dict()} - {None}
    for name in sorted(name for name in found["unexpected_keys"] if layer_head(name) in heads):
        raise MergingError(
            f"{where}: its files hold the tensor {name}, for which its config leaves no place (it counts "
            f"{model.config.get_text_config().num_hidden_layers} layers); the files are not of one model"
        )


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
