"""Differences between parents whose tensors have the same shapes and yet different meanings, and what merges leave out.

Guarantees: knows no model family; compares only keys that both configs have. Reads configs and tokenizers, no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from merging.checkpoints.model_config import Config
from merging.errors import first_line, shown

PER_LAYER = "per_layer_config"
"""The key under which transformers lists how single layers differ from the others, by the layer's index."""
_NAMED = 3
# Tensors that checkpoints of old versions of transformers hold although the model computes them.
_COMPUTED_TENSORS = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", "position_ids")
# Nearly all tensors are inside these, so they do not identify a module.
_INSIDE = ("model", "transformer")
# Settings of a generation config that change what a model generates, with the value that changes nothing.
_ALWAYS: Mapping[str, object] = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0, "num_beams": 1, "penalty_alpha": 0.0,
    "guidance_scale": 1.0, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "sequence_bias": None, "dola_layers": None,
    "exponential_decay_length_penalty": None,
}  # fmt: skip
_SAMPLED: Mapping[str, object] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip


def different_values(keys: Iterable[str], config: Config, other: Config) -> Iterator[tuple[str, object, object]]:
    """Yield each of some keys for which two configs have different values, and both values."""
    one, two = config.get_text_config(), other.get_text_config()
    for key in keys:
        here, there = _value(one, key), _value(two, key)
        if here is not None and there is not None and here != there:
            yield key, here, there


def different_ids(folder: Path, other: Path) -> str | None:
    """Return which tokens have other ids in the tokenizer of one model than in that of another, or None.

    Ignores tokens that only one of them has, and models without a tokenizer.json.
    """
    files = [place / "tokenizer.json" for place in (folder, other)]
    if not all(file.exists() for file in files) or files[0].read_bytes() == files[1].read_bytes():
        return None
    from tokenizers import Tokenizer

    try:
        ids, others = (Tokenizer.from_file(str(file)).get_vocab() for file in files)
    except Exception as error:  # the tokenizers library raises no narrower type
        return f"its tokenizer.json cannot be compared: {first_line(error)}"
    moved = sorted((index, token) for token, index in ids.items() if others.get(token, index) != index)
    if not moved:
        return None
    words = [f"{token!r} has id {index} here, {others[token]} there" for index, token in moved[:_NAMED]]
    words += [f"and {len(moved) - _NAMED} more"] if len(moved) > _NAMED else []
    return f"its tokenizer has other ids: {', '.join(words)}"


def generation_settings(plain: Mapping[str, Any]) -> str:
    """Return what a generation config asks for beyond greedy decoding, in words; "" if nothing."""
    found = [f"{key} {shown(plain[key])}" for key, same in _ALWAYS.items() if plain.get(key) not in (None, same)]
    if plain.get("do_sample"):
        numbers = [f"{key} {shown(plain[key])}" for key, same in _SAMPLED.items() if plain.get(key) not in (None, same)]
        found.append("sampling" + (f" ({', '.join(numbers)})" if numbers else ""))
    return ", ".join(found)


def left_out(names: Iterable[str]) -> str:
    """Return a list of tensors that a merge leaves out, grouped by module; "" if none of them holds weights."""
    modules: dict[str, list[str]] = {}
    for name in names:
        if not name.endswith(_COMPUTED_TENSORS):
            parts = name.split(".")
            # Each layer of the model counts as a module.
            depth = 1 if parts[0] not in _INSIDE else 3 if "".join(parts[2:3]).isdigit() else 2
            modules.setdefault(".".join(parts[:depth]), []).append(name)
    words = [f"{module}.* ({len(found)})" if len(found) > 1 else found[0] for module, found in modules.items()]
    return ", ".join([*words[:_NAMED], *([f"and {len(words) - _NAMED} more"] if len(words) > _NAMED else [])])


def _value(config: Config, key: str) -> object:
    if key == PER_LAYER:
        return config.to_dict().get(key)
    # transformers refuses to give a single value where each layer has its own.
    return None if key in (config.per_layer_attributes or ()) else getattr(config, key, None)
