"""Searched numbers that nothing reads are named before anything is searched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from merging import MergeOptions, Merger, ParentSet
from search import SearchConfig, run_search
from search.progress import Progress
from search.unread import unread_lines
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.told import Stopped, Stops

RANGE = "{low: 0.0, high: 1.0}"
UNREAD = "nothing reads it: "
FAR = "nothing reads them: no tensor is near such a knot; the layers need fewer than {} knots"


def lines(family: Family, recipe: str) -> list[str]:
    config = SearchConfig.parse(family.config(recipe), "c.yaml", family.folder)
    with ParentSet.open(config.space.extreme_recipes, MergeOptions(memory_budget=0)) as parents:
        merger = Merger(parents)
        found = unread_lines(config.space, merger, config.space.fitting_extremes(merger.steps)[0], Progress())
    assert all(line.startswith("c.yaml: recipe.") for line in found)
    return [line.removeprefix("c.yaml: recipe.") for line in found]


def slerp(t: str) -> str:
    return f"{{merge_method: slerp, base_model: a, models: [{{model: a}}, {{model: b}}], parameters: {{t: {t}}}}}"


@pytest.mark.parametrize(
    ("t", "found"),
    [
        (RANGE, ""),
        (
            f"[{{filter: mpl, value: {RANGE}}}, {{value: {RANGE}}}]",
            f"t[0].value: {UNREAD}its filter 'mpl' matches no tensor of the merge; did you mean 'mlp'?",
        ),
        (
            f"[{{filter: mlp, value: 0.3}}, {{value: {RANGE}}}, {{filter: norm, value: {RANGE}}}]",
            f"t[2].value: {UNREAD}earlier filters take every tensor that it fits",
        ),
        ("{low: 0.0, high: 1.0, knots: 6}", f"t[1], [4]: {FAR.format(6)}"),
        ("{value: {low: 0.0, high: 1.0, knots: 5}}", f"t.value[1], [3]: {FAR.format(5)}"),
    ],
)
def test_ranges_that_no_tensor_has_are_named_by_their_key(shared_family: Family, t: str, found: str) -> None:
    assert lines(shared_family, slerp(t)) == ([f"parameters.{found}"] if found else [])


def test_what_one_of_the_methods_reads_is_read(shared_family: Family) -> None:
    numbers = f"{{weight: {RANGE}, density: {{low: 0.1, high: 0.9}}, epsilon: 0.1}}"
    recipe = f"""
  merge_method: {{choices: [ties, linear]}}
  base_model: base
  models: [{{model: a, parameters: {numbers}}}, {{model: b, parameters: {{weight: 0.5}}}}]
  parameters: {{weight: 0.5}}
"""
    assert lines(shared_family, recipe) == [
        "models[0].parameters.epsilon: nothing reads it: ties has no parameter 'epsilon'; linear has no parameter "
        "'epsilon'"
    ]


def test_numbers_of_a_parent_that_one_base_equals_are_read_with_another(family: Family) -> None:
    shutil.copytree(family.base, family.folder / "copy")
    recipe = """
  merge_method: ties
  base_model: {choices: [base, a]}
  models: [{model: copy, parameters: {density: {low: 0.1, high: 0.9}}}, {model: b, parameters: {density: 0.5}}]
  parameters: {weight: 0.5}
"""
    assert lines(family, recipe) == []
    (line,) = lines(family, recipe.replace("{choices: [base, a]}", "base"))
    copy, base = family.folder / "copy", family.base
    assert (
        line
        == f"models[0].parameters.density: nothing reads it: {copy} equals {base} in every tensor that it applies to"
    )


def test_a_run_and_a_dry_run_say_so_first(command: Command, family: Family, tmp_path: Path) -> None:
    config = family.write(recipe=slerp(f"[{{filter: mpl, value: {RANGE}}}, {{value: 0.5}}]"))
    wanted = (
        f"{config}: recipe.parameters.t[0].value: nothing reads it: its filter 'mpl' matches no tensor of the merge"
    )
    settings = family.b / "generation_config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace("{", '{"repetition_penalty": 1.3,', 1))
    left_out = f"model {family.b}: its generation_config.json asks for repetition_penalty 1.3; scoring ignores that"
    dry = command("run", config, "--dry-run")
    assert wanted in dry.stderr
    assert left_out in dry.stderr
    assert wanted not in dry.stdout
    progress = Stops()
    with pytest.raises(Stopped):
        run_search(SearchConfig.load(config), tmp_path / "run", progress=progress)
    assert any(line.startswith(wanted) for line in progress.said)
    assert left_out in progress.said


def test_a_merge_says_so_too(command: Command, family: Family, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    models = [f"{{model: {folder}, parameters: {{weight: 0.5, density: 0.3}}}}" for folder in (family.a, family.b)]
    recipe.write_text(f"merge_method: linear\nmodels: [{', '.join(models)}]\n", encoding="utf-8")
    for options in (["--dry-run"], []):
        done = command("merge", recipe, tmp_path / "merged", *options)
        assert "models[1].parameters.density: nothing reads it: linear has no parameter 'density'" in done.stderr
        assert "weight" not in done.stderr


def test_a_number_that_is_read_where_another_choice_is_taken_is_read(family: Family) -> None:
    shutil.rmtree(family.b)
    shutil.copytree(family.base, family.b)
    weighted = f"parameters: {{weight: {RANGE}}}"
    recipe = f"""
  merge_method: task_arithmetic
  base_model: base
  models: [{{model: a, {weighted}}}, {{model: b, {weighted}}}]
  parameters: {{normalize: {{choices: [true, false]}}}}"""
    assert lines(family, recipe) == []
