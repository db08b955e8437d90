"""Tokenizers: loading one so that its ids are those of its own tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from merging.checkpoints.checkpoint import locate
from merging.checkpoints.model_files import TOKENIZER_FILES, matching
from merging.errors import MachineError, MergingError, code_refused, first_line
from merging.options import LOAD, LoadOptions

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(reference: str, options: LoadOptions = LOAD) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; its ids equal those of `tokenizers.Tokenizer.from_file(tokenizer.json)`.

    tokenizer_config.json decides which special tokens surround a text, as everywhere in transformers.

    Args:
        reference: a folder or a hub id.
        options: what may be done to open it.

    Raises:
        MergingError: there is no tokenizer, or it cannot be loaded.
    """
    return with_padding(read_tokenizer(reference, options))


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a padding token: generation pads every batch on the left."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder has a tokenizer."""
    return bool(matching(folder, TOKENIZER_FILES))


def read_tokenizer(reference: str, options: LoadOptions = LOAD) -> PreTrainedTokenizerBase:
    """Load a tokenizer as `load_tokenizer` does, without adding a padding token."""
    folder = locate(reference, options)
    if not has_tokenizer(folder):
        raise MergingError(f"model {reference}: has no tokenizer ({folder} holds no tokenizer.json)")
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    trusted = {"trust_remote_code": options.trust_remote_code}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **trusted)
        if isinstance(tokenizer, PreTrainedTokenizerFast) and (folder / "tokenizer.json").exists():
            file = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if invented := _invented_tokens(tokenizer, file, folder):
                tokenizer = AutoTokenizer.from_pretrained(folder, **trusted, **dict.fromkeys(invented))
            _restore(tokenizer.backend_tokenizer, file)
        return tokenizer
    except Exception as error:  # the tokenizers library raises no narrower type
        kind = MachineError if isinstance(error, OSError | MemoryError) else MergingError
        raise code_refused(reference, error) or kind(
            f"model {reference}: its tokenizer cannot be loaded: {first_line(error)}"
        ) from None


def _invented_tokens(tokenizer: PreTrainedTokenizerBase, file: Tokenizer, folder: Path) -> list[str]:
    # transformers 5 adds an architecture's usual special tokens (Qwen2's "<|endoftext|>" for padding) to a vocabulary
    # that has none of that name, with an id beyond the last row of the embedding.
    named: set[str] = set()
    for settings in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / settings).exists():
            named |= json.loads((folder / settings).read_text(encoding="utf-8")).keys()
    roles = tokenizer.special_tokens_map.items()
    return [role for role, token in roles if role not in named and file.token_to_id(str(token)) is None]


def _restore(loaded: Tokenizer, file: Tokenizer) -> None:
    # transformers 5 may put the architecture's own parts in place of those in tokenizer.json (seen with Llama's and
    # Qwen2's classes), and then splits digits, spaces or lines in other places than the model was trained with.
    loaded.model = file.model
    loaded.normalizer = file.normalizer
    loaded.pre_tokenizer = file.pre_tokenizer
    loaded.decoder = file.decoder
