"""A real family merges as in mergekit 0.1.5: SmolLM2-135M-Instruct and two fine-tunes, every method, each in one width.

All 30 layers are merged where many tensors are needed, and otherwise the first few with the embedding: mergekit takes
minutes for all of every recipe.
"""

from __future__ import annotations

import json
import re
import shutil
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
LAYERS = 4


@pytest.fixture(scope="session")
def whole(smollm2_folder: Path) -> Family:
    """The family with all its layers."""
    return Family(*(str(smollm2_folder / name) for name in MODELS))


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The family without all but the first layers."""
    folder = tmp_path_factory.mktemp("smollm2")
    return Family(*(first_layers(smollm2_folder / name, folder / name) for name in MODELS))


def first_layers(model: Path, to: Path) -> str:
    """Write what a model is without its other layers."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    lists = {key: value[:LAYERS] for key, value in config.items() if key == "layer_types"}
    (to / "config.json").write_text(json.dumps(config | lists | {"num_hidden_layers": LAYERS}), encoding="utf-8")
    beyond = re.compile(r"model\.layers\.(\d+)\.")
    tensors = load_file(model / "model.safetensors")
    places = {name: beyond.match(name) for name in tensors}
    kept = {name: tensors[name] for name, place in places.items() if not place or int(place[1]) < LAYERS}
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


@pytest.mark.parametrize("name", NAMES[::2])
def test_a_bfloat16_merge_has_mergekits_bits(smollm2: Family, name: str) -> None:
    # Short fine-tunes move a bfloat16 weight by few different steps, so more magnitudes are equal than by chance.
    check(recipes(smollm2, "bfloat16")[name], relative=0.0, most_undecided=0.1)


def test_where_mergekit_keeps_the_first_of_equals_no_bit_of_any_layer_differs(whole: Family) -> None:
    check_every_element(recipes(whole, "bfloat16")["ties"], relative=0.0)


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
