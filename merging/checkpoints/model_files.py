"""Which files of a folder or a repository belong to a model, by their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CONFIG, GENERATION = "config.json", "generation_config.json"
"""The files of a model's config and of its generation config."""
CHAT_TEMPLATES = ("*.jinja", "additional_chat_templates/*")
"""The files of chat templates, as patterns."""
TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "emoji.json",
    "tekken.json", "*.model", "*.tiktoken", *CHAT_TEMPLATES,
)  # fmt: skip
"""The files of a tokenizer, as patterns: those of transformers' decoders, and of models with code of their own."""
WANTED_FILES = ("*.json", "*.safetensors", "*.txt", *TOKENIZER_FILES)
"""The files that are downloaded for a model on the hub, besides pickles and code, as patterns."""


def matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return a folder's files that match a pattern, in order."""
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
