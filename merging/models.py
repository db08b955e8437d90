"""Live models: a transformers model to merge into, its config and its generation config."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from merging.checkpoints.checkpoint import CONFIG, GENERATION, Checkpoint
from merging.checkpoints.config import loading_keys
from merging.parents import ParentSet
from merging.planning.plan import Plan
from merging.planning.stacks import plain_stack, stacked_config, untie
from merging.tokenization.special_tokens import ROLES, SpecialTokens

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel


def merged_config(donor: Checkpoint, plan: Plan, parents: ParentSet, special: SpecialTokens | None) -> PreTrainedConfig:
    """Return the config of a merge: the donor's, with the merge's depth, rows of the embedding, head and dtype.

    What it says of single layers follows those that were stacked. The special tokens are the donor's where `special`
    is None.
    """
    config = stacked_config(donor, plan.stack, parents) if plan.stack else copy.deepcopy(donor.transformers_config)
    config.dtype = plan.model_dtype
    if plan.has_head:
        untie(config)
    text = config.get_text_config()
    for part in (config, text):
        _forget_how_to_load(part, parents.options.trust_remote_code)
    text.vocab_size = plan.rows or text.vocab_size
    for part in (config,) if text is config else (config, text):
        if special:
            special.put(part)
    return config


def _forget_how_to_load(config: PreTrainedConfig, has_code: bool) -> None:
    """Take out of a config what would make `from_pretrained` load plain tensors as something else."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    for key in loading_keys(vars(config), has_code):
        delattr(config, key)
    # What serves models chooses their class by this; a donor may name one that judges texts and writes none.
    built = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if config.architectures and not has_code and isinstance(built, type):
        config.architectures = [built.__name__]


def config_text(donor: Checkpoint, plan: Plan, parents: ParentSet, special: SpecialTokens | None) -> str:
    """Return the config.json of a merge, as transformers writes the config that `merged_config` makes."""

    def ask() -> str:
        return _written(merged_config(donor, plan, parents, special), CONFIG)

    if special and special.moved is not None:  # thousands of ids: what rearranges rows needs transformers anyway
        return ask()
    wanted = [
        plain_stack(plan.stack, parents),
        plan.rows,
        plan.has_head,
        str(plan.model_dtype),
        special and dict(special.ids),
    ]
    text: str = donor.remembered(["config of a merge", wanted], ask)
    return text


def generation_config_text(donor: Checkpoint, special: SpecialTokens | None) -> str:
    """Return the generation_config.json of a merge: the donor's or one made of its config."""
    file = donor.folder / GENERATION
    if file.exists():
        # Not through transformers, which refuses to save what many models have (a temperature without sampling).
        settings = json.loads(file.read_text(encoding="utf-8"))
        found = {role: settings[role] for role in ROLES if role in settings}
        values = special.values(found, generates=True) if special else {}
        return json.dumps(settings | values, indent=2) + "\n"

    def ask() -> str:
        return _written(generation_config(donor, special), GENERATION)

    if special and special.moved is not None:
        return ask()
    wanted = special and [dict(special.ids), special.ends]
    text: str = donor.remembered(["generation config of a merge", wanted], ask)
    return text


def loaded_end_tokens(checkpoint: Checkpoint, special: SpecialTokens | None) -> object:
    """Return the ids of the tokens that end what a model writes, with these special tokens if there are any."""

    def ask() -> object:
        return generation_config(checkpoint, special).eos_token_id

    if special and special.moved is not None:
        return ask()
    return checkpoint.remembered(["end tokens", special and [dict(special.ids), special.ends]], ask)


def ends_besides(checkpoint: Checkpoint, special: SpecialTokens) -> Sequence[int]:
    """Return the ids that end an answer, and that neither the model's configs nor its tokenizer say to end a text."""
    known = loaded_end_tokens(checkpoint, replace(special, ends=()))
    listed = known if isinstance(known, list) else [known]
    return [end for end in dict.fromkeys(special.ends) if end not in listed]


def _written(config: PreTrainedConfig | GenerationConfig, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return Path(folder, name).read_text(encoding="utf-8")


def build_model(config: PreTrainedConfig, parents: ParentSet) -> PreTrainedModel:
    """Return a model of a config on the parents' devices, in eval mode, its weights not yet set.

    One that is spread is made in the host's memory first, which takes none: nothing is written there.
    """
    if not parents.placement.is_spread:
        return _build(config, parents, parents.device)
    with torch.inference_mode(False):  # accelerate makes parameters, which need gradients at first
        model = _build(config, parents, torch.device("cpu"))
        parents.placement.dispatch(model)
    return model


def _build(config: PreTrainedConfig, parents: ParentSet, device: torch.device) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), device:
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=config.dtype, trust_remote_code=parents.options.trust_remote_code
        )
    model.tie_weights()  # which init_weights would have done
    _widen(model, model.dtype)
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


def _widen(model: Any, dtype: torch.dtype) -> None:
    """Give float32 to what transformers keeps in it on loading a model in fewer bits, and not on building one."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype.itemsize == 2 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    patterns = [re.compile(part.replace("*", ".*")) for part in kept]
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(pattern.search(name) for pattern in patterns):
            tensor.data = tensor.data.float()


def compute_in_float32(model: PreTrainedModel) -> None:
    """Let a model of 16 bits compute in float32, which holds each of its numbers; a wider one is left as it is."""
    if model.dtype.itemsize != 2:
        return
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point() and tensor.dtype.itemsize == 2:
            tensor.data = tensor.data.float()
    for config in (model.config, model.config.get_text_config()):
        config.dtype = torch.float32


def generation_config(checkpoint: Checkpoint, special: SpecialTokens | None) -> GenerationConfig:
    """Return a model's generation_config.json, or one made of its config, with these special tokens."""
    found = copy.deepcopy(checkpoint.generation_config)
    if special:
        special.put(found, generates=True)
    return found
