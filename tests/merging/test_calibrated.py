"""Fisher-weighted averaging and RegMean, against their papers' equations, and what they observe of the parents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from merging import (
    Merger,
    MergingError,
    OutOfMemory,
    ParentSet,
    Recipe,
    calibration,
    export_model,
    load_model,
    load_tokenizer,
)
from merging.calibration import diagonal_fisher, in_parts, mean_grams, observations, read_texts
from tests.merging.conftest import Family
from tests.merging.operands import run
from tests.merging.peft_oracle import save_adapter
from tests.parametrization import every
from tests.tiny import TinyModel, TinyVocabulary, byte_tokenizer, save_tiny_model

QUICKSTART = Path(__file__).parents[2] / "configs/quickstart"
METHODS = ["fisher", "regmean"]


def matrices(count: int, seed: int, shape: tuple[int, ...] = (7, 5)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def inputs(count: int, seed: int, rows: int = 40, width: int = 5) -> list[Tensor]:
    """Return inputs of linear layers, (rows, width), with correlated columns."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(width) + 0.2 * torch.randn(width, width, generator=generator)
    return [(torch.randn(rows, width, generator=generator) @ mixing).double() for _ in range(count)]


def grams(all_inputs: Sequence[Tensor]) -> list[Tensor]:
    return [(x.T @ x / len(x)).float() for x in all_inputs]


def check(merged: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """A 16-bit merge is the float32 one rounded once."""
    assert merged.dtype == dtype
    error = (merged.double() - expected).abs()
    tolerance = 1e-5 * expected.abs().max() + torch.finfo(dtype).eps * expected.abs()
    assert bool((error <= tolerance).all()), float(error.max())


weights = st.lists(st.floats(0.05, 2), min_size=1, max_size=3)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])


# --- the equations --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), weights=weights, dtype=dtypes)
def test_fisher_is_the_papers(seed: int, weights: list[float], dtype: torch.dtype) -> None:
    parents = [parent.to(dtype) for parent in matrices(len(weights), seed)]
    fishers = [fisher.square() * 1e-9 for fisher in matrices(len(weights), seed + 100)]
    for block_size in (1 << 20, 11):
        merged = run(
            "fisher", None, parents, per_input={"weight": weights}, observations=fishers, block_size=block_size
        )
        triples = list(zip(weights, fishers, parents, strict=True))
        above = torch.stack([w * f.double() * p.double() for w, f, p in triples]).sum(dim=0)
        below = torch.stack([w * f.double() for w, f, _ in triples]).sum(dim=0)
        check(merged, above / below, dtype)


@given(seed=st.integers(0, 99), weights=weights, dtype=dtypes, alpha=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
@example(seed=9, weights=[1.0, 1.0], dtype=torch.float32, alpha=1.0)
def test_regmean_is_the_papers(seed: int, weights: list[float], dtype: torch.dtype, alpha: float) -> None:
    parents = [parent.to(dtype) for parent in matrices(len(weights), seed)]
    observed = grams(inputs(len(weights), seed))
    merged = run("regmean", None, parents, {"alpha": alpha}, {"weight": weights}, observations=observed)
    alpha = min(alpha, 1 - 1e-6)  # a little of the diagonal always stays, which an ill-conditioned sum shows
    shrunk = [alpha * g.double() + (1 - alpha) * torch.diag(g.double().diagonal()) for g in observed]
    left = torch.stack([w * g for w, g in zip(weights, shrunk, strict=True)]).sum(dim=0)
    right = [w * g @ p.double().T for w, g, p in zip(weights, shrunk, parents, strict=True)]
    check(merged, (torch.linalg.inv(left) @ torch.stack(right).sum(dim=0)).T, dtype)


def test_regmean_solves_the_regression_that_it_stands_for() -> None:
    parents, observed = matrices(3, 1), inputs(3, 1)
    merged = run("regmean", None, parents, {"alpha": 1.0}, observations=grams(observed))
    outputs = torch.cat([x @ p.double().T for x, p in zip(observed, parents, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(observed), outputs).solution.T
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_parents_are_the_merge(name: str, dtype: torch.dtype) -> None:
    parent = matrices(1, 0)[0].to(dtype)
    observed = grams(inputs(2, 0)) if name == "regmean" else [m.square() for m in matrices(2, 3)]
    merged = run(name, None, [parent, parent], per_input={"weight": [0.5, 1.5]}, observations=observed)
    torch.testing.assert_close(merged, parent, rtol=1e-6, atol=1e-6)


def test_with_equal_fishers_the_merge_is_the_average() -> None:
    parents, (fisher,) = matrices(3, 0), matrices(1, 9)
    merged = run("fisher", None, parents, observations=[fisher.square()] * 3)
    torch.testing.assert_close(merged, torch.stack(parents).mean(dim=0))


@pytest.mark.parametrize("name", METHODS)
def test_where_nothing_is_observed_the_merge_is_the_weighted_average(name: str) -> None:
    parents = matrices(2, 0)
    nothing = [torch.zeros(5, 5) if name == "regmean" else torch.zeros(7, 5)] * 2
    merged = run(name, None, parents, per_input={"weight": [0.5, 1.5]}, observations=nothing)
    torch.testing.assert_close(merged, 0.25 * parents[0] + 0.75 * parents[1])


def test_of_few_tokens_only_what_they_say_is_learnt() -> None:
    parents = matrices(2, 0, (7, 12))
    directions = torch.linalg.qr(matrices(1, 5, (12, 12))[0])[0]  # in columns
    observed = [directions[:, :4].T * 3, directions[:, 4:6].T]
    merged = run("regmean", None, parents, {"alpha": 1.0}, observations=grams([rows.double() for rows in observed]))
    for rows, parent in zip(observed, parents, strict=True):
        torch.testing.assert_close(merged @ rows.T, parent @ rows.T, rtol=1e-3, atol=1e-3)
    # And of the rest nothing is invented.
    assert (merged - parents[0]).abs().max() <= (parents[1] - parents[0]).abs().max() * 1.5


def test_directions_that_no_text_has_stay_with_the_average() -> None:
    parents, observed = matrices(2, 0), inputs(2, 0)
    for x in observed:
        x[:, 2] = 0
    merged = run("regmean", None, parents, {"alpha": 1.0}, observations=grams(observed))
    torch.testing.assert_close(merged[:, 2], torch.stack(parents).mean(dim=0)[:, 2])
    assert torch.isfinite(merged).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(7, 5), (9,)])
def test_one_parent_is_that_parent_and_weight_0_is_absence(name: str, shape: tuple[int, ...]) -> None:
    parents = matrices(3, 0, shape)
    observed: list[Tensor | None]
    observed = [m.square() for m in matrices(3, 4, shape)]
    if name == "regmean":
        observed = [*grams(inputs(3, 0))] if len(shape) == 2 else [None] * 3
    alone = run(name, None, parents[:1], observations=observed[:1])
    torch.testing.assert_close(alone, parents[0])
    with_zero = run(name, None, parents, per_input={"weight": [0.7, 0.0, 1.2]}, observations=observed)
    without = run(name, None, parents[::2], per_input={"weight": [0.7, 1.2]}, observations=observed[::2])
    assert torch.equal(with_zero, without)
    backwards = run(name, None, parents[::-1], per_input={"weight": [1.2, 0.0, 0.7]}, observations=observed[::-1])
    torch.testing.assert_close(with_zero, backwards)


# --- what is observed -----------------------------------------------------------------------------------------------


def tiny(vocabulary: int = 262, hidden: int = 16, layers: int = 2) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.data.mul_(3)  # far from a uniform distribution, but no label is too rare to be drawn
    return model.eval()


def test_gram_matrices_are_those_of_the_inputs_of_linear_layers() -> None:
    model = tiny()
    sequences = [torch.arange(9)[None], torch.arange(30, 45)[None]]
    found = mean_grams(model, sequences)
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert found.keys() == linears
    with torch.no_grad():
        embedded = torch.cat([model.model.embed_tokens(ids[0]) for ids in sequences])
        first = model.model.layers[0].input_layernorm(embedded)
        last = torch.cat([model.model(ids).last_hidden_state[0] for ids in sequences])
    for name, rows in (("model.layers.0.self_attn.q_proj.weight", first), ("lm_head.weight", last)):
        expected = torch.stack([torch.outer(row, row) for row in rows.double()]).mean(dim=0)
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_fisher_information_is_that_of_the_models_own_distribution() -> None:
    model = tiny(vocabulary=20, layers=1)
    ids = torch.tensor([[3]])
    drawn = diagonal_fisher(model, [ids] * 300)
    # All labels, one after the other, weighed by their probability.
    exact = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    log_probabilities = torch.log_softmax(model(ids).logits[0, -1], dim=-1)
    for label in range(20):
        gradients = torch.autograd.grad(log_probabilities[label], list(model.parameters()), retain_graph=True)
        for name, gradient in zip(exact, gradients, strict=True):
            exact[name] += log_probabilities[label].exp().detach() * gradient.square()
    assert drawn.keys() == exact.keys()
    for name in exact:
        assert float(drawn[name].sum()) == pytest.approx(float(exact[name].sum()), rel=0.1), name
    assert torch.equal(diagonal_fisher(model, [ids])["lm_head.weight"], diagonal_fisher(model, [ids])["lm_head.weight"])


@pytest.mark.parametrize("observe", [mean_grams, diagonal_fisher])
def test_what_is_observed_in_parts_has_the_same_bits(observe: Callable[..., dict[str, Tensor]]) -> None:
    model = tiny(vocabulary=20, layers=1)
    texts = [torch.tensor([[1, 2, 3, 4]]), torch.tensor([[7, 5]])]
    whole = observe(model, texts)
    parts: list[int] = []

    def small(names: Sequence[str]) -> dict[str, Tensor]:
        if len(names) > 3:
            raise torch.OutOfMemoryError("out of memory")
        parts.append(len(names))
        return observe(model, texts, None, names)

    found = in_parts(small, list(whole))
    assert sum(parts) == len(found) > max(parts)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_one_tensor_without_room_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        in_parts(Mock(side_effect=torch.OutOfMemoryError("out of memory")), ["a", "b"])


def test_a_parent_without_room_to_be_run_is_one_line(
    family: Family, texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "mean_grams", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.\nTry")))
    wanted = recipe("regmean", [family.a, family.b], texts)
    with ParentSet.open(wanted) as parents:
        parents.load()
        with pytest.raises(OutOfMemory, match=rf"^cpu ran out of memory while {family.a} was calibrated: CUDA out of"):
            Merger(parents).calibrate(wanted)
        assert not any(parents._residencies[torch.device("cpu")]._kept)  # they gave up what they had first


@pytest.mark.slow
def test_the_information_of_many_tokens_is_their_mean() -> None:
    model = tiny(vocabulary=20, layers=1)
    texts = [torch.tensor([[1, 2, 3, 4]]), torch.tensor([[7, 5]])]
    head = diagonal_fisher(model, texts * 200)["lm_head.weight"].sum(dim=1)
    expected = torch.zeros(20)
    with torch.no_grad():
        for ids in texts:
            probabilities = torch.softmax(model(ids).logits[0], dim=-1)
            lengths = model.model(ids).last_hidden_state[0].square().sum(dim=-1)
            expected += (probabilities * (1 - probabilities) * lengths[:, None]).sum(dim=0) / 6
    torch.testing.assert_close(head, expected, rtol=0.35, atol=0.1 * float(expected.max()))


# --- calibration files ----------------------------------------------------------------------------------------------


def test_texts_are_read_from_lines_of_json_or_between_empty_lines(tmp_path: Path) -> None:
    lines = ['"one"', '{"text": "two"}', "", '{"prompt": "def f():\\n", "canonical_solution": "    pass\\n"}', '" "']
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read_texts(str(tmp_path / "texts.jsonl")) == ["one", "two", "def f():\n    pass\n"]
    (tmp_path / "texts.txt").write_text("one\ntwo\r\n\r\nthree\n\n\n", encoding="utf-8")
    assert read_texts(str(tmp_path / "texts.txt")) == ["one\ntwo", "three"]


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\u2028", "\u2029"])
def test_a_line_of_json_may_hold_every_character_that_json_allows(tmp_path: Path, character: str) -> None:
    texts = [f"one{character}two", "three"]
    file = tmp_path / "texts.jsonl"
    file.write_bytes("\r\n".join(json.dumps(text, ensure_ascii=False) for text in texts).encode())
    assert read_texts(str(file)) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file; give a small .jsonl or text file"),
        ("empty.jsonl", "", "holds no text; a few dozen examples"),
        ("blank.txt", "\n  \n\n", "holds no text; a few dozen examples"),
        ("broken.jsonl", '"a"\n{"text": ', ":2: is not JSON: "),
        ("other.jsonl", '{"question": "?"}', ":1: expected a string, or a mapping with 'text', got "),
        ("number.jsonl", '{"text": 3}', ":1: expected a string, or a mapping with 'text', got "),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_cannot_be_used_is_named(
    family: Family, tmp_path: Path, method: str, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content, encoding="utf-8")
    wanted = recipe(method, [family.a, family.b], str(file))
    with pytest.raises(MergingError) as caught, ParentSet.open(wanted) as parents:
        Merger(parents).apply(wanted)
    assert f"calibration: {file}" in str(caught.value)
    assert message in str(caught.value)


# --- whole models ---------------------------------------------------------------------------------------------------


def recipe(method: str, parents: Sequence[str], file: str, more: str = "") -> Recipe:
    models = "\n".join(f"- {{model: {parent}}}" for parent in parents)
    shared = f"parameters: {{calibration: {json.dumps(file)}{more}}}"
    return Recipe.parse(f"merge_method: {method}\nmodels:\n{models}\n{shared}\ndtype: bfloat16\n")


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.txt"
    file.write_text("def f(x):\n    return x\n\nsome words\n\nand 3 more", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("method", every(2, METHODS))
def test_the_quickstart_family_merges_into_a_finite_model(method: str, tmp_path: Path) -> None:
    problems = (QUICKSTART / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(problems[::20]), encoding="utf-8")
    parents_of_it = [str(QUICKSTART / "text"), str(QUICKSTART / "maths")]
    wanted = recipe(method, parents_of_it, str(tmp_path / "few.jsonl"))
    average = Recipe.average(parents_of_it, "bfloat16")
    with ParentSet.open([wanted, average]) as parents:
        model = Merger(parents).apply(wanted)
        plain = Merger(parents).apply(average).state_dict()
        assert torch.isfinite(model(torch.arange(10)[None]).logits).all()
        merged = model.state_dict()
        differing = {name for name in merged if not torch.equal(merged[name], plain[name])}
    linear = {name for name in merged if "proj" in name}
    assert linear <= differing
    if method == "regmean":
        assert differing <= linear | {"lm_head.weight"}


def test_each_parent_may_have_texts_of_its_own(family: Family, texts: str, tmp_path: Path) -> None:
    (tmp_path / "others.jsonl").write_text('"1 + 1 = 2"', encoding="utf-8")
    both = recipe("fisher", [family.a, family.b], texts)
    own = both.model_copy(
        update={
            "models": tuple(
                model.model_copy(update={"parameters": {"calibration": file}})
                for model, file in zip(both.models or (), (texts, str(tmp_path / "others.jsonl")), strict=True)
            )
        }
    )
    with ParentSet.open(both) as parents:
        one, other = (Merger(parents).apply(each).state_dict()["lm_head.weight"] for each in (both, own))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_parents_are_run_once_for_all_candidates(
    family: Family, texts: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Mock(side_effect=calibration._observe)
    monkeypatch.setattr(calibration, "_observe", runs)
    wanted = recipe(method, [family.a, family.b], texts)
    with ParentSet.open(wanted) as parents:
        merger = Merger(parents)
        progress = Mock()
        merger.calibrate(wanted, progress)
        assert [call.args for call in progress.call_args_list[:3]] == [("calibrating a", n, 3) for n in (1, 2, 3)]
        for weight in (0.3, 1.0, 2.0):
            first, *others = recipe(method, [family.a, family.b], texts).models or ()
            heavier = first.model_copy(update={"parameters": {"weight": weight}})
            merger.apply(wanted.model_copy(update={"models": (heavier, *others)}))
    assert runs.call_count == 2


@pytest.mark.parametrize(("kind", "method"), every(3, product(("family", "qwen_family"), METHODS)))
def test_the_exported_model_is_the_scored_one_and_mergekit_is_told_of(
    kind: str, texts: str, tmp_path: Path, method: str, request: pytest.FixtureRequest
) -> None:
    family: Family = request.getfixturevalue(kind)
    wanted = recipe(method, [family.a, family.b], texts)
    phases: list[str] = []
    export_model(wanted, tmp_path / "merge", progress=lambda phase, _done, _total: phases.append(phase))
    assert "calibrating b" in phases
    assert "mergekit has no such method" in (tmp_path / "merge/README.md").read_text(encoding="utf-8")
    with ParentSet.open(wanted) as parents:
        scored = Merger(parents).apply(wanted).state_dict()
    exported = load_model(str(tmp_path / "merge")).state_dict()
    assert all(torch.equal(exported[name], scored[name]) for name in scored)


@pytest.mark.parametrize("method", every(2, METHODS))
def test_a_base_model_gives_the_config_and_takes_no_part(family: Family, texts: str, method: str) -> None:
    wanted = recipe(method, [family.a, family.b], texts)
    onto = wanted.model_copy(update={"base_model": family.base})
    with ParentSet.open([wanted, onto]) as parents:
        merger = Merger(parents)
        one, other = ({k: v.clone() for k, v in merger.apply(each).state_dict().items()} for each in (wanted, onto))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{}", "regmean needs the parameter 'calibration'; give it here, or for all models under 'parameters'"),
        ("{calibration: 3}", "expected a text, got 3"),
        ("{calibration: x, weight: -1}", "-1 is outside [0, inf]"),
        ("{calibration: x, alpha: 2}", "2 is outside [0, 1]"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: str, message: str) -> None:
    with pytest.raises(MergingError) as caught:
        Recipe.parse(f"merge_method: regmean\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {parameters}\n")
    assert message in str(caught.value)


def test_weights_that_are_all_zero_are_refused(family: Family, texts: str) -> None:
    wanted = recipe("fisher", [family.a, family.b], texts, ", weight: 0")
    with (
        ParentSet.open(wanted) as parents,
        pytest.raises(MergingError, match="the weights of all models are zero here"),
    ):
        Merger(parents).apply(wanted)


def test_a_model_without_linear_layers_is_named(tmp_path: Path, texts: str) -> None:
    config = GPT2Config(vocab_size=262, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=257)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path / "gpt2")
    byte_tokenizer().save_pretrained(tmp_path / "gpt2")
    wanted = recipe("regmean", [str(tmp_path / "gpt2")], texts)
    with ParentSet.open(wanted) as parents, pytest.raises(MergingError, match=r"gpt2: has no linear layers"):
        Merger(parents).apply(wanted)


def test_a_parent_without_a_tokenizer_is_named(family: Family, tmp_path: Path, texts: str) -> None:
    bare = Path(shutil.copytree(family.a, tmp_path / "bare"))
    for file in bare.glob("tokenizer*"):
        file.unlink()
    wanted = recipe("fisher", [family.b, str(bare)], texts)
    with ParentSet.open(wanted) as parents, pytest.raises(MergingError, match=r"bare: has no tokenizer"):
        Merger(parents).apply(wanted)


# --- parents of other kinds -----------------------------------------------------------------------------------------


def alone(kind: str, model: str, texts: str) -> dict[str, Tensor]:
    """Return what is observed of a model that transformers loads, by the live model's names."""
    loaded = load_model(model, dtype="float32")
    tokenizer = load_tokenizer(model)
    sequences = [torch.tensor([tokenizer(text).input_ids]) for text in read_texts(texts)]
    return (mean_grams if kind == "gram" else diagonal_fisher)(loaded, sequences)


@pytest.mark.parametrize("kind", ["gram", "fisher"])
@pytest.mark.parametrize("architecture", ["gpt_neox", "mixtral", "qwen2", "gemma"])
def test_what_is_observed_goes_by_the_names_of_the_merge(
    tmp_path: Path, texts: str, kind: Any, architecture: str
) -> None:
    tied = architecture in ("qwen2", "gemma")
    model = save_tiny_model(tmp_path / "model", TinyModel(architecture=architecture, layers=1, tied=tied))
    with ParentSet.open(Recipe.single(model)) as parents:
        found = observations(kind, model, texts, parents)
        names = parents.names(model)
        layout = parents.architecture.layout
    expected = {layout.name_of(name): tensor for name, tensor in alone(kind, model, texts).items()}
    assert found.keys() == expected.keys() & set(names)
    assert kind == "gram" or found.keys() == set(names)
    head = "embed_out.weight" if architecture == "gpt_neox" else "lm_head.weight"
    assert tied or head in found
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("kind", every(2, ["gram", "fisher"]))
def test_a_parent_with_an_adapter_is_run_with_it(family: Family, tmp_path: Path, texts: str, kind: Any) -> None:
    adapter = save_adapter(family.a, tmp_path / "adapter", target_modules=["q_proj", "down_proj", "lm_head"])
    parent = f"{family.a}+{adapter}"
    with ParentSet.open(Recipe.average([parent, family.b])) as parents:
        found = observations(kind, parent, texts, parents)
    adapted, plain = (alone(kind, model, texts) for model in (parent, family.a))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, adapted[name])
    assert any(not torch.allclose(tensor, plain[name]) for name, tensor in found.items())


def test_a_tied_head_has_the_information_of_its_embedding(tmp_path: Path, texts: str) -> None:
    untied = save_tiny_model(tmp_path / "untied", TinyModel(layers=1, dtype="float32"))
    tied = save_tiny_model(tmp_path / "tied", TinyModel(layers=1, dtype="float32", seed=1, tied=True))
    wanted = recipe("fisher", [untied, tied], texts).model_copy(update={"dtype": "float32"})
    with ParentSet.open(wanted) as parents:
        merged = Merger(parents).apply(wanted).state_dict()
    models = [load_model(model).state_dict() for model in (untied, tied)]
    fishers = [alone("fisher", model, texts) for model in (untied, tied)]
    f, g = fishers[0]["lm_head.weight"], fishers[1]["model.embed_tokens.weight"]
    x, y = (model["lm_head.weight"] for model in models)
    known = (f + g) > 0
    torch.testing.assert_close(
        merged["lm_head.weight"][known], ((f * x + g * y) / (f + g))[known], rtol=1e-3, atol=1e-5
    )


@pytest.fixture
def unequal(tmp_path: Path) -> tuple[str, str]:
    """Two float32 models whose tokens have other ids; each has a token that the other lacks."""
    vocabularies = (
        TinyVocabulary(plain=("<s>", "</s>", "<a>"), rows=264),
        TinyVocabulary(plain=("</s>", "<s>"), added=("<b>",)),
    )
    one, other = (
        save_tiny_model(tmp_path / name, TinyModel(seed=seed, layers=1, dtype="float32", vocabulary=vocabulary))
        for seed, (name, vocabulary) in enumerate(zip("ab", vocabularies, strict=True))
    )
    return one, other


def test_the_information_of_an_embedding_follows_its_tokens(unequal: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("some <a> words\n\nand <b> more</s>", encoding="utf-8")
    wanted = recipe("fisher", unequal, str(file)).model_copy(update={"dtype": "float32", "tokenizer_source": "union"})
    with ParentSet.open(wanted) as parents:
        merger = Merger(parents)
        merged = merger.apply(wanted).state_dict()
        ids = merger.tokenizer(wanted).get_vocab()
    models = [load_model(model).state_dict() for model in unequal]
    fishers = [alone("fisher", model, str(file)) for model in unequal]
    vocabularies = [load_tokenizer(model).get_vocab() for model in unequal]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert len(merged[name]) == 260
        for token, row in ids.items():
            rows = [
                (model[name][own[token]], fisher[name][own[token]])
                for model, fisher, own in zip(models, fishers, vocabularies, strict=True)
                if token in own
            ]
            total = torch.stack([fisher for _, fisher in rows]).sum(dim=0)
            mean = torch.stack([value for value, _ in rows]).mean(dim=0)
            weighed = torch.stack([value * fisher for value, fisher in rows]).sum(dim=0) / total
            expected = torch.where(total > 0, weighed, mean)
            torch.testing.assert_close(merged[name][row], expected, rtol=1e-3, atol=1e-5)


def test_a_rearranged_head_is_fitted_to_the_inputs_that_it_has(unequal: tuple[str, str], texts: str) -> None:
    wanted = recipe("regmean", unequal, texts).model_copy(update={"dtype": "float32", "tokenizer_source": "union"})
    with ParentSet.open(wanted) as parents:
        merger = Merger(parents)
        merged = merger.apply(wanted).state_dict()["lm_head.weight"]
        ids = merger.tokenizer(wanted).get_vocab()
    heads = [load_model(model).state_dict()["lm_head.weight"] for model in unequal]
    grams = [alone("gram", model, texts)["lm_head.weight"] for model in unequal]
    token = "x"
    targets = [head[load_tokenizer(model).get_vocab()[token]] for head, model in zip(heads, unequal, strict=True)]
    shrunk = [0.9 * g.double() + 0.1 * torch.diag(g.double().diagonal()) for g in grams]
    right = torch.stack([g @ target.double() for g, target in zip(shrunk, targets, strict=True)]).sum(dim=0)
    expected = torch.linalg.solve(shrunk[0] + shrunk[1], right)
    torch.testing.assert_close(merged[ids[token]].double(), expected, rtol=1e-3, atol=1e-5)
    # A token that one of them lacks is the other's in both.
    torch.testing.assert_close(merged[ids["<b>"]], heads[1][load_tokenizer(unequal[1]).get_vocab()["<b>"]])
