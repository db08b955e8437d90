"""The config and generation config of a merge: those of its config source, adapted to the merge."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.model_config import loading_keys
from merging.checkpoints.model_files import CONFIG, GENERATION
from merging.parents import ParentSet
from merging.planning.plan import Plan
from merging.planning.stacks import plain_stack, stacked_config, untie
from merging.tokenization.special_tokens import ROLES, SpecialTokens

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

T = TypeVar("T")


def merged_config(
    config_source: Checkpoint, plan: Plan, parents: ParentSet, special: SpecialTokens | None
) -> PreTrainedConfig:
    """Return the config source's config with the depth, embedding rows, head and dtype of the merge.

    Per-layer entries follow the stacked layers. If `special` is None, the special tokens are the config source's.
    """
    config = (
        stacked_config(config_source, plan.stack, parents)
        if plan.stack
        else copy.deepcopy(config_source.transformers_config)
    )
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
    """Remove the keys of a config that would make `from_pretrained` load plain tensors as something else."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    for key in loading_keys(vars(config), has_code):
        delattr(config, key)
    # Servers choose the model's class by this key. A config source may name a classifier, which cannot generate.
    built = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if config.architectures and not has_code and isinstance(built, type):
        config.architectures = [built.__name__]


def config_text(config_source: Checkpoint, plan: Plan, parents: ParentSet, special: SpecialTokens | None) -> str:
    """Return the config.json of a merge, as transformers writes the config that `merged_config` makes."""
    wanted = [plain_stack(plan.stack, parents), plan.rows, plan.has_head, str(plan.model_dtype)]
    return _remembered(
        config_source,
        ["config of a merge", wanted],
        special,
        lambda: _written(merged_config(config_source, plan, parents, special), CONFIG),
    )


def generation_config_text(config_source: Checkpoint, special: SpecialTokens | None) -> str:
    """Return the generation_config.json of a merge: the config source's, or one made from its config."""
    file = config_source.folder / GENERATION
    if file.exists():
        # Not through transformers: it refuses to save settings that many models have (a temperature without sampling).
        settings = json.loads(file.read_text(encoding="utf-8"))
        found = {role: settings[role] for role in ROLES if role in settings}
        values = special.values(found, generates=True) if special else {}
        return json.dumps(settings | values, indent=2) + "\n"

    return _remembered(
        config_source,
        "generation config of a merge",
        special,
        lambda: _written(generation_config(config_source, special), GENERATION),
    )


def loaded_end_tokens(checkpoint: Checkpoint, special: SpecialTokens | None) -> object:
    """Return the ids of the tokens that end a model's answers, with these special tokens if given."""
    return _remembered(checkpoint, "end tokens", special, lambda: generation_config(checkpoint, special).eos_token_id)


def _remembered(checkpoint: Checkpoint, question: object, special: SpecialTokens | None, ask: Callable[[], T]) -> T:
    """Return what transformers says about a model with these special tokens."""
    if special and special.moved is not None:  # thousands of ids, and rearranging rows needs transformers anyway
        return ask()
    return checkpoint.remembered([question, special and [dict(special.ids), special.ends]], ask)


def ends_besides(checkpoint: Checkpoint, special: SpecialTokens) -> Sequence[int]:
    """Return the ids that end an answer although neither the model's configs nor its tokenizer list them as ends."""
    known = loaded_end_tokens(checkpoint, replace(special, ends=()))
    listed = known if isinstance(known, list) else [known]
    return [end for end in dict.fromkeys(special.ends) if end not in listed]


def _written(config: PreTrainedConfig | GenerationConfig, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return Path(folder, name).read_text(encoding="utf-8")


def generation_config(checkpoint: Checkpoint, special: SpecialTokens | None) -> GenerationConfig:
    """Return a model's generation_config.json, or one made from its config, with these special tokens."""
    found = copy.deepcopy(checkpoint.generation_config)
    if special:
        special.put(found, generates=True)
    return found
