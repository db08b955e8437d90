"""A real family merges as in mergekit 0.1.5: SmolLM2-135M-Instruct and two fine-tunes, every method, each in one width.

A third of the layers, of every depth, are merged where many tensors are needed, and otherwise the first few: mergekit
takes minutes for all of every recipe. Of the embedding, which these fine-tunes do not change, there are some rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.merging.conftest import Family
from tests.merging.oracle import mergekit_merge
from tests.merging.recipes import NAMES, recipes
from tests.merging.test_parity import check, check_every_element, merge

pytestmark = pytest.mark.slow

MODELS = ("base", "text", "numeric")
FIRST, SPREAD = range(4), range(0, 30, 3)
EMBEDDING, ROWS = "model.embed_tokens.weight", 4096


@pytest.fixture(scope="session")
def deep(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The family with every third layer."""
    return with_layers(SPREAD, smollm2_folder, tmp_path_factory.mktemp("deep"))


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The family without all but the first layers."""
    return with_layers(FIRST, smollm2_folder, tmp_path_factory.mktemp("smollm2"))


def with_layers(layers: range, models: Path, to: Path) -> Family:
    """Write what the models are without their other layers, most of the vocabulary and the tokenizer."""
    for name in MODELS:
        (to / name).mkdir()
        config = json.loads((models / name / "config.json").read_text(encoding="utf-8"))
        config |= {key: [value[layer] for layer in layers] for key, value in config.items() if key == "layer_types"}
        config |= {"num_hidden_layers": len(layers), "vocab_size": ROWS}
        (to / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tensors = load_file(models / name / "model.safetensors")
        kept = {as_named(tensor, layers): value for tensor, value in tensors.items()}
        kept |= {EMBEDDING: tensors[EMBEDDING][:ROWS].clone()}
        kept.pop("", None)
        save_file(kept, to / name / "model.safetensors", metadata={"format": "pt"})
    return Family(*(str(to / name) for name in MODELS))


def as_named(tensor: str, layers: range) -> str:
    """Return a tensor's name in a model that has only some of the layers; empty if it is of another layer."""
    start, _, rest = tensor.partition(".layers.")
    layer, _, name = rest.partition(".")
    if not rest:
        return tensor
    return f"{start}.layers.{layers.index(int(layer))}.{name}" if int(layer) in layers else ""


@pytest.mark.parametrize("name", NAMES[::2])
def test_a_bfloat16_merge_has_mergekits_bits(smollm2: Family, name: str) -> None:
    # Short fine-tunes move a bfloat16 weight by few different steps, so more magnitudes are equal than by chance.
    check(recipes(smollm2, "bfloat16")[name], relative=0.0, most_undecided=0.1)


def test_where_mergekit_keeps_the_first_of_equals_no_bit_differs_at_any_depth(deep: Family) -> None:
    check_every_element(recipes(deep, "bfloat16")["ties"], relative=0.0)


@pytest.mark.parametrize("name", ["ties", *NAMES[1::2]])
def test_a_float32_merge_is_mergekits(smollm2: Family, name: str) -> None:
    # The files are bfloat16, so magnitudes are as often equal here; with a stable sort none has to be left out.
    check_every_element(recipes(smollm2, "float32")[name], relative=1e-6)


@pytest.mark.parametrize(("method", "dtype"), [("dare_linear", "float32"), ("dare_ties", "bfloat16")])
def test_a_random_merge_keeps_as_much_of_each_tensor_as_mergekits(smollm2: Family, method: str, dtype: str) -> None:
    text = recipes(smollm2, dtype)["task_arithmetic"].replace("task_arithmetic", method)
    text = text.replace("parameters: {}", "parameters: {density: [0.3, 0.8]}")
    ours, _ = merge(text)
    torch.manual_seed(0)
    theirs = mergekit_merge(text)
    base = mergekit_merge(f"merge_method: passthrough\nmodels: [{{model: {smollm2.base}}}]\ndtype: {dtype}\n")
    deltas = {name: [merged[name].double() - base[name].double() for merged in (ours, theirs)] for name in theirs}
    for name, (one, other) in deltas.items() if dtype == "float32" else ():
        apart = five_deviations(other)
        assert abs(kept(one) - kept(other)) < apart, name
        assert norm(one) == pytest.approx(norm(other), rel=max(0.01, 4 * apart)), name
    # In bfloat16 a delta is a step or two of the base's, and the last bit of the factor that rescales it decides, in a
    # whole tensor at once, whether half a step is one or none: only all tensors together are comparable.
    for measure in (kept, norm):
        mine, its = (measure(torch.cat([pair[side].flatten() for pair in deltas.values()])) for side in (0, 1))
        assert mine == pytest.approx(its, rel=0.02)


def kept(delta: Tensor) -> float:
    """Return the share of elements that a merge changed."""
    return float((delta != 0).double().mean())


def norm(delta: Tensor) -> float:
    """Return the L1 norm."""
    return float(delta.abs().sum())


def five_deviations(delta: Tensor) -> float:
    """Return how far apart the shares of two independent draws may lie, at most."""
    return float(5 * (0.5 / delta.numel()) ** 0.5)
