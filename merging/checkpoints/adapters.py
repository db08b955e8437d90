"""LoRA adapters: a PEFT folder, and which tensors of its base model it changes.

Guarantees: merges adapters as peft 0.21 does (lora.py). Refuses other kinds of adapters, and variants that change the
base when they are loaded. An adapter for another base is an error that names the module. Reads no weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.checkpoints.lora import AdaptedTensor, BiasChange, LowRank
from merging.checkpoints.weights import StoredTensor
from merging.errors import MergingError

CONFIG = "adapter_config.json"

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:A\.weight|B\.weight|B\.bias|embedding_A|embedding_B|magnitude_vector))"
)
# Config keys of LoRA variants that are merged in another way.
_REFUSED = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "monteclora_config",
    "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
# Initialisations that leave the base unchanged; for the others, peft changes the base when it loads the adapter.
_HARMLESS = (True, False, None, "gaussian", "eva", "orthogonal")


def read_config(reference: str, folder: Path) -> Mapping[str, Any]:
    """Read an adapter's config. Raises MergingError if it is broken, or of a kind that cannot be merged here."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MergingError(
            f"adapter {reference}: {folder} holds no {CONFIG}; give the folder that peft saved"
        ) from None
    except (OSError, ValueError) as error:
        raise MergingError(f"{file}: cannot be used: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("r"), int) or "lora_alpha" not in config:
        raise MergingError(f"{file}: is not the config of a LoRA adapter (no 'r', no 'lora_alpha')")
    kind, init = config.get("peft_type"), config.get("init_lora_weights")
    reasons = [] if kind == "LORA" else [f"is of the kind {kind}"]
    if init not in _HARMLESS:
        reasons.append(f"changes its base when it is loaded (init_lora_weights: {init})")
    reasons += [f"uses {key}" for key in _REFUSED if config.get(key)]
    if reasons:
        raise MergingError(
            f"adapter {reference}: {' and '.join(reasons)}, which merge-search cannot merge; merge it into its base "
            "with peft (merge_and_unload, save_pretrained) and give that folder"
        )
    return config


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    # A pattern is the end of a module's name, as a regular expression; the first match counts.
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


class Adapter:
    """An adapter, and the base model that it is put on.

    Args:
        reference: what errors call the adapter.
        folder: its folder.
        config: its config; see `read_config`.
        stored: the tensors of its file.
        base: what errors call the base.
        tensors: the base's tensors.
        model: the base on the meta device, which tells what each module is.
    """

    def __init__(
        self,
        reference: str,
        folder: Path,
        config: Mapping[str, Any],
        stored: Mapping[str, StoredTensor],
        base: str,
        tensors: Mapping[str, StoredTensor],
        model: Any,
    ) -> None:
        self.reference = reference
        self.folder = folder
        self.config = config
        self.stored = stored
        self.base = base
        self.tensors = tensors
        self.modules = dict(model.named_modules())
        self.tied = dict(model.all_tied_weights_keys)
        self.parts: dict[str, dict[str, StoredTensor]] = {}
        self.saved: dict[str, StoredTensor] = {}

    def adapted(self) -> dict[str, StoredTensor]:
        """Return the tensors of the base that the adapter changes.

        Raises MergingError if the adapter is for another base, or its file does not fit its config.
        """
        for key, tensor in self.stored.items():
            self._sort_in(key, tensor)
        changes: dict[str, list[LowRank | BiasChange]] = {}
        # In the order of the modules: a head and the embedding that it is tied to may both change the same tensor.
        for module in sorted(self.parts, key=list(self.modules).index):
            for name, change in self._changes(module, self.parts[module]):
                changes.setdefault(name, []).append(change)
        return {name: self._adapted(name, changes.get(name, ())) for name in self.saved | changes}

    def _adapted(self, name: str, changes: Any) -> AdaptedTensor:
        own = self.tensors[name]
        source = self.saved.get(name, own)
        return AdaptedTensor(name, own.shape, own.dtype, self.folder, source, tuple(changes))

    def _sort_in(self, key: str, tensor: StoredTensor) -> None:
        name = key.removeprefix(_PREFIX)
        if name.endswith(".lora_magnitude_vector.weight"):  # as some versions of peft write it
            name = name.removesuffix(".weight")
        if match := _PART.fullmatch(name):
            if match["module"] not in self.modules:
                raise self._other_base(f"changes the module {match['module']}, which {self.base} does not have")
            self.parts.setdefault(match["module"], {})[match["part"]] = tensor
            return
        if "lora_" in name:
            raise MergingError(f"{tensor.file}: tensor {key} is not a known part of an adapter")
        self._save(name, tensor)

    def _save(self, name: str, tensor: StoredTensor) -> None:
        """Record a tensor that replaces one of the base: modules_to_save, biases, targeted embeddings."""
        own = ".base_layer." not in name
        name = name.replace(".base_layer.", ".")
        owner = self._owner(name)
        tied = name in self.tied or name in self.tied.values()
        if own and tied and not self.config.get("ensure_weight_tying"):
            raise MergingError(
                f"adapter {self.reference}: holds its own {name}, which {self.base} ties to another "
                "tensor; merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
            )
        self._check_shape(owner, tensor.shape)
        self.saved[owner] = tensor

    def _changes(self, module: str, parts: Mapping[str, StoredTensor]) -> list[tuple[str, LowRank | BiasChange]]:
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        a, b = (parts.get(f"lora_embedding_{x}" if embedding else f"lora_{x}.weight") for x in "AB")
        if a is None or b is None:
            raise MergingError(f"adapter {self.reference}: lacks one of the two matrices of {module}")
        rank, scaling = self._scaling(module)
        if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
            raise MergingError(
                f"adapter {self.reference}: its config gives {module} the rank {rank}, but its matrices have "
                f"the shapes {list(a.shape)} and {list(b.shape)}; the files belong to different adapters"
            )
        from transformers.pytorch_utils import Conv1D

        transposed = embedding or isinstance(self.modules[module], Conv1D)
        name = self._owner(f"{module}.weight")
        shape = (b.shape[0], a.shape[1])
        self._check_shape(name, shape[::-1] if transposed else shape)
        magnitude = parts.get("lora_magnitude_vector")
        if (magnitude is None) == bool(self.config.get("use_dora")):
            raise MergingError(f"adapter {self.reference}: use_dora and the file disagree about {module}")
        found: list[tuple[str, LowRank | BiasChange]] = [
            (name, LowRank(a, b, scaling, transposed, embedding, magnitude))
        ]
        if bias := parts.get("lora_B.bias"):
            owner = self._owner(f"{module}.bias")
            self._check_shape(owner, bias.shape)
            found.append((owner, BiasChange(bias, scaling)))
        return found

    def _scaling(self, module: str) -> tuple[int, float]:
        """Return the rank and the scaling that the config gives a module."""
        rank: int = _by_pattern(self.config.get("rank_pattern") or {}, module, self.config["r"])
        alpha: float = _by_pattern(self.config.get("alpha_pattern") or {}, module, self.config["lora_alpha"])
        return rank, alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _owner(self, name: str) -> str:
        """Return the tensor on disk that a name stands for: a tied head is its embedding."""
        stored = name if name in self.tensors and name not in self.tied else self.tied.get(name, name)
        if stored not in self.tensors:
            raise self._other_base(f"changes the tensor {name}, which {self.base} does not have")
        return stored

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        own = self.tensors[name]
        if own.shape != shape:
            raise self._other_base(
                f"changes {name} as a tensor of shape {list(shape)}, but in {self.base} it has {list(own.shape)}"
            )
        if not own.dtype.is_floating_point:
            raise MergingError(f"model {self.base}: tensor {name} is stored as {own.dtype}, which no adapter fits")

    def _other_base(self, what: str) -> MergingError:
        named = self.config.get("base_model_name_or_path")
        return MergingError(
            f"adapter {self.reference}: {what}; it is for another base model"
            + (f" (its config names {named})" if named else "")
        )
