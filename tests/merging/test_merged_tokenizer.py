"""A merge has the tokenizer that its recipe says, and every config has that tokenizer's special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from merging import Merger, MergingError, ParentSet, Recipe, export_model, load_tokenizer
from merging.tokenization.special_tokens import SpecialTokens
from tests.conftest import ModelMaker
from tests.merging.conftest import Family
from tests.tiny import TinyVocabulary, byte_tokenizer


def merged(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a merge."""
    with ParentSet.open(recipe) as parents:
        return Merger(parents).tokenizer(recipe)


def refusal(recipe: Recipe) -> str:
    """Return the message with which a recipe's tokenizer is refused."""
    with pytest.raises(MergingError) as caught:
        merged(recipe)
    return str(caught.value)


def ties(family: Family, more: str = "") -> Recipe:
    """Return a merge of a family, with something more."""
    models = f"models: [{{model: {family.a}}}, {{model: {family.b}}}]"
    return Recipe.parse(f"merge_method: ties\nbase_model: {family.base}\n{models}\nparameters: {{weight: 1}}\n{more}")


@pytest.fixture
def own_family(make_model: ModelMaker) -> Family:
    """A family whose tokenizers a test may change."""
    return Family(*(make_model(name, seed=seed, layers=1) for seed, name in enumerate(("base", "a", "b"))))


@pytest.fixture
def chat_family(make_model: ModelMaker) -> Family:
    """A base, and two fine-tunes that end their turns with a token which they have added."""
    chat = TinyVocabulary(words=("de", "def"), added=("<|end|>", "<|pad|>"), eos="<|end|>", pad="<|pad|>")
    return Family(
        make_model("base", layers=1),
        make_model("a", layers=1, seed=1, vocabulary=chat),
        make_model("b", layers=1, seed=2, vocabulary=chat),
    )


def set_template(folder: str, template: str) -> None:
    """Give a model a chat template."""
    Path(folder, "chat_template.jinja").write_text(template, encoding="utf-8")


@pytest.mark.parametrize("more", ["", "tokenizer_source: base", "tokenizer: {source: base}"])
def test_a_merge_has_the_tokenizer_of_its_base(own_family: Family, more: str) -> None:
    set_template(own_family.base, "base {{ messages }}")
    set_template(own_family.a, "a {{ messages }}")
    assert merged(ties(own_family, more)).chat_template == "base {{ messages }}"


@pytest.mark.parametrize("key", ["tokenizer_source: {}", "tokenizer: {{source: {}}}"])
def test_a_merge_has_the_tokenizer_of_its_source(chat_family: Family, tmp_path: Path, key: str) -> None:
    set_template(chat_family.b, "b {{ messages }}")
    recipe = ties(chat_family, key.format(chat_family.b))
    assert merged(recipe).chat_template == "b {{ messages }}"
    export_model(recipe, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == Path(chat_family.b, name).read_bytes()


def test_the_tokenizer_of_a_model_that_is_no_parent_can_be_chosen(
    own_family: Family, make_model: ModelMaker, tmp_path: Path
) -> None:
    other = make_model("other", layers=1, vocabulary=TinyVocabulary(plain=("</s>", "<s>", "<a>", "<other>")))
    export_model(ties(own_family, f"tokenizer_source: {other}"), tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").vocab_size == 260
    assert load_tokenizer(str(tmp_path / "out")).get_vocab() == load_tokenizer(other).get_vocab()


def test_the_union_of_equal_vocabularies_is_that_vocabulary(own_family: Family, tmp_path: Path) -> None:
    export_model(ties(own_family, "tokenizer_source: union"), tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == Path(own_family.base, "tokenizer.json").read_bytes()
    assert merged(ties(own_family, "tokenizer_source: union")).get_vocab() == byte_tokenizer().get_vocab()


@pytest.mark.parametrize("source", ["base", "union", "{b}"])
def test_the_ids_of_a_merge_are_those_of_the_exported_tokenizer_json(
    chat_family: Family, tmp_path: Path, source: str
) -> None:
    recipe = ties(chat_family, f"tokenizer_source: {source.format(b=chat_family.b)}")
    export_model(recipe, tmp_path / "out")
    file = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    loaded: list[Any] = [
        merged(recipe),
        load_tokenizer(str(tmp_path / "out")),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    ]
    for tokenizer in loaded:
        assert tokenizer.get_vocab() == file.get_vocab()
        for text in ("def f(x):\n    return 'de<|end|>fg'", "<a></s><s>", "ünï"):
            ids = file.encode(text, add_special_tokens=False).ids
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    knows_the_end = file.encode("<|end|>").tokens == ["<|end|>"]
    assert knows_the_end == (source != "base")
    if knows_the_end:
        assert loaded[0].decode(file.encode("a<|end|>").ids, skip_special_tokens=True) == "a"


def test_a_tokenizer_is_made_once_for_a_parent_set(chat_family: Family) -> None:
    first = ties(chat_family, "tokenizer_source: union")
    second = first.model_copy(update={"parameters": {"weight": 0.5}})
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        assert merger.tokenizer(first) is merger.tokenizer(second)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(own_family: Family) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(own_family.base)
    assert refusal(ties(own_family)) == (
        f"model {own_family.base}: its tokenizer has ids up to 262, but its embedding has 262 rows; choose another "
        "tokenizer_source: base and union leave out the tokens of the base that have no row"
    )
    assert "<more>" not in merged(ties(own_family, "tokenizer_source: base")).get_vocab()


@pytest.mark.parametrize(("lost", "rows"), [("<d>", 261), ("<b>", 262)])
def test_rows_beyond_the_tokens_stay_unless_a_vocabulary_is_asked_for(
    make_model: ModelMaker, tmp_path: Path, lost: str, rows: int
) -> None:
    folder = make_model("model", layers=1)
    content = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["vocab"][lost]
    Path(folder, "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for name, source, expected in (("kept", None, 262), ("asked", "base", rows)):
        export_model(Recipe.single(folder).model_copy(update={"tokenizer_source": source}), tmp_path / name)
        assert AutoConfig.from_pretrained(tmp_path / name).vocab_size == expected
        assert len(load_tokenizer(str(tmp_path / name)).get_vocab()) == 261


def test_a_tokenizer_without_a_tokenizer_json_is_exported_whole(make_model: ModelMaker, tmp_path: Path) -> None:
    folder = make_model("words", tokenizer=False, layers=1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "def", "return"]
    Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    Path(folder, "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    export_model(Recipe.single(folder), tmp_path / "out")
    for place in (Path(folder), tmp_path / "out"):
        assert AutoTokenizer.from_pretrained(place)("def return").input_ids == [2, 5, 6, 3]


@pytest.mark.parametrize("name", ["qwen.tiktoken", "sentencepiece.bpe.model", "spiece.model", "tekken.json"])
def test_files_of_other_kinds_of_tokenizers_are_exported(own_family: Family, tmp_path: Path, name: str) -> None:
    Path(own_family.base, name).write_bytes(b"a vocabulary")
    export_model(ties(own_family), tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == b"a vocabulary"


def test_an_old_vocabulary_is_not_put_beside_a_new_tokenizer_json(chat_family: Family, tmp_path: Path) -> None:
    Path(chat_family.base, "tokenizer.model").write_bytes(b"a vocabulary")
    export_model(ties(chat_family, "tokenizer_source: union"), tmp_path / "out")
    assert not (tmp_path / "out/tokenizer.model").exists()


# --- special tokens -------------------------------------------------------------------------------------------------


def special_ids(config: Any) -> tuple[Any, Any, Any]:
    """Return the ids that begin, end and pad a text in a config."""
    return config.bos_token_id, config.eos_token_id, config.pad_token_id


def everywhere(recipe: Recipe, folder: Path) -> tuple[Any, Any, Any]:
    """Export and apply a recipe, and return the ids of its special tokens, the same in all configs."""
    export_model(recipe, folder)
    with ParentSet.open(recipe) as parents:
        model = Merger(parents).apply(recipe)
        configs = [model.config, model.generation_config, AutoConfig.from_pretrained(folder)]
    found = [special_ids(config) for config in [*configs, GenerationConfig.from_pretrained(folder)]]
    assert found == found[:1] * 4
    return found[0]


def edit(folder: str, name: str, **changes: object) -> None:
    """Change keys of a model's JSON file."""
    file = Path(folder, name)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_special_tokens_are_those_of_the_chosen_tokenizer(chat_family: Family, tmp_path: Path) -> None:
    chosen = load_tokenizer(chat_family.a)
    found = everywhere(ties(chat_family, f"tokenizer_source: {chat_family.a}"), tmp_path / "out")
    assert found == special_ids(chosen) == (258, 264, 265)


def test_without_a_choice_they_are_those_of_the_bases_tokenizer(own_family: Family, tmp_path: Path) -> None:
    edit(own_family.base, "tokenizer_config.json", eos_token="<b>", pad_token="<a>")
    assert everywhere(ties(own_family), tmp_path / "out") == (256, 259, 258)


def test_a_union_keeps_those_of_the_base(chat_family: Family, tmp_path: Path) -> None:
    assert everywhere(ties(chat_family, "tokenizer_source: union"), tmp_path / "out") == (256, 257, 257)


def test_many_tokens_that_end_a_text_are_kept_if_the_tokenizers_is_among_them(
    own_family: Family, tmp_path: Path
) -> None:
    for name in ("config.json", "generation_config.json"):
        edit(own_family.base, name, eos_token_id=[260, 257])
    assert everywhere(ties(own_family), tmp_path / "kept") == (256, [260, 257], 257)
    edit(own_family.base, "tokenizer_config.json", eos_token="<b>")
    assert everywhere(ties(own_family), tmp_path / "replaced") == (256, 259, 257)


def test_many_tokens_that_end_a_text_move_with_the_vocabulary(chat_family: Family, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        edit(chat_family.base, name, eos_token_id=[260, 257])
    edit(chat_family.a, "tokenizer_config.json", eos_token="</s>")
    found = everywhere(ties(chat_family, f"tokenizer_source: {chat_family.a}"), tmp_path / "out")
    assert found == (258, [262, 259], 265)


def test_a_base_without_a_tokenizer_keeps_its_ids_in_the_live_model(make_model: ModelMaker) -> None:
    recipe = Recipe.single(make_model("bare", tokenizer=False, layers=1))
    with ParentSet.open(recipe) as parents:
        assert special_ids(Merger(parents).apply(recipe).config) == (256, 257, 257)


@pytest.mark.parametrize(
    ("moved", "found", "expected"),
    [
        (None, 5, 5),
        (None, [5, 6], [5, 6]),
        ({5: 9}, 5, 9),
        ({5: 9}, 6, None),
        ({5: 9}, [5, 6], [9]),
        ({}, [5, 6], None),
        ({5: 9}, None, None),
    ],
)
def test_what_the_tokenizer_does_not_say_follows_the_vocabulary(
    moved: dict[int, int] | None, found: Any, expected: Any
) -> None:
    special = SpecialTokens({"bos_token_id": None, "eos_token_id": 3, "pad_token_id": None}, moved)
    assert special.values({"bos_token_id": found}) == {"bos_token_id": expected, "eos_token_id": 3}


# --- chat templates -------------------------------------------------------------------------------------------------


def chat(tokenizer: Any) -> str:
    """Return how a tokenizer writes a message."""
    return str(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))


@pytest.mark.parametrize("more", ["tokenizer_source: base", "tokenizer_source: union"])
def test_a_chat_template_of_the_recipe_is_that_of_the_merge(chat_family: Family, tmp_path: Path, more: str) -> None:
    set_template(chat_family.a, "not {{ messages }} this")
    # Where older versions of transformers keep it.
    edit(chat_family.a, "tokenizer_config.json", chat_template="nor {{ messages }} this")
    family = Family(chat_family.a, chat_family.b, chat_family.base)
    recipe = ties(family, f'chat_template: "{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"\n{more}')
    assert chat(merged(recipe)) == "hi"
    export_model(recipe, tmp_path / "out")
    assert chat(AutoTokenizer.from_pretrained(tmp_path / "out")) == "hi"


@pytest.mark.parametrize("source", ["base", "union"])
def test_further_chat_templates_are_exported(chat_family: Family, tmp_path: Path, source: str) -> None:
    set_template(chat_family.base, "base {{ messages }}")
    Path(chat_family.base, "additional_chat_templates").mkdir()
    set_template(f"{chat_family.base}/additional_chat_templates", "tools {{ messages }}")
    wanted = {"default": "base {{ messages }}", "chat_template": "tools {{ messages }}"}
    recipe = ties(chat_family, f"tokenizer_source: {source}")
    assert merged(recipe).chat_template == wanted
    export_model(recipe, tmp_path / "out")
    assert load_tokenizer(str(tmp_path / "out")).chat_template == wanted


def test_a_chat_template_of_the_recipe_replaces_all_others(own_family: Family, tmp_path: Path) -> None:
    Path(own_family.base, "additional_chat_templates").mkdir()
    set_template(f"{own_family.base}/additional_chat_templates", "tools {{ messages }}")
    recipe = ties(own_family, "chat_template: chatml")
    export_model(recipe, tmp_path / "out")
    assert load_tokenizer(str(tmp_path / "out")).chat_template == merged(recipe).chat_template


def test_a_well_known_template_goes_by_its_name(own_family: Family, tmp_path: Path) -> None:
    recipe = ties(own_family, "chat_template: chatml")
    assert chat(merged(recipe)) == "<|im_start|>user\nhi<|im_end|>\n"
    export_model(recipe, tmp_path / "out")
    assert chat(AutoTokenizer.from_pretrained(tmp_path / "out")) == "<|im_start|>user\nhi<|im_end|>\n"


def test_the_automatic_chat_template_is_that_of_most_parents(own_family: Family) -> None:
    set_template(own_family.base, "base {{ messages }}")
    for folder in (own_family.a, own_family.b):
        set_template(folder, "chat {{ messages }}\n")
    assert merged(ties(own_family, "chat_template: auto")).chat_template == "chat {{ messages }}"


def test_without_any_chat_template_the_automatic_one_is_none(own_family: Family) -> None:
    assert merged(ties(own_family, "chat_template: auto")).chat_template is None


@pytest.mark.parametrize("wanted", ["chatmil", "{{ messages }}"])
def test_a_word_that_is_no_template_is_refused(own_family: Family, wanted: str) -> None:
    hint = "; did you mean 'chatml'?" if wanted == "chatmil" else ""
    assert refusal(ties(own_family, f"chat_template: '{wanted}'")) == (
        f"chat_template: '{wanted}' is not a Jinja template of at least 20 characters{hint}; give the template itself, "
        "'auto', or one of alpaca, chatml, exaone, llama3, mistral"
    )


# --- what ends an answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "listed", "expected"),
    [
        ("<|end|>\n", 259, [259, 264]),
        ("<|end|>", [264, 259], [264, 259]),
        ("</s>", 259, 259),
        ("{{ eos_token }}", 259, 259),
        ("", 259, 259),
        ("<|unknown|>", 259, 259),
    ],
)
def test_a_generation_config_lists_the_token_that_closes_a_turn(
    make_model: ModelMaker, tmp_path: Path, after: str, listed: Any, expected: Any
) -> None:
    words = TinyVocabulary(words=("de", "def"), added=("<|end|>",))
    family = Family(*(make_model(n, seed=i, layers=1, vocabulary=words) for i, n in enumerate(("base", "a", "b"))))
    set_template(family.base, f"{{% for m in messages %}}{{{{ m.content }}}}{after}{{% endfor %}}")
    edit(family.base, "generation_config.json", eos_token_id=listed)
    recipe, notes = ties(family), list[str]()
    export_model(recipe, tmp_path / "out", note=notes.append)
    said = [note for note in notes if note.startswith("generation_config.json also lists <|end|> as an end")]
    assert len(said) == (expected != listed)
    with ParentSet.open(recipe) as parents:
        model = Merger(parents).apply(recipe)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == expected
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == expected
    assert AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == 259


def test_a_template_of_the_recipe_closes_turns_too(chat_family: Family, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}<|pad|>{% endfor %}"
    for number, more in enumerate(("tokenizer_source: union", f"tokenizer_source: {chat_family.a}")):
        recipe = ties(chat_family, f'{more}\nchat_template: "{template}"')
        export_model(recipe, tmp_path / str(number))
        tokenizer = load_tokenizer(str(tmp_path / str(number)))
        assert GenerationConfig.from_pretrained(tmp_path / str(number)).eos_token_id == [
            tokenizer.eos_token_id,
            tokenizer.convert_tokens_to_ids("<|pad|>"),
        ]
