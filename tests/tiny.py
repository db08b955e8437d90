"""Tiny random models of real architectures, saved as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "gpt_neox": GPTNeoXConfig,
    "gemma": partial(GemmaConfig, head_dim=8),
    "mixtral": partial(MixtralConfig, num_local_experts=4),
}


@dataclass(frozen=True)
class TinyVocabulary:
    """A byte-level vocabulary: the bytes, then `words` (a merge of two tokens each), `plain`, and `added` tokens."""

    words: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("<s>", "</s>", "<a>", "<b>", "<c>", "<d>")
    added: tuple[str, ...] = ()
    eos: str = "</s>"
    pad: str | None = "</s>"
    rows: int | None = None  # of the embedding; by default one per token


@dataclass(frozen=True)
class TinyModel:
    """A model of some architecture; models of one `family_seed` are fine-tunes of one another."""

    seed: int = 0
    family_seed: int = 0
    change: float = 0.02
    architecture: str = "llama"
    hidden: int = 32
    layers: int = 3
    dtype: str = "bfloat16"
    tied: bool = False
    shards: bool = False
    tokenizer: bool = True
    vocabulary: TinyVocabulary = TinyVocabulary()


def save_tiny_model(folder: Path, tiny: TinyModel) -> str:
    """Make the model, save it and return the folder; seed 0 is the base of its family."""
    tokenizer = byte_tokenizer(tiny.vocabulary)
    config = CONFIGS[tiny.architecture](
        vocab_size=tiny.vocabulary.rows or len(tokenizer),
        hidden_size=tiny.hidden,
        intermediate_size=2 * tiny.hidden,
        num_hidden_layers=tiny.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tiny.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tiny.family_seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        torch.manual_seed(1000 + tiny.seed)
        for parameter in model.parameters() if tiny.seed else ():
            # Fine-tunes change some weights much and most a little.
            parameter.data += tiny.change * torch.randn_like(parameter) ** 3 * 0.2
    model.to(getattr(torch, tiny.dtype)).save_pretrained(folder, max_shard_size="40KB" if tiny.shards else "5GB")
    if tiny.tokenizer:
        tokenizer.save_pretrained(folder)
    return str(folder)


def byte_tokenizer(vocabulary: TinyVocabulary | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer, by default without merges: one id per byte."""
    chosen = vocabulary or TinyVocabulary()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*alphabet, *chosen.words, *chosen.plain])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(word[:-1], word[-1]) for word in chosen.words]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=chosen.eos,
        pad_token=chosen.pad,
        model_max_length=2048,
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in chosen.added])
    return made
