"""A model's files are those that transformers reads."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from merging.checkpoints.model_files import TOKENIZER_FILES

# transformers lists the decoders of these encoder-decoders, but merges are of whole models; roc_bert is an encoder.
NO_DECODERS = {"marian", "prophetnet", "roc_bert", "whisper"}


def tokenizer_files() -> Iterator[tuple[str, str]]:
    """Yield the types of decoders that transformers knows, each with the files that its tokenizer reads."""
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - NO_DECODERS:
        if name := TOKENIZER_MAPPING_NAMES.get(model_type):
            for file in tokenizer_class_from_name(name).vocab_files_names.values():
                yield model_type, file


def test_all_files_of_the_tokenizers_of_decoders_are_known() -> None:
    found = list(tokenizer_files())
    assert {file for _, file in found} >= {"tokenizer.json", "tokenizer.model", "vocab.txt", "sentencepiece.bpe.model"}
    unknown = [each for each in found if not any(fnmatch(each[1], pattern) for pattern in TOKENIZER_FILES)]
    assert unknown == []
