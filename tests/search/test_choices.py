"""A search over methods, models and layers, end to end on the quickstart's family."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evaluation import Evaluator
from merging import MergingError
from search import SearchConfig, export_trial, run_search
from tests.search.family import Family
from tests.search.told import Phases
from tests.tiny import TinyModel, save_tiny_model

FAMILY = Path(__file__).parents[2] / "configs" / "quickstart"
RECIPE = """
  merge_method: {choices: [linear, ties]}
  base_model: base
  slices:
  - sources:
    - {model: {choices: [text, maths]}, layer_range: [0, 3], parameters: {weight: {low: 0.3, high: 1.0}}}
    - {model: base, layer_range: [0, 3]}
  - sources:
    - {model: maths, layer_range: [{low: 1, high: 3}, 4]}
    - {model: base, layer_range: [{low: 1, high: 3}, 4]}
  parameters: {weight: 0.8, density: {low: 0.5, high: 1.0}}
  dtype: bfloat16
"""
START = """
    - merge_method: ties
      base_model: base
      slices:
      - sources:
        - {model: maths, layer_range: [0, 3], parameters: {weight: 0.9}}
        - {model: base, layer_range: [0, 3]}
      - sources: [{model: maths, layer_range: [3, 4]}, {model: base, layer_range: [3, 4]}]
      parameters: {weight: 0.8, density: 0.75}
      dtype: bfloat16
"""


def configured(tmp_path: Path, search: str) -> SearchConfig:
    """Return a search of the recipe on some of the quickstart's problems."""
    lines = (FAMILY / "problems.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(lines[::25]), encoding="utf-8")
    evaluation = f"{{problems: {problems}, max_new_tokens: 16, workers: 1, allow_code_execution: true}}"
    text = f"recipe:{RECIPE}evaluation: {evaluation}\nsearch:\n  seed: 1\n  finalists: 1\n{search}"
    return SearchConfig.parse(text, folder=FAMILY)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Return a digest of all bits of some tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return a list to which the depth and the digest of each model are added that is scored."""
    seen: list[tuple[int, str]] = []
    evaluate = Evaluator.evaluate

    def noting(self: Evaluator, model: Any, *arguments: Any, **named: Any) -> Any:
        # It may compute in float32, which holds the numbers of bfloat16.
        own = {name: tensor.bfloat16() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
        seen.append((model.config.num_hidden_layers, digest(own)))
        return evaluate(self, model, *arguments, **named)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    return seen


@pytest.mark.slow
def test_methods_models_and_layers_are_searched_and_the_export_is_what_was_scored(
    scored: list[tuple[int, str]], tmp_path: Path
) -> None:
    phases = Phases()
    config = configured(tmp_path, "  sampler: random\n")
    run_search(config, tmp_path / "run", trials=5, progress=phases)
    board = run_search(config, tmp_path / "run", trials=10)

    assert any("points of the space cannot be merged" in message for message in phases.said)
    references = {Path(row.name).name for row in board.rows if row.record.kind != "trial"}
    assert references == {"text", "base", "maths", "average"}
    trials = [row for row in board.rows if row.record.kind == "trial"]
    assert {row.record.number for row in trials} == set(range(10))
    done = [row for row in trials if row.record.search.state == "complete"]
    failed = [row for row in trials if row.record.search.state == "failed"]
    assert failed
    assert all(
        "the sources of a slice must have the same number of layers" in str(row.record.search.error) for row in failed
    )
    assert {row.record.recipe["merge_method"] for row in done} == {"linear", "ties"}
    assert {Path(row.record.recipe["slices"][0]["sources"][0]["model"]).name for row in done} == {"text", "maths"}
    depths = {
        3 + end - start for row in done for start, end in [row.record.recipe["slices"][1]["sources"][0]["layer_range"]]
    }
    assert len(depths) > 1
    assert depths | {4} == {depth for depth, _ in scored}

    best = export_trial(tmp_path / "run", tmp_path / "merged", anyway=True)
    (depth,) = {3 + end - start for start, end in [best.record.recipe["slices"][1]["sources"][0]["layer_range"]]}
    assert (depth, digest(load_file(tmp_path / "merged" / "model.safetensors"))) in scored


@pytest.mark.slow
def test_a_recipe_of_chosen_method_model_and_layers_is_tried_first(tmp_path: Path) -> None:
    config = configured(tmp_path, "  sampler: cmaes\n  enqueue:" + START)
    board = run_search(config, tmp_path / "run", trials=3)
    first = min((row for row in board.rows if row.record.kind == "trial"), key=lambda row: row.record.number)
    assert first.record.search.state == "complete"
    assert first.record.parameters == {
        "merge_method": "ties",
        "slices[0].sources[0].model": str(FAMILY / "maths"),
        "slices[0].sources[0].parameters.weight": 0.9,
        "slices[1].sources[0].layer_range[0]": 3,
        "slices[1].sources[1].layer_range[0]": 3,
        "parameters.density": 0.75,
    }


@pytest.mark.slow
def test_parents_of_unequal_depth_are_stacked_without_an_average(family: Family) -> None:
    deep = save_tiny_model(family.folder / "deep", TinyModel(seed=3, layers=4))
    recipe = f"""
  merge_method: passthrough
  slices:
  - sources: [{{model: a, layer_range: [0, {{low: 1, high: 3}}]}}]
  - sources: [{{model: {{choices: [a, {deep}]}}, layer_range: [1, {{low: 2, high: 4}}]}}]
"""
    phases = Phases()
    board = run_search(SearchConfig.load(family.write(recipe=recipe)), family.folder / "run", progress=phases)
    assert {row.name: row.record.kind for row in board.rows if row.record.kind != "trial"} == {
        str(family.a): "parent",
        deep: "parent",
    }
    assert any(message.startswith("average: left out: models of different depth") for message in phases.said)
    assert any("sources[0].layer_range: [1, 4] goes beyond the 3 layers of" in message for message in phases.said)


def test_a_layer_that_no_model_has_is_refused_before_anything_is_written(family: Family) -> None:
    recipe = """
  merge_method: passthrough
  slices:
  - sources: [{model: {choices: [a, b]}, layer_range: [0, {low: 1, high: 4}]}]
"""
    config = SearchConfig.load(family.write(recipe=recipe))
    where = r": recipe\.slices\[\d\]\.sources\[\d\]\.layer_range: "
    with pytest.raises(MergingError, match=rf"{where}\[0, 4\] goes beyond the 3 layers of"):
        run_search(config, family.folder / "run")
    assert not (family.folder / "run").exists()
