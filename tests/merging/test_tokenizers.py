"""A tokenizer's ids are those of its own tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evaluation import load_problems
from merging import MergingError, load_tokenizer
from tests.conftest import ModelMaker
from tests.parametrization import every

PROBLEMS = load_problems("humaneval")
PROMPTS = [problem.prompt for problem in PROBLEMS]


# --- ids ------------------------------------------------------------------------------------------------------------


def smollm() -> Tokenizer:
    """Byte-level BPE that splits each digit (SmolLM2's pre-tokenizer)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def deepseek() -> Tokenizer:
    """Byte-level BPE over lines, words and digits (deepseek-coder's pre-tokenizer, shortened)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece() -> Tokenizer:
    """BPE over sentencepiece's spaces (Llama 2's and CodeLlama's)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def spaces_and_digits() -> Tokenizer:
    """BPE over sentencepiece's spaces, in which each digit is alone and nothing is put in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Metaspace(prepend_scheme="never")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return tokenizer


def save(folder: Path, make: Callable[[], Tokenizer], model_type: str, tokenizer_class: str) -> str:
    """Train a tokenizer on HumanEval's solutions and save it as a model of some type has it."""
    tokenizer = make()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        if isinstance(tokenizer.decoder, decoders.ByteLevel)
        else [],
    )
    tokenizer.train_from_iterator([problem.canonical_solution for problem in PROBLEMS], trainer)
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]
    plain.save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    return str(folder)


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """Return the ids of texts, without special tokens around them."""
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def ids_of_the_file(folder: str, texts: Iterable[str]) -> list[list[int]]:
    """Return the ids that the tokenizers library gives, from tokenizer.json only."""
    file = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return [file.encode(text, add_special_tokens=False).ids for text in texts]


def test_humaneval_has_164_prompts() -> None:
    assert len(PROMPTS) == 164


@pytest.mark.parametrize("make", [smollm, deepseek, sentencepiece, spaces_and_digits])
@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"),
    every(
        2,
        [
            ("llama", "LlamaTokenizer"),
            ("llama", "LlamaTokenizerFast"),
            ("llama", "PreTrainedTokenizerFast"),
            ("llama", "GPT2Tokenizer"),
            ("qwen2", "Qwen2Tokenizer"),
            ("qwen2", "PreTrainedTokenizerFast"),
        ],
    ),
)
def test_the_ids_of_humanevals_prompts_are_the_files_own(
    tmp_path: Path, make: Callable[[], Tokenizer], model_type: str, tokenizer_class: str
) -> None:
    folder = save(tmp_path, make, model_type, tokenizer_class)
    assert ids(load_tokenizer(folder), PROMPTS) == ids_of_the_file(folder, PROMPTS)


@pytest.mark.parametrize(
    ("make", "model_type", "tokenizer_class"),
    [(smollm, "qwen2", "Qwen2Tokenizer"), (spaces_and_digits, "llama", "LlamaTokenizer")],
)
def test_auto_tokenizer_alone_would_have_given_other_ids(
    tmp_path: Path, make: Callable[[], Tokenizer], model_type: str, tokenizer_class: str
) -> None:
    # If this fails, transformers has mended it, and merging.tokenization.tokenizers can become simpler.
    folder = save(tmp_path, make, model_type, tokenizer_class)
    assert ids(AutoTokenizer.from_pretrained(folder), PROMPTS) != ids_of_the_file(folder, PROMPTS)


@pytest.mark.parametrize("make", [smollm, deepseek])
def test_a_byte_level_tokenizer_decodes_to_the_text(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    tokenizer = load_tokenizer(save(tmp_path, make, "qwen2", "Qwen2Tokenizer"))
    assert [tokenizer.decode(row) for row in ids(tokenizer, PROMPTS)] == PROMPTS


# --- special tokens -------------------------------------------------------------------------------------------------


def test_without_a_pad_token_the_end_pads(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, smollm, "llama", "PreTrainedTokenizerFast"))
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_a_pad_token_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = save(tmp_path, smollm, "llama", "PreTrainedTokenizerFast")
    edit(tmp_path / "tokenizer_config.json", pad_token="<unk>")
    assert load_tokenizer(folder).pad_token == "<unk>"


@pytest.mark.parametrize(("model_type", "tokenizer_class"), [("qwen2", "Qwen2Tokenizer"), ("llama", "GPT2Tokenizer")])
def test_no_token_is_invented_beyond_the_vocabulary(tmp_path: Path, model_type: str, tokenizer_class: str) -> None:
    folder = save(tmp_path, smollm, model_type, tokenizer_class)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.get_vocab() == Tokenizer.from_file(f"{folder}/tokenizer.json").get_vocab()
    assert tokenizer.pad_token == "</s>"
    assert len(AutoTokenizer.from_pretrained(folder)) > len(tokenizer)


@pytest.mark.parametrize("make", [smollm, sentencepiece])
def test_a_token_in_front_of_a_text_stays_there(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    folder = save(tmp_path, make, "llama", "LlamaTokenizer")
    file = Tokenizer.from_file(f"{folder}/tokenizer.json")
    file.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    file.save(f"{folder}/tokenizer.json")
    assert load_tokenizer(folder)(PROMPTS[0])["input_ids"] == file.encode(PROMPTS[0]).ids
    assert file.encode(PROMPTS[0]).ids[0] == 1


def test_a_model_without_a_tokenizer_is_refused_by_name(make_model: ModelMaker) -> None:
    folder = make_model("bare", tokenizer=False)
    with pytest.raises(MergingError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == f"model {folder}: has no tokenizer ({folder} holds no tokenizer.json)"


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_broken_tokenizer_is_refused_by_name(make_model: ModelMaker, content: str) -> None:
    folder = make_model("broken")
    Path(folder, "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(MergingError, match=f"^model {folder}: its tokenizer cannot be loaded: "):
        load_tokenizer(folder)
