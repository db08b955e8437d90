"""Genomes of mergekit-evolve as configs, against what mergekit makes of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.evo.config import EvolMergeConfiguration
from mergekit.evo.genome import ModelGenome

from merging import Merger, MergingError, ParentSet, Recipe
from search import SearchConfig, SearchError
from search.counts import counted
from search.space.genome import translated
from tests.search.conftest import Command
from tests.search.family import Family

_TASKS = [{"name": "humaneval", "metric": "pass@1,create_test"}]
_FILTERS = ["self_attn", "mlp"]
_SHAPES: dict[str, dict[str, Any]] = {
    "one group": {},
    "groups": {"layer_granularity": 1},
    "smooth": {"layer_granularity": 1, "smooth": True},
    "filters": {"layer_granularity": 1, "filters": _FILTERS, "allow_negative_weights": True},
    "smooth filters": {"layer_granularity": 1, "smooth": True, "filters": _FILTERS, "normalize": False},
}


def write(family: Family, tasks: object = _TASKS, top: dict[str, Any] | None = None, **genome: Any) -> Path:
    """Write a genome of the family's models and return its path."""
    models = [str(family.a), str(family.b)]
    content = {"genome": {"models": models, **genome}, "tasks": tasks, **(top or {})}
    file = family.folder / "genome.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def mergekit_genome(file: Path) -> ModelGenome:
    return ModelGenome(EvolMergeConfiguration.model_validate(yaml.safe_load(file.read_text())).genome)


def merged(recipe: Recipe) -> dict[str, torch.Tensor]:
    with ParentSet.open(recipe) as parents:
        return {name: tensor.clone() for name, tensor in Merger(parents).apply(recipe).state_dict().items()}


def recipe_at(config: SearchConfig, values: torch.Tensor) -> Recipe:
    """Return the recipe of a genotype, whose dimensions are groups, models, filters and parameters."""
    by_model = "slices" not in config.space.template
    ordered = values.permute(1, 3, 2, 0) if by_model else values.permute(0, 1, 3, 2)
    names = [name for each in config.space.ranges for name in each.names]
    return config.space.recipe_at(dict(zip(names, ordered.flatten().tolist(), strict=True)))


@pytest.mark.parametrize(
    ("method", "shape"),
    [("ties", "filters"), ("linear", "smooth"), ("task_arithmetic", "one group")]
    + [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in itertools.product(["linear", "task_arithmetic", "ties", "dare_ties"], _SHAPES)
    ],
)
def test_a_point_of_the_space_is_the_merge_that_mergekit_makes_of_it(
    shared_family: Family, tmp_path: Path, method: str, shape: str
) -> None:
    base = {} if method == "linear" else {"base_model": str(shared_family.base)}
    file = write(shared_family, merge_method=method, **base, **_SHAPES[shape])
    theirs, config = mergekit_genome(file), translated(file, tmp_path / "config.yaml", slices=True).config
    start = theirs.initial_genotype()
    assert sum(len(each.names) for each in config.space.ranges) == start.numel()
    values = torch.rand(start.shape, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    found, expected = recipe_at(config, values), Recipe.parse(theirs.genotype_merge_config(values).to_yaml())
    ours = merged(found)
    for name, tensor in merged(expected).items():
        assert torch.equal(ours[name], tensor), name
    if expected.slices and "slices" in config.space.template and method != "linear":
        assert found == expected
    assert config.warm_starts == (config.space.parameters_of(recipe_at(config, start).to_dict()),)


def test_groups_of_layers_are_knots_and_the_comment_says_so(shared_family: Family, tmp_path: Path) -> None:
    file = write(shared_family, merge_method="ties", base_model=str(shared_family.base), layer_granularity=1)
    found = translated(file, tmp_path / "config.yaml")
    weight, density = found.config.space.ranges[:2]
    assert (weight.knots, density.knots) == (3, 3)
    assert "# - genome.layer_granularity: 1: mergekit-evolve gives each of the 3 groups" in found.text
    assert (
        sum(len(each.names) for each in found.config.space.ranges) == mergekit_genome(file).initial_genotype().numel()
    )


@pytest.mark.parametrize("values", [(0.9, -0.3), (0.2, 0.7)])
def test_slerp_is_searched_by_its_t(shared_family: Family, tmp_path: Path, values: tuple[float, float]) -> None:
    file = write(shared_family, merge_method="slerp")
    config = translated(file, tmp_path / "config.yaml").config
    (t,) = [name for each in config.space.ranges for name in each.names]
    genotype = torch.tensor(values).reshape(1, 2, 1, 1)
    ours = merged(config.space.recipe_at({t: torch.softmax(torch.tensor(values), 0)[1].item()}))
    theirs = mergekit_genome(file).genotype_merge_config(genotype)
    for name, tensor in merged(Recipe.parse(theirs.to_yaml())).items():
        torch.testing.assert_close(ours[name], tensor, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
def test_what_is_written_is_a_config_whose_ends_mergekit_reads(
    command: Command, shared_family: Family, tmp_path: Path, method: str
) -> None:
    base = {"base_model": str(shared_family.base)} if method not in ("linear", "slerp") else {}
    file, out = write(shared_family, merge_method=method, tokenizer_source="union", **base), tmp_path / "config.yaml"
    done = command("import-evolve", file, "--to", out)
    assert done.exit_code == 0, done.output
    config = SearchConfig.load(out)
    config.require_files()
    for recipe in config.space.extreme_recipes:
        read = MergeConfiguration.model_validate(yaml.safe_load(recipe.to_yaml()))
        assert (read.merge_method, read.tokenizer_source, read.dtype) == (method, "union", "bfloat16")
    assert f"searches {counted(sum(len(each.names) for each in config.space.ranges), 'value')}; " in done.stdout
    again = command("import-evolve", file, "--to", out)
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)
    assert command("import-evolve", file).stdout == out.read_text()


def test_tasks_become_problem_sets(shared_family: Family, tmp_path: Path) -> None:
    top = {"apply_chat_template": False, "limit": 160, "random_init": True, "fewshot_as_multiturn": False}
    tasks = [{"name": "humaneval", "weight": 2.0}]
    config = translated(write(shared_family, tasks, top, merge_method="linear"), tmp_path / "c.yaml").config
    (entry,) = config.evaluation.problems
    assert (entry.source, entry.weight, len(entry.without)) == ("humaneval", 2.0, 4)
    assert (config.evaluation.prompt.format, config.warm_starts) == ("completion", ())
    tasks = ["humaneval_plus", "mbpp_instruct"]
    plain = {"apply_chat_template": False}
    config = translated(write(shared_family, tasks, plain, merge_method="linear"), tmp_path / "c.yaml").config
    assert [(each.source, each.prompt) for each in config.evaluation.problems] == [
        ("humaneval+", None),
        ("mbpp", "chat"),
    ]
    file = write(shared_family, ["gsm8k"], merge_method="linear")
    found = translated(file, tmp_path / "c.yaml", problems=["mbpp+"])
    assert [each.source for each in found.config.evaluation.problems] == ["mbpp+"]
    assert "# - tasks: gsm8k: --problems takes their place." in found.text


@pytest.mark.parametrize(
    ("top", "genome", "error"),
    [
        ({"sigma0": 0.1}, {}, "sigma0: unknown key"),
        ({"num_fewshot": 3}, {}, "num_fewshot: 3: "),
        ({"limit": 10, "shuffle": True}, {}, "shuffle: with limit"),
        ({"tasks": ["gsm8k"]}, {}, "tasks[0].name: gsm8k: is not a task that merge-search scores"),
        ({"tasks": ["humaneval", "humaneval_instruct"]}, {}, "tasks[1].name: humaneval_instruct: has the problems of"),
        ({"tasks": [{"name": "humaneval", "metric": "pass@10"}]}, {}, "tasks[0].metric: pass@10: "),
        ({"tasks": [{"name": "humaneval", "weight": -1}]}, {}, "tasks[0].weight: expected a number above 0"),
        ({}, {"merge_method": "della"}, "genome.merge_method: expected 'linear', "),
        ({}, {"merge_method": "ties"}, "genome: base_model: is missing"),
        ({}, {"base_model": "other/model"}, "genome: base_model: linear merges only the models"),
        ({}, {"merge_method": "slerp", "smooth": True}, "genome: smooth and filters: "),
        ({}, {"merge_method": "slerp", "models": ["a", "b", "c"]}, "genome: models: slerp takes two, got 3"),
        ({}, {"layer_granularity": 2}, "genome.layer_granularity: 2 does not divide the 3 layers"),
        ({}, {"models": ["nowhere", "a"], "layer_granularity": 1}, "the number of layers of nowhere is not known"),
        (
            {},
            {"models": [{"model": "a", "override_architecture": "b"}, "a"]},
            "genome.models[0]: override_architecture: ",
        ),
    ],
)
def test_a_field_that_has_no_place_is_refused_by_its_key(
    family: Family, tmp_path: Path, top: dict[str, Any], genome: dict[str, Any], error: str
) -> None:
    file = write(family, top=top, **{"merge_method": "linear", **genome})
    with pytest.raises((SearchError, MergingError)) as caught:
        translated(file, tmp_path / "config.yaml")
    assert str(caught.value).startswith(f"{file}: ")
    assert error in str(caught.value)
