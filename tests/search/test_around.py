"""A recipe without ranges becomes a search around its numbers, which the recipe itself begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging import MergingError
from search import Leaderboard, SearchConfig, SearchError
from search.space.around import config_around
from tests.search.conftest import Command, fingerprint
from tests.search.family import Family


def written(folder: Path, data: object) -> Path:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def made(folder: Path, data: object, fraction: float = 0.2) -> dict[str, Any]:
    """Return the config that is made of what a file holds."""
    found = yaml.safe_load(config_around(written(folder, data), fraction))
    assert isinstance(found, dict)
    return found


def recipe(method: str = "ties", base: str | None = "base", shared: Any = None, **parameters: Any) -> dict[str, Any]:
    """Return a recipe of two models, with these parameters for the first."""
    models = [{"model": "a", "parameters": parameters}, {"model": "b", "parameters": {"weight": 1.0}}]
    found = {"merge_method": method, "models": models, "parameters": shared or {}}
    return found | ({"base_model": base} if base else {})


def around(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        (1.0, around(0.8, 1.2)),
        (-0.5, around(-0.6, -0.4)),
        (0, around(0.0, 0.2)),
        ("1e-3", around(0.0008, 0.0012)),
        ([0, 0.5, -2], [around(0.0, 0.4), around(0.4, 0.6), around(-2.4, -1.6)]),
        ([0, 0], [around(0.0, 0.2), around(0.0, 0.2)]),
        ([{"filter": "mlp", "value": 0.5}, {"value": [1, 2]}],
         [{"filter": "mlp", "value": around(0.4, 0.6)}, {"value": [around(0.8, 1.2), around(1.6, 2.4)]}]),
    ],
)  # fmt: skip
def test_a_range_reaches_a_part_of_its_number_to_either_side(tmp_path: Path, value: Any, ranges: Any) -> None:
    config = made(tmp_path, recipe(weight=value))
    first, second = (model["parameters"]["weight"] for model in config["recipe"]["models"])
    assert (first, second) == (ranges, around(0.8, 1.2))
    assert config["search"]["enqueue"] == [recipe(weight=value)]


@pytest.mark.parametrize(
    ("given_recipe", "place", "expected"),
    [
        (recipe(density=0.9, weight=1), "density", around(0.72, 1.0)),
        (recipe(density=1, weight=1), "density", around(0.8, 1.0)),
        # della takes density ± epsilon within (0, 1) only, or density 1.
        (recipe("della", density=0.85, epsilon=0.1, weight=1), "density", around(0.68, 0.8925)),
        (recipe("della", density=0.85, epsilon=0.1, weight=1), "epsilon", around(0.08, 0.12)),
        (recipe("della", density=0.8, epsilon=0.1, weight=1), "density", around(0.64, 0.88)),
    ],
)
def test_a_range_ends_where_the_method_takes_no_more(
    tmp_path: Path, given_recipe: dict[str, Any], place: str, expected: dict[str, float]
) -> None:
    config = made(tmp_path, given_recipe)
    assert config["recipe"]["models"][0]["parameters"][place] == expected


def test_what_is_no_number_of_the_method_stays_as_it_is(tmp_path: Path) -> None:
    shared = {"normalize": True, "int8_mask": False, "lambda": 2.0, "epsilon": 0.1}
    config = made(tmp_path, recipe(weight=1.0, shared=shared) | {"dtype": "bfloat16"})
    assert config["recipe"]["parameters"] == shared | {"lambda": around(1.6, 2.4)}
    assert config["recipe"]["dtype"] == "bfloat16"


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    plain = {"merge_method": "karcher", "models": [{"model": "a"}, {"model": "b"}]}
    ranges = [
        made(tmp_path, plain | {"parameters": {"max_iter": number, "tol": 1.0}})["recipe"]["parameters"]["max_iter"]
        for number in (10, 12, 2)
    ]
    assert ranges == [around(8, 12), around(10, 14), 2]  # no other whole number is within 20% of 2
    assert all(isinstance(end, int) for found in ranges[:2] for end in found.values())


numbers = st.one_of(st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))


@given(numbers, numbers, st.floats(0.01, 0.99), st.sampled_from(["ties", "dare_ties", "breadcrumbs", "della"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_recipe_lies_in_the_space_and_every_end_is_legal(
    tmp_path: Path, density: Any, weight: Any, fraction: float, method: str
) -> None:
    plain = recipe(method, density=density, weight=weight, gamma=0.0, epsilon=0.0)
    try:
        text = config_around(written(tmp_path, plain), fraction)
    except MergingError:
        return  # not a valid recipe: breadcrumbs and density 0
    config = SearchConfig.parse(text, "mine.yaml", tmp_path)  # reads the space, which tries every end
    start = config.space.recipe_at(config.warm_starts[0]).to_dict()
    assert SearchConfig.parse(text, "mine.yaml", tmp_path).space.parameters_of(start) == config.warm_starts[0]
    assert start["models"][0]["parameters"] == plain["models"][0]["parameters"]


def test_the_other_sections_of_a_config_are_kept(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = yaml.safe_load(family.config())
    plain["recipe"]["models"][0]["parameters"]["density"] = 0.5
    plain["recipe"]["models"][1]["parameters"]["weight"] = 0.5
    (family.folder / "start.yaml").write_text(yaml.safe_dump(plain["recipe"]))
    plain["search"]["enqueue"] = ["start.yaml", plain["recipe"]]
    text = config_around(written(family.folder, plain), 0.1)
    monkeypatch.chdir("/")  # whatever is relative in the file is not in the config
    config = SearchConfig.parse(text, "elsewhere.yaml", Path("/"))
    config.require_files()
    assert len(config.space.ranges) == 4
    assert len(config.warm_starts) == 3
    assert config.search.trials == 3
    assert config.evaluation.max_new_tokens == 12
    assert config.evaluation.problems[0].source == str(family.problems)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (recipe(weight={"low": 0, "high": 1}), r"models\[0\].parameters.weight: is a range already; run it without "),
        ({"recipe": recipe(weight={"low": 0, "high": 1})}, r"recipe.models\[0\].parameters.weight: is a range already"),
        (recipe(weight="x"), r"models\[0\].parameters.weight: expected a number, got 'x'"),
        ({"recipe": recipe(weight="x")}, r"recipe.models\[0\].parameters.weight: expected a number, got 'x'"),
        ({"recipe": recipe(weight=1.0), "serach": {}}, "serach: unknown key; did you mean 'search'"),
        ({"merge_method": "linear", "models": [{"model": "a"}]}, r"models\[0\].parameters.weight: linear needs"),
        ({"merge_method": "passthrough", "models": [{"model": "a"}]}, "--around: the recipe has no number of passth"),
        ([], "expected a recipe"),
    ],
)
def test_what_cannot_be_searched_around_is_named(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises((SearchError, MergingError), match=rf"mine.yaml: {message}"):
        config_around(written(tmp_path, data), 0.2)


def test_a_recipe_alone_is_no_config_but_can_be_searched_around(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"mine.yaml: is a recipe; run it with --around 0.2, .* under the key recipe"):
        SearchConfig.load(written(tmp_path, recipe(weight=1.0)))


def plain_recipe(family: Family) -> Path:
    text = """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {density: 0.5, weight: [0.5, 1.0]}}
  - {model: b, parameters: {density: 0.5, weight: 0.5}}
"""
    file = family.folder / "plain.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_config_has_no_anchors_for_what_the_recipe_and_its_ranges_share(tmp_path: Path) -> None:
    shared = {"filter": "mlp", "value": 0.5}
    text = config_around(written(tmp_path, recipe(weight=[shared, shared, {"value": 1.0}])), 0.2)
    anchors = [token for token in yaml.scan(text) if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]
    assert not anchors


def test_a_dry_run_shows_the_config_and_the_recipe(family: Family, command: Command) -> None:
    shown = command("run", plain_recipe(family), "--around", 0.2, "--dry-run")
    assert shown.exit_code == 0
    assert "- {low: 0.4, high: 0.6}" in shown.stdout
    assert "The first warm start:" in shown.stdout
    assert command("run", plain_recipe(family), "--around", 1.5).exit_code == 2


def test_an_own_recipe_needs_consent(family: Family, command: Command, tmp_path: Path) -> None:
    refused = command("run", plain_recipe(family), "--around", 0.2, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "--allow-code-execution" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_recipe_is_the_first_trial_and_the_config_in_the_results_goes_on(
    family: Family, command: Command, tmp_path: Path
) -> None:
    config = yaml.safe_load(family.config())
    config["recipe"] = yaml.safe_load(plain_recipe(family).read_text())
    file, out = written(family.folder, config), tmp_path / "run"
    shown = command("run", file, "--around", 0.2, "--out", out, "--trials", 1)
    assert shown.exit_code == 0, shown.stderr
    kept = out / "config.yaml"
    assert kept.read_text(encoding="utf-8") in shown.stdout
    (first,) = (row.record for row in Leaderboard.open(out).rows if row.record.kind == "trial")
    assert first.recipe["models"][0]["parameters"] == {"density": 0.5, "weight": [0.5, 1.0]}
    before = fingerprint(out)
    assert command("run", file, "--around", 0.2, "--out", out, "--trials", 1).exit_code == 0
    assert command("run", kept, "--out", out, "--trials", 2).exit_code == 0
    trials = [row.record for row in Leaderboard.open(out).rows if row.record.kind == "trial"]
    assert {record.number for record in trials} == {0, 1}
    assert before["config.yaml"] == fingerprint(out)["config.yaml"]
    refused = command("run", file, "--around", 0.3, "--out", out)
    assert (refused.exit_code, "was made by another config" in refused.stderr) == (2, True)
