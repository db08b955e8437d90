"""Embeddings of parents with different vocabularies come together as mergekit brings them together, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from merging import ExportOptions, MergeOptions, Merger, MergingError, ParentSet, Recipe, export_model
from merging.recipes.schema import ModelToken, TokenEmbedding, ZeroEmbedding
from merging.tokenization.embeddings import rearranged
from merging.tokenization.vocabulary import Vocabulary, align
from tests.conftest import ModelMaker
from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_folder
from tests.merging.peft_oracle import peft_merge, save_adapter
from tests.parametrization import every
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

# Fine-tunes that add tokens; parents that count their tokens in other orders and have other words, one of them with
# rows that no token uses.
VOCABULARIES = {
    "added": (
        TinyVocabulary(),
        TinyVocabulary(added=("<|im_start|>", "<|im_end|>"), eos="<|im_end|>"),
        TinyVocabulary(added=("<|im_end|>", "<tool>"), pad=None),
    ),
    "shuffled": (
        TinyVocabulary(words=("de", "def"), plain=("<s>", "</s>", "<a>", "<b>"), added=("<x>",), rows=272),
        TinyVocabulary(words=("re", "de", "ret"), plain=("</s>", "<s>", "<a>", "<c>"), added=("<y>", "<x>")),
        TinyVocabulary(words=("de",), plain=("<s>", "</s>", "<c>", "<d>"), added=("<y>", "<z>"), rows=300),
    ),
}
ARCHITECTURES = {"added": ("llama", False), "shuffled": ("llama", True)}


@pytest.fixture(scope="session", params=VOCABULARIES)
def unequal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A family whose vocabularies differ."""
    folder = tmp_path_factory.mktemp(request.param)
    architecture, tied = ARCHITECTURES[request.param]
    options = {"architecture": architecture, "tied": tied, "layers": 2}
    return Family(
        *(
            save_tiny_model(folder / name, TinyModel(seed=seed, vocabulary=vocabulary, **options))  # type: ignore[arg-type]
            for seed, (name, vocabulary) in enumerate(zip(("base", "a", "b"), VOCABULARIES[request.param], strict=True))
        )
    )


def task_arithmetic(family: Family, more: str, dtype: str = "dtype: bfloat16") -> str:
    """Return a merge onto the base, as YAML."""
    models = [
        f"{{model: {name}, parameters: {{weight: {weight}}}}}" for name, weight in ((family.a, 0.7), (family.b, 0.4))
    ]
    merge = f"merge_method: task_arithmetic\nbase_model: {family.base}\nmodels: [{', '.join(models)}]"
    return f"{merge}\n{dtype}\n{more}\n"


def linear(family: Family, more: str) -> str:
    """Return a merge of all three without a base, as YAML."""
    models = [f"{{model: {name}, parameters: {{weight: 0.3}}}}" for name in (family.b, family.a, family.base)]
    return f"merge_method: linear\nmodels: [{', '.join(models)}]\n{more}\n"


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return all that a folder's weight files hold."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_as_mergekit(text: str, folder: Path) -> Path:
    """Merge a recipe with mergekit and here, and fail unless tensors, vocabulary and rows are the same; return ours."""
    theirs, ours = mergekit_folder(text, folder / "theirs"), folder / "ours"
    export_model(Recipe.parse(text), ours)
    expected, found = tensors(theirs), tensors(ours)
    assert found.keys() == expected.keys() - {"lm_head.weight"} | (found.keys() & {"lm_head.weight"})
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    vocabulary = Tokenizer.from_file(str(ours / "tokenizer.json")).get_vocab()
    assert vocabulary == AutoTokenizer.from_pretrained(theirs).get_vocab()
    configs = [json.loads((each / "config.json").read_text(encoding="utf-8")) for each in (ours, theirs)]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] == len(found["model.embed_tokens.weight"])
    return ours


SOURCES = {
    "union": "tokenizer_source: union",
    "base": "tokenizer_source: base",
    "a model": "tokenizer_source: {a}",
    "the block's default": "tokenizer: {{}}",
    "padded": "tokenizer: {{source: union, pad_to_multiple_of: 64}}",
    "padded model": "tokenizer: {{source: {b}, pad_to_multiple_of: 7}}",
    "a model's row": "tokenizer: {{source: union, tokens: {{'<a>': {{source: {a}}}}}}}",
    "a model's row for all": "tokenizer: {{source: union, tokens: {{'<a>': {{source: {a}, force: true}}}}}}",
    "zeros": "tokenizer: {{source: union, tokens: {{'<d>': {{source: {{kind: zero}}}}}}}}",
    "zeros for all": "tokenizer: {{source: base, tokens: {{'<s>': {{source: {{kind: zero}}, force: true}}}}}}",
    "another token's row": "tokenizer: {{source: union, tokens: {{'<new>': {{source: {{kind: model_token, model: {b}, "
    "token: '<c>'}}}}}}}}",
    "a row by its id": "tokenizer: {{source: {a}, tokens: {{'<new>': {{source: {{kind: model_token, model: {base}, "
    "token_id: 5}}, force: true}}}}}}",
    "nothing said of a token that all have": "tokenizer: {{source: base, tokens: {{'<s>': {{}}}}}}",
}


@pytest.mark.parametrize("source", every(3, SOURCES))
def test_a_merge_onto_a_base_has_mergekits_rows(unequal: Family, tmp_path: Path, source: str) -> None:
    assert_as_mergekit(task_arithmetic(unequal, SOURCES[source].format(**vars(unequal))), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_merge_without_a_base_has_mergekits_rows(unequal: Family, tmp_path: Path, source: str) -> None:
    assert_as_mergekit(linear(unequal, SOURCES[source].format(**vars(unequal))), tmp_path)


@pytest.mark.parametrize("dtype", ["", "dtype: float32", "dtype: float32\nout_dtype: float16"])
def test_rows_are_rounded_as_mergekit_rounds_them(make_model: ModelMaker, tmp_path: Path, dtype: str) -> None:
    base, a, b = VOCABULARIES["shuffled"]
    family = Family(
        make_model("base", vocabulary=base, layers=1, dtype="float16"),
        make_model("a", vocabulary=a, layers=1, seed=1),
        make_model("b", vocabulary=b, layers=1, seed=2, dtype="float16"),
    )
    assert_as_mergekit(linear(family, f"{dtype}\ntokenizer: {{source: union, pad_to_multiple_of: 10}}"), tmp_path)


def test_a_stack_takes_its_embedding_from_the_first_slice_and_its_head_from_the_last(
    make_model: ModelMaker, tmp_path: Path
) -> None:
    base, a, _ = VOCABULARIES["shuffled"]
    first, last = make_model("first", vocabulary=base, layers=2), make_model("last", vocabulary=a, layers=2, seed=1)
    slices = [
        f"{{sources: [{{model: {name}, layer_range: {layers}}}]}}" for name, layers in ((first, [0, 2]), (last, [1, 2]))
    ]
    stack = f"merge_method: passthrough\nslices: [{', '.join(slices)}]\ntokenizer_source: union"
    ours = assert_as_mergekit(stack, tmp_path)
    AutoModelForCausalLM.from_pretrained(ours)


def test_a_parent_without_a_tokenizer_has_that_of_the_base(make_model: ModelMaker, tmp_path: Path) -> None:
    family = Family(
        make_model("base", layers=1),
        make_model("a", layers=1, seed=1, tokenizer=False),
        make_model("b", layers=1, seed=2, vocabulary=TinyVocabulary(added=("<x>",))),
    )
    assert_as_mergekit(task_arithmetic(family, "tokenizer_source: union"), tmp_path)


def test_no_token_that_transformers_makes_up_comes_into_a_union(make_model: ModelMaker, tmp_path: Path) -> None:
    # Qwen2's class adds <|endoftext|> to every vocabulary; mergekit ends with a KeyError there.
    names = ("base", "a", "b")
    options = {"architecture": "qwen2", "tied": True, "layers": 1}
    models = [
        make_model(name, seed=seed, vocabulary=vocabulary, **options)
        for seed, (name, vocabulary) in enumerate(zip(names, VOCABULARIES["shuffled"], strict=True))
    ]
    export_model(Recipe.parse(task_arithmetic(Family(*models), "tokenizer_source: union")), tmp_path / "out")
    vocabulary = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).get_vocab()
    own = [Tokenizer.from_file(f"{model}/tokenizer.json").get_vocab() for model in models]
    assert vocabulary.keys() == own[0].keys() | own[1].keys() | own[2].keys()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().num_embeddings == len(vocabulary)


# --- tokens without a row -------------------------------------------------------------------------------------------


def beyond(make_model: ModelMaker) -> Family:
    """A family whose base and `a` have tokens for which their embeddings have no row."""
    base = TinyVocabulary(words=("de", "def"), added=("<x>", "<y>"), rows=265)
    return Family(
        make_model("base", vocabulary=base, layers=1),
        make_model("a", vocabulary=TinyVocabulary(added=("<z>", "<w>"), rows=263), layers=1, seed=1),
        make_model("b", layers=1, seed=2),
    )


@pytest.mark.parametrize("source", ["base", "union"])
def test_tokens_without_a_row_are_left_out(make_model: ModelMaker, tmp_path: Path, source: str) -> None:
    ours = assert_as_mergekit(task_arithmetic(beyond(make_model), f"tokenizer_source: {source}"), tmp_path)
    vocabulary = Tokenizer.from_file(str(ours / "tokenizer.json")).get_vocab()
    assert "<x>" in vocabulary
    assert {"<y>", "<w>"}.isdisjoint(vocabulary)
    assert ("<z>" in vocabulary) == (source == "union")
    assert AutoTokenizer.from_pretrained(ours).get_vocab() == vocabulary


def test_a_word_without_a_row_takes_its_merges_with_it(make_model: ModelMaker, tmp_path: Path) -> None:
    base = make_model("base", vocabulary=TinyVocabulary(plain=("<s>", "</s>")), layers=1)
    content = json.loads(Path(base, "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] |= {"de": 258, "def": 259}
    content["model"]["merges"] = [["d", "e"], ["de", "f"]]
    Path(base, "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    recipe = Recipe.parse(f"merge_method: passthrough\nmodels: [{{model: {base}}}]\ntokenizer_source: base")
    export_model(recipe, tmp_path / "out")
    texts = ["def re", "de"]
    before, after = (Tokenizer.from_file(f"{folder}/tokenizer.json") for folder in (base, tmp_path / "out"))
    assert [before.encode(text).tokens for text in texts] == [["def", "Ġ", "r", "e"], ["de"]]
    assert [after.encode(text).tokens for text in texts] == [["d", "e", "f", "Ġ", "r", "e"], ["d", "e"]]


def test_a_new_token_is_filled_as_the_recipe_says_also_where_the_base_has_rows_to_spare(
    make_model: ModelMaker, tmp_path: Path
) -> None:
    # mergekit takes the new token for one of the base's: it fails, or keeps the row that lies there.
    base = make_model("base", vocabulary=TinyVocabulary(rows=300), layers=1)
    source = "{kind: model_token, model: BASE, token: '<c>'}".replace("BASE", base)
    tokens = f"tokenizer: {{source: base, tokens: {{'<new>': {{source: {source}}}}}}}"
    export_model(Recipe.parse(f"merge_method: passthrough\nmodels: [{{model: {base}}}]\n{tokens}"), tmp_path / "out")
    ids = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).get_vocab()
    rows = tensors(tmp_path / "out")["model.embed_tokens.weight"]
    assert len(rows) == 263
    assert torch.equal(rows[ids["<new>"]], rows[ids["<c>"]])


def refusal(text: str) -> str:
    """Return the message with which a recipe is refused."""
    recipe = Recipe.parse(text)
    with pytest.raises(MergingError) as caught, ParentSet.open(recipe) as parents:
        Merger(parents).steps(recipe)
    return str(caught.value)


def test_a_chosen_tokenizer_with_ids_beyond_its_embedding_is_refused(make_model: ModelMaker) -> None:
    family = beyond(make_model)
    assert refusal(task_arithmetic(family, f"tokenizer_source: {family.a}")) == (
        f"model {family.a}: its tokenizer has ids up to 263, but its embedding has 263 rows; choose another "
        "tokenizer_source: base and union leave out the tokens of the base that have no row"
    )


def test_unequal_embeddings_need_a_tokenizer_source(unequal: Family) -> None:
    message = refusal(task_arithmetic(unequal, ""))
    assert message.startswith(f"model {unequal.a}: tensor model.embed_tokens.weight has 26")
    assert "set tokenizer_source in the recipe (union keeps the tokens of all models" in message


def test_a_parent_of_another_size_without_a_tokenizer_is_refused(make_model: ModelMaker) -> None:
    bare = make_model("a", layers=1, tokenizer=False, vocabulary=TinyVocabulary(rows=270))
    family = Family(make_model("base", layers=1), bare, make_model("b", layers=1))
    assert refusal(task_arithmetic(family, "tokenizer_source: union")) == (
        f"model {bare}: has no tokenizer, and its embedding has 270 rows, but that of {family.base} has 262; put its "
        "tokenizer.json and tokenizer_config.json beside it"
    )


WRONG = {
    "an unknown token": (
        "{{source: {a}}}",
        "tokenizer.tokens.<new>.source: {a} has no token '<new>'; give a model that has it, {{kind: model_token}} with "
        "a token that it has, or {{kind: zero}}",
    ),
    "an unknown token of a model": (
        "{{source: {{kind: model_token, model: {a}, token: '<nowhere>'}}}}",
        "tokenizer.tokens.<new>.source: {a} has no token '<nowhere>'; give a model that has it, {{kind: model_token}} "
        "with a token that it has, or {{kind: zero}}",
    ),
    "a row that is not there": (
        "{{source: {{kind: model_token, model: {a}, token_id: 5000}}}}",
        "tokenizer.tokens.<new>.source.token_id: 5000 is outside the {rows} rows of {a}",
    ),
    "a model that is not a parent": (
        "{{source: {{kind: model_token, model: {a}x, token_id: 5}}}}",
        "tokenizer.tokens.<new>.source: {a}x is not a parent of this merge; did you mean '{a}'? "
        "(parents: {base}, {a}, {b})",
    ),
    "nothing": (
        "{{force: true}}",
        "tokenizer.tokens.<new>.source: is missing, and some parents do not have the token; name a model that has it",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_source_of_a_token_that_is_none_is_refused(unequal: Family, case: str) -> None:
    source, message = WRONG[case]
    names = vars(unequal) | {"rows": AutoModelForCausalLM.from_pretrained(unequal.a).config.vocab_size}
    text = task_arithmetic(unequal, f"tokenizer: {{source: union, tokens: {{'<new>': {source.format(**names)}}}}}")
    assert refusal(text) == message.format(**names)


# --- a live model ---------------------------------------------------------------------------------------------------


def test_the_live_model_is_the_exported_one_and_rows_are_brought_together_once(unequal: Family, tmp_path: Path) -> None:
    first, second = (
        Recipe.parse(task_arithmetic(unequal, "tokenizer_source: union").replace("weight: 0.7", f"weight: {weight}"))
        for weight in (0.7, 0.2)
    )
    export_model(second, tmp_path / "out")
    with ParentSet.open(first) as parents:
        merger = Merger(parents)
        merger.apply(first)
        source = merger.steps(first)[0].inputs[0]
        aligned = parents.tensor(source.parent, source.tensor)
        model = merger.apply(second)
        source = merger.steps(second)[0].inputs[0]
        assert parents.tensor(source.parent, source.tensor) is aligned
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
        live = model.state_dict()
        assert live.keys() == exported.keys()
        assert all(torch.equal(live[name], exported[name]) for name in live)
        assert model.get_input_embeddings().num_embeddings == len(merger.tokenizer(second))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("budget", [0, 60_000])
def test_rows_are_the_same_wherever_parents_are_kept(unequal: Family, budget: int) -> None:
    recipe = Recipe.parse(linear(unequal, "tokenizer_source: union"))
    with ParentSet.open(recipe) as roomy, ParentSet.open(recipe, MergeOptions(memory_budget=budget)) as tight:
        expected, found = (Merger(parents).apply(recipe).state_dict() for parents in (roomy, tight))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_brought_together_counts_against_the_budget(unequal: Family) -> None:
    recipe = Recipe.parse(linear(unequal, "tokenizer_source: union"))
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents:
        used = {source for step in Merger(parents).steps(recipe) for source in step.sources()}
        derived = {source for source in used if "@" in source.tensor}
        assert derived
        size = sum(parents.stored(source.parent, source.tensor).nbytes for source in derived)
        size += sum(checkpoint.nbytes for checkpoint in parents.checkpoints.values())
    for budget in (size, size - 1):
        with ParentSet.open(recipe, MergeOptions(memory_budget=budget)) as parents:
            Merger(parents).steps(recipe)
            parents.load()
            assert bool(parents.notes) == (budget < size)


def test_an_adapted_parent_has_the_vocabulary_of_its_base(make_model: ModelMaker, tmp_path: Path) -> None:
    base, a, _ = VOCABULARIES["added"]
    family = Family(make_model("base", vocabulary=base), make_model("a", vocabulary=a, seed=1), "")
    adapter = save_adapter(family.a, tmp_path / "adapter", target_modules=["embed_tokens", "lm_head", "q_proj"])
    plain = shutil.copytree(family.a, tmp_path / "plain")
    save_file(peft_merge(family.a, adapter), plain / "model.safetensors", {"format": "pt"})
    exports = []
    for name, parent in (("adapted", f"{family.a}+{adapter}"), ("merged", str(plain))):
        models = f"[{{model: {parent}, parameters: {{weight: 0.7}}}}]"
        text = f"merge_method: task_arithmetic\nbase_model: {family.base}\nmodels: {models}\ntokenizer_source: union\n"
        export_model(Recipe.parse(text), tmp_path / name)
        exports.append(tensors(tmp_path / name))
    found, expected = exports
    assert len(found["lm_head.weight"]) == 264
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral"])
def test_rows_come_together_where_files_are_laid_out_otherwise(
    make_model: ModelMaker, tmp_path: Path, architecture: str
) -> None:
    options = {"architecture": architecture, "layers": 1}
    vocabularies = zip(("base", "a", "b"), VOCABULARIES["added"], strict=True)
    family = Family(
        *(make_model(name, vocabulary=each, seed=i, **options) for i, (name, each) in enumerate(vocabularies))
    )
    recipe = Recipe.parse(linear(family, "tokenizer_source: union"))
    export_model(recipe, tmp_path / "out", files=ExportOptions(max_shard_size="40KB"))
    with ParentSet.open(recipe) as parents:
        live = Merger(parents).apply(recipe).state_dict()
        assert len(parents.architecture.by_token) == 2
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", output_loading_info=True)
    assert not any(report.values())
    exported = model.state_dict()
    assert model.get_input_embeddings().num_embeddings == model.get_output_embeddings().out_features == 265
    assert live.keys() == exported.keys()
    assert all(torch.equal(live[name], exported[name]) for name in live)


def test_what_a_random_method_drops_does_not_depend_on_where_the_parents_lie(unequal: Family, tmp_path: Path) -> None:
    shutil.copytree(Path(unequal.base).parent, tmp_path / "moved")
    moved = Family(*(str(tmp_path / "moved" / Path(model).name) for model in (unequal.base, unequal.a, unequal.b)))
    merged = []
    for family in (unequal, moved):
        text = task_arithmetic(family, "tokenizer_source: union\nparameters: {density: 0.5}")
        recipe = Recipe.parse(text.replace("task_arithmetic", "dare_linear"))
        with ParentSet.open(recipe) as parents:
            merged.append(Merger(parents).apply(recipe).state_dict())
    assert all(torch.equal(tensor, merged[1][name]) for name, tensor in merged[0].items())


def test_an_embedding_that_fits_already_is_not_copied(family: Family) -> None:
    recipe = Recipe.parse(task_arithmetic(family, "tokenizer_source: union"))
    with ParentSet.open(recipe) as parents:
        assert {source.tensor for source in Merger(parents).steps(recipe)[0].sources()} == {"model.embed_tokens.weight"}


def test_the_plan_names_the_vocabulary(unequal: Family) -> None:
    recipe = Recipe.parse(task_arithmetic(unequal, "tokenizer_source: union"))
    with ParentSet.open(recipe) as parents:
        embedding, *_ = Merger(parents).steps(recipe)
    assert all(source.tensor.startswith("model.embed_tokens.weight@union-") for source in embedding.sources())


# --- alignment, against a slow and obvious one ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Parent:
    name: str
    rows: dict[str, int]
    table: Tensor


@st.composite
def parent_lists(draw: st.DrawFn) -> list[_Parent]:
    parents = []
    for name in ("one", "two", "three")[: draw(st.integers(1, 3))]:
        tokens = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1))
        extra = draw(st.integers(0, 3))
        values = draw(st.lists(st.integers(-8, 8), min_size=len(tokens) + extra, max_size=len(tokens) + extra))
        table = torch.tensor(values, dtype=torch.float32)[:, None] * torch.tensor([1.0, 0.5])
        parents.append(_Parent(name, {token: row for row, token in enumerate(tokens)}, table))
    return parents


def expected_row(parents: list[_Parent], parent: _Parent, base: str | None, token: str, wanted: object) -> Tensor:
    if token in parent.rows and not (isinstance(wanted, TokenEmbedding) and wanted.force):
        return parent.table[parent.rows[token]]
    having = {each.name: each.table[each.rows[token]] for each in parents if token in each.rows}
    if isinstance(wanted, TokenEmbedding):
        if isinstance(wanted.source, ModelToken):
            return next(each for each in parents if each.name == wanted.source.model).table[wanted.source.token_id or 0]
        return torch.zeros(2) if isinstance(wanted.source, ZeroEmbedding) else having[str(wanted.source)]
    if base in having:
        return having[str(base)]
    return sum(having.values(), torch.zeros(2)) / max(len(having), 1)


@given(parent_lists(), st.booleans(), st.permutations("abcdefgh"), st.integers(0, 3), st.data())
def test_each_row_is_the_tokens_own_or_filled_by_the_rule(
    parents: list[_Parent], has_base: bool, tokens: list[str], padding: int, data: st.DataObject
) -> None:
    base = parents[-1].name if has_base else None
    sources: list[object] = [ZeroEmbedding(kind="zero")]
    sources += [ModelToken(kind="model_token", model=each.name, token_id=len(each.table) - 1) for each in parents]
    wanted = {
        token: TokenEmbedding.model_validate(
            {"source": data.draw(st.sampled_from(sources)), "force": data.draw(st.booleans())}
        )
        for token in data.draw(st.sets(st.sampled_from("abc")))
    }
    ids = {token: index for index, token in enumerate(tokens)}
    having = {each.name: each.rows for each in parents}
    sizes = {each.name: len(each.table) for each in parents}
    alignment = align(Vocabulary("all", ids, len(ids) + padding, having, sizes, wanted), list(having), base)
    tables = {each.name: each.table for each in parents}
    for parent in parents:
        found = rearranged(alignment, parent.name, tables.__getitem__, torch.float32)
        rows = [expected_row(parents, parent, base, token, wanted.get(token)) for token in tokens]
        torch.testing.assert_close(found[: len(ids)], torch.stack(rows))
        torch.testing.assert_close(found[len(ids) :], found[: len(ids)].mean(dim=0).expand(padding, 2))
