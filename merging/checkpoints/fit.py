"""The fit between a model's files and its config: whether transformers would load the files as they are.

Guarantees: names what `from_pretrained` would fill with random numbers, leave out or refuse. Reads headers; the only
weights that it reads are a tied head and its embedding, if the files hold both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from merging.checkpoints.architecture import Architecture
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.layer_names import LayerName
from merging.checkpoints.model_config import Config
from merging.checkpoints.weights import StoredTensor
from merging.errors import MergingError

# A tensor in each layer of old checkpoints, which transformers computes.
_COMPUTED = r"rotary_emb\.inv_freq"


def check_fit(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """Raise MergingError if a model's files do not hold what its config asks for.

    Args:
        checkpoint: the model, by the names that tensors have in a merge.
        architecture: that of its own config, by the same names.
    """
    where, tensors = f"model {checkpoint.reference}", checkpoint.tensors
    wanted = [*architecture.loose, *(name for stack in architecture.stacks for name in stack.names())]
    for name in wanted:
        if name not in tensors:
            raise _quantized(where, checkpoint.config, name, tensors) or MergingError(
                f"{where}: has no tensor {name}, which its config asks for; download or save it again"
            )
        if (problem := _misfit(tensors[name], architecture.shapes[name])) is not None:
            raise _quantized(where, checkpoint.config, name, tensors) or MergingError(f"{where}: {problem}")
    for name in _left_over(tensors, architecture):
        raise _quantized(where, checkpoint.config, name, tensors) or MergingError(
            f"{where}: its files hold the tensor {name}, which its config does not provide for (it counts "
            f"{checkpoint.config.get_text_config().num_hidden_layers} layers); the files belong to different models"
        )
    _check_ties(where, tensors, architecture, checkpoint.config)


def _misfit(stored: StoredTensor, shape: tuple[int, ...]) -> str | None:
    if stored.shape != shape:
        return (
            f"tensor {stored.name} has shape {list(stored.shape)}, but its config says {list(shape)}; the files "
            "belong to different models"
        )
    if not stored.dtype.is_floating_point and len(shape) > 1:
        return f"tensor {stored.name} is stored as {stored.dtype}; save the model as bfloat16, float16 or float32"
    return None


def _left_over(tensors: Mapping[str, StoredTensor], architecture: Architecture) -> list[str]:
    """Return the tensors in files that belong to layers which the model does not have. Others are not checked."""
    heads = {stack.head for stack in architecture.stacks}
    ignored = [re.compile(pattern) for pattern in (*architecture.unused, _COMPUTED)]
    in_layers = (name for name in tensors if (layer := LayerName.of(name)) and layer.head in heads)
    names = (name for name in in_layers if name not in architecture.shapes)
    return [name for name in names if not any(pattern.search(name) for pattern in ignored)]


def _quantized(where: str, config: Config, name: str, tensors: Mapping[str, StoredTensor]) -> MergingError | None:
    """Return the error for a quantized model, if its config says that it is one."""
    settings = config.to_dict().get("quantization_config") or config.get_text_config().to_dict().get(
        "quantization_config"
    )
    if not settings:
        return None
    method = settings.get("quant_method", "of some kind") if isinstance(settings, Mapping) else settings
    stored = f" ({tensors[name].dtype})" if name in tensors else ""
    return MergingError(
        f"{where}: is quantized ({method}), as its tensor {name}{stored} shows; a merge needs plain weights: "
        "dequantize it with transformers (model.dequantize(), save_pretrained) and give that folder"
    )


def _check_ties(where: str, tensors: Mapping[str, StoredTensor], architecture: Architecture, config: Config) -> None:
    for name, other in architecture.tied_weights.items() if config.tie_word_embeddings else ():
        if name in tensors and other in tensors and not _equal(tensors[name], tensors[other]):
            raise MergingError(
                f"{where}: its config ties {name} to {other} (tie_word_embeddings), but its files hold another one; "
                "set tie_word_embeddings to false in its config.json, or take the tensor out of the files"
            )


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    return one.shape == other.shape and torch.equal(one.read(), other.read().to(one.dtype))
