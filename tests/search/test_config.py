"""A config is read whole or refused with one message that names the file, the key and the remedy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evaluation.scoring import MOST_SAMPLES
from merging import MergingError
from search import SearchConfig, SearchError
from search.space.sections import parse_duration
from tests.search.family import Family


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28800), ("1h30m", 5400), ("90m", 5400), ("45s", 45), ("45", 45), (45, 45), ("0.5h", 1800), (1.5, 1.5)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8 hours", "h", "-1h", "0", "30m8h", None])
def test_what_is_no_duration_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="8h, 1h30m"):
        parse_duration(text)


def test_a_config_has_defaults_for_everything_but_the_recipe(family: Family) -> None:
    config = SearchConfig.parse(
        "recipe: {merge_method: linear, models: [{model: a, parameters: {weight: {low: 0, high: 1}}}, "
        "{model: b, parameters: {weight: 1}}]}",
        folder=family.folder,
    )
    assert config.search.sampler == "auto"
    assert [entry.source for entry in config.evaluation.problems] == ["humaneval"]
    assert not config.evaluation.allow_code_execution


def test_paths_are_those_beside_the_config(family: Family, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = SearchConfig.load(family.write(evaluation=", prompt: {tokenizer: a}"))
    assert config.space.example().parents() == (str(family.a), str(family.b), str(family.base))
    assert [entry.source for entry in config.evaluation.problems] == [str(family.problems)]
    assert config.evaluation.prompt.tokenizer == str(family.a)


def test_an_adapter_is_looked_for_beside_the_config_as_its_base_is(family: Family) -> None:
    (family.folder / "adapter").mkdir()
    for written in ("a+adapter", "{model: a, lora: adapter}", "{model: {path: a}, lora: {path: adapter}}"):
        config = SearchConfig.parse(family.config().replace("model: a\n", f"model: {written}\n"), folder=family.folder)
        assert config.space.example().parents()[0] == f"{family.a}+{family.folder / 'adapter'}"
    text = family.config().replace("model: a\n", "model: someone/model+adapter\n")
    parents = SearchConfig.parse(text, folder=family.folder).space.example().parents()
    assert parents[0] == f"someone/model+{family.folder / 'adapter'}"


def test_signs_in_the_name_of_a_folder_are_no_adapter_nor_revision(family: Family) -> None:
    for name in ("a+v2", "a+v2@3", "more+adapter"):
        (family.folder / name).mkdir()
    for written, found in (("a+v2", "a+v2"), ("a+v2@3", "a+v2@3"), ("a+v2+more+adapter", "a+v2+{}more+adapter")):
        text = family.config().replace("model: a\n", f"model: {written}\n")
        parents = SearchConfig.parse(text, folder=family.folder).space.example().parents()
        assert parents[0] == f"{family.folder}/{found.format(f'{family.folder}/')}"


def test_a_hub_id_stays_as_it_is(family: Family) -> None:
    text = family.config().replace("base_model: base", "base_model: someone/some-model@main")
    assert SearchConfig.parse(text, folder=family.folder).space.example().base_model == "someone/some-model@main"


@pytest.mark.parametrize("name", ["größe/model", "two words/model", "models/it's", "nothing-here/"])
def test_what_cannot_be_a_hub_id_is_missed_by_its_key(family: Family, name: str) -> None:
    text = family.config().replace("base_model: base", f"base_model: {name}")
    with pytest.raises(SearchError, match=r"recipe\.base_model: model .*: no such folder, here or beside the config"):
        SearchConfig.parse(text, folder=family.folder).require_files()


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("recipe.models[0].model", "model: a\n", "model: models/missing\n"),
        ("recipe.models[0].model", "model: a\n", "model: a+models/missing\n"),
        ("recipe.models[0].model.lora", "model: a\n", "model: {model: a, lora: models/missing}\n"),
        ("recipe.base_model", "base_model: base", "base_model: models/missing"),
        ("recipe.tokenizer_source", "  models:\n", "  tokenizer_source: models/missing\n  models:\n"),
        ("recipe.tokenizer.source", "  models:\n", "  tokenizer: {source: models/missing}\n  models:\n"),
        ("evaluation.prompt.tokenizer", "workers: 1", "workers: 1, prompt: {tokenizer: models/missing}"),
        ("recipe.models[0].parameters.calibration", "weight: 1.0}", "weight: 1.0, calibration: models/missing}"),
    ],
)
def test_a_path_that_looks_like_a_hub_id_is_missed_by_its_key(
    family: Family, key: str, before: str, after: str
) -> None:
    config = family.config()
    if "calibration" in after:
        config = config.replace("base_model: base", "parameters: {calibration: problems.jsonl}")
        config = (
            config.replace("ties", "fisher")
            .replace("density: {low: 0.2, high: 1.0, knots: 2}, ", "")
            .replace("density: 0.5, ", "")
        )
    text = config.replace(before, after)
    assert text != config
    with pytest.raises((SearchError, MergingError)) as caught:
        SearchConfig.parse(text, "search.yaml", family.folder).require_files()
    assert str(caught.value).startswith(f"search.yaml: {key}: ")
    assert re.search(r"models/missing: no such f.*; .*give a ", str(caught.value))


def test_a_format_alone_is_short_for_a_prompt(family: Family) -> None:
    short, long = (
        SearchConfig.parse(family.config(evaluation=f", prompt: {prompt}"), folder=family.folder)
        for prompt in ("chat", "{format: chat}")
    )
    assert short.evaluation == long.evaluation
    with pytest.raises(SearchError, match=r"evaluation\.prompt.*'chatt'"):
        SearchConfig.parse(family.config(evaluation=", prompt: chatt"), folder=family.folder)


@pytest.mark.parametrize("word", ["base", "union"])
def test_a_folder_called_like_a_word_of_the_recipe_does_not_take_its_place(family: Family, word: str) -> None:
    (family.folder / word).mkdir(exist_ok=True)
    text = family.config().replace("base_model: base", f"base_model: base\n  tokenizer_source: {word}")
    assert SearchConfig.parse(text, folder=family.folder).space.example().tokenizer_source == word


def test_a_file_called_humaneval_does_not_take_its_place(family: Family) -> None:
    (family.folder / "humaneval").touch()
    text = family.config().replace("problems.jsonl", "humaneval")
    assert SearchConfig.parse(text, folder=family.folder).evaluation.problems[0].source == "humaneval"


def test_an_anchor_used_twice_is_two_ranges(family: Family) -> None:
    text = family.config(
        recipe="""
  merge_method: linear
  models:
    - {model: a, parameters: &both {weight: {low: 0, high: 1}}}
    - {model: b, parameters: *both}
"""
    )
    space = SearchConfig.parse(text, folder=family.folder).space
    recipe = space.recipe_at({"models[0].parameters.weight": 0.25, "models[1].parameters.weight": 0.75})
    assert [model.parameters["weight"] for model in recipe.models or ()] == [0.25, 0.75]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("search: {trials", "serach: {trials", "serach: unknown key; did you mean 'search'"),
        ("max_new_tokens", "max_tokens", "evaluation.max_tokens: unknown key; did you mean 'max_new_tokens'"),
        ("trials: 3", "trials: many", "search.trials: expected a whole number, got 'many'"),
        ("trials: 3", "trials: 0", "search.trials: expected a number above 0, got 0"),
        (
            "trials: 3",
            "trials: 3, sampler: tpee",
            "search.sampler: unknown sampler 'tpee'; did you mean 'tpe'. .known: auto, tpe",
        ),
        ("trials: 3", "trials: 3, timeout: soon", "search.timeout: 'soon' is not a duration"),
        ("trials: 3", "trials: 3, trials: 4", "the key 'trials' is given twice"),
        (
            "problems.jsonl",
            "problems.jsonl, report_fraction: 1.0",
            "evaluation.report_fraction: expected a number below 1.0",
        ),
        ("problems.jsonl", "problems.jsonl, prompt: {format: chatty}", "evaluation.prompt.format: .*'chatty'"),
        ("problems.jsonl", "problems.jsonl, prompt: {formt: chat}", "evaluation.prompt.formt: unknown key"),
        ("problems.jsonl", "[]", "evaluation.problems: "),
        ("problems.jsonl", "[humaneval, {weight: 1}]", r"evaluation.problems\[1\].source: is missing"),
        (
            "problems.jsonl",
            "[humaneval, {source: a, weight: 0}]",
            r"evaluation.problems\[1\].weight: expected .* above 0",
        ),
        (
            "problems.jsonl",
            "problems.jsonl, samples: 4",
            "evaluation: .*samples 4: all samples are the same at temperature 0",
        ),
        ("problems.jsonl", "problems.jsonl, temperature: 1, top_p: 1.5", "evaluation.top_p: expected .* 1"),
        ("recipe:", "recipe: [1]\nignored:", "ignored: unknown key"),
        ("recipe:", "recipes:", "recipes: unknown key|recipe: is missing"),
        ("trials: 3", "trials: 3, stop: {prven: true}", "search.stop.prven: unknown key; did you mean 'proven'"),
        ("trials: 3", "trials: 3, stop: {patience: 0}", "search.stop.patience.trials: expected a number above 0"),
        ("trials: 3", "trials: 3, stop: {target: 85}", "search.stop.target: expected .* 1"),
        ("search: {", "search: {{", r":\d+: is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(family: Family, before: str, after: str, message: str) -> None:
    text = family.config()
    assert before in text
    with pytest.raises(SearchError, match=f"mine.yaml.*({message})"):
        SearchConfig.parse(text.replace(before, after, 1), source="mine.yaml", folder=family.folder)


@pytest.mark.parametrize(("value", "shown"), [("[1]", r"\[1\]"), ("3", "3")])
def test_a_recipe_that_is_no_mapping_is_refused(value: str, shown: str) -> None:
    with pytest.raises(SearchError, match=f"mine.yaml: recipe: expected a mapping, got {shown}"):
        SearchConfig.parse(f"recipe: {value}", source="mine.yaml")


@pytest.mark.parametrize("text", ["", "[]", "just words"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SearchError, match=r"mine\.yaml: expected a mapping with the keys recipe, evaluation, search"):
        SearchConfig.parse(text, source="mine.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"nothing\.yaml: cannot be read: No such file"):
        SearchConfig.load(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SearchError, match=r"binary\.yaml: is not UTF-8 text"):
        SearchConfig.load(tmp_path / "binary.yaml")


def test_a_warm_start_is_a_recipe_or_a_file_of_one(family: Family) -> None:
    recipe = SearchConfig.load(family.write()).space.recipe_at(
        {
            "models[0].parameters.density[0]": 0.5,
            "models[0].parameters.density[1]": 0.25,
            "models[1].parameters.weight": 1.0,
        }
    )
    (family.folder / "start.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    config = SearchConfig.load(family.write(search=", enqueue: [start.yaml]"))
    assert [config.space.recipe_at(params) for params in config.warm_starts] == [recipe]


def test_there_are_no_more_samples_than_the_test_of_a_proof_takes(family: Family) -> None:
    def load(samples: int) -> SearchConfig:
        return SearchConfig.load(family.write(evaluation=f", temperature: 0.2, samples: {samples}"))

    assert load(MOST_SAMPLES).evaluation.samples == MOST_SAMPLES
    with pytest.raises(SearchError, match=r"evaluation.samples: expected a number of 1000 or less, got 1001"):
        load(MOST_SAMPLES + 1)


def test_a_warm_start_that_is_not_there_is_named(family: Family) -> None:
    with pytest.raises(SearchError, match=r"search.enqueue\[0\]: no recipe file or results folder start.yaml"):
        SearchConfig.load(family.write(search=", enqueue: [start.yaml]"))


def test_a_warm_start_file_that_holds_no_recipe_is_named(family: Family) -> None:
    config = family.write(search=", enqueue: [start.yaml]")
    for text, message in (("[1]", r" expected a recipe .*, got \[1\]"), ("a: {", r"\d: is not valid YAML")):
        (family.folder / "start.yaml").write_text(text)
        with pytest.raises(SearchError, match=f"start.yaml:{message}"):
            SearchConfig.load(config)


def test_models_of_a_tokenizer_are_looked_up_beside_the_config(shared_family: Family) -> None:
    tokens = "tokens: {x: {source: base}, y: {source: {kind: model_token, model: a, token_id: 1}}}"
    recipe = f"""
  merge_method: task_arithmetic
  base_model: base
  models: [{{model: a, parameters: {{weight: {{low: 0, high: 1}}}}}}]
  tokenizer: {{source: base, {tokens}}}
"""
    text = shared_family.config(recipe=recipe)
    section = SearchConfig.parse(text, folder=shared_family.folder).space.example().tokenizer
    assert section is not None
    assert section.source == "base"
    found = [each.model_dump()["source"] for each in (section.tokens or {}).values()]
    assert found[0] == str(shared_family.base)
    assert found[1]["model"] == str(shared_family.a)


def test_where_to_merge_is_a_device_or_a_device_map(family: Family) -> None:
    text = family.config()
    given = SearchConfig.parse(
        f"{text}\nmerging: {{device_map: {{model: 0, lm_head: 'cuda:1'}}}}", folder=family.folder
    )
    assert given.merging.device_map == {"model": 0, "lm_head": "cuda:1"}
    with pytest.raises(SearchError, match=r"merging: .*device and device_map both say where to merge"):
        SearchConfig.parse(f"{text}\nmerging: {{device_map: auto, device: cpu}}", folder=family.folder)
    with pytest.raises(SearchError, match=r"merging\.device_map: 'balanced' is not a device map; give auto, or"):
        SearchConfig.parse(f"{text}\nmerging: {{device_map: balanced}}", folder=family.folder)


def test_several_sets_have_weights_and_settings_of_their_own(family: Family) -> None:
    other = family.folder / "other.jsonl"
    rows = family.problems.read_text().splitlines()
    other.write_text(rows[0] + "\n" + rows[1] + "\n")
    left_out = json.loads(rows[1])["task_id"]
    entry = f"{{source: other.jsonl, weight: 3, prompt: chat, timeout: 9s, without: [{left_out}]}}"
    text = family.config().replace("problems.jsonl", f"[problems.jsonl, {entry}]", 1)
    config = SearchConfig.parse(text, folder=family.folder)
    config.require_files()
    problems = config.evaluation.load_problems()
    assert [(part.name, part.weight, len(part.task_ids)) for part in problems.parts] == [
        ("problems.jsonl", 1.0, len(rows)), ("other.jsonl", 3.0, 1),
    ]  # fmt: skip
    assert [(each.prompt_format, each.timeout_seconds) for each in problems][-2:] == [(None, 3.0), ("chat", 9.0)]


def test_a_search_ends_when_its_winner_is_proven_unless_told_otherwise(family: Family) -> None:
    assert SearchConfig.parse(family.config(), folder=family.folder).search.stop.proven
    text = family.config(search=", stop: {proven: false, patience: 30, target: 0.85}")
    stop = SearchConfig.parse(text, folder=family.folder).search.stop
    assert (stop.proven, stop.target) == (False, 0.85)
    assert stop.patience is not None
    assert (stop.patience.trials, stop.patience.improvement) == (30, 0)


def test_a_proof_needs_a_report_split(family: Family) -> None:
    none = ", report_fraction: 0"
    SearchConfig.parse(family.config(evaluation=none), folder=family.folder)
    with pytest.raises(
        SearchError, match=r"search\.stop\.proven needs a report split; set evaluation\.report_fraction"
    ):
        SearchConfig.parse(family.config(evaluation=none, search=", stop: {proven: true}"), folder=family.folder)


def test_mbpp_plus_would_add_to_humaneval(family: Family) -> None:
    def more(problems: str) -> int:
        text = family.config().replace("problems.jsonl", problems, 1)
        return SearchConfig.parse(text, folder=family.folder).evaluation.more_with_mbpp

    assert [more(each) for each in ("humaneval", "[humaneval+]", "mbpp", "problems.jsonl")] == [189, 189, 0, 0]


def test_separate_objectives_need_several_sets_and_a_sampler_for_them(family: Family) -> None:
    text = family.config(search=", objectives: separate")
    with pytest.raises(SearchError, match=r"search\.objectives: separate needs several sets in evaluation\.problems"):
        SearchConfig.parse(text, folder=family.folder)
    several = text.replace("problems.jsonl", "[problems.jsonl, humaneval]", 1)
    assert SearchConfig.parse(several, folder=family.folder).objectives == 2
    with pytest.raises(SearchError, match=r"cmaes takes a single objective; set another sampler"):
        SearchConfig.parse(several.replace("separate", "separate, sampler: cmaes", 1), folder=family.folder)
    with pytest.raises(SearchError, match=r"separate: only trials and timeout end it; leave out stop\.patience"):
        SearchConfig.parse(several.replace("separate", "separate, stop: {target: 0.5}", 1), folder=family.folder)


def test_a_set_that_is_nowhere_is_named(family: Family) -> None:
    text = family.config().replace("problems.jsonl", "[humaneval, nowhere.jsonl]", 1)
    config = SearchConfig.parse(text, source="mine.yaml", folder=family.folder)
    with pytest.raises(SearchError, match=r"mine\.yaml: evaluation\.problems: nowhere\.jsonl: no such file"):
        config.require_files()


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        (
            "[{source: problems.jsonl, without: [one/alpa]}]",
            r"evaluation\.problems\[0\]: without: problems\.jsonl: has no problem 'one/alpa'; did you mean 'one/al",
        ),
        (
            "[humaneval, {source: problems.jsonl, without: ['7']}]",
            r"evaluation\.problems\[1\]: without: problems\.jsonl: has no problem '7'; its ids look like 'one/alpha'",
        ),
        (
            "[problems.jsonl, problems.jsonl]",
            r"evaluation\.problems: two sets are called problems\.jsonl; give each set once, under",
        ),
        (
            "twice.jsonl",
            r"evaluation\.problems\[0\]: .*twice\.jsonl:2: task_id 'one/alpha' is already in .*:1; ids",
        ),
        (
            "unchecked.jsonl",
            r"evaluation\.problems\[0\]: .*unchecked\.jsonl:1: field 'test' does not define",
        ),
    ],
)
def test_problems_that_cannot_be_used_are_named_by_file_and_key(family: Family, problems: str, message: str) -> None:
    first = family.problems.read_text().splitlines()[0]
    (family.folder / "twice.jsonl").write_text(f"{first}\n{first}\n")
    (family.folder / "unchecked.jsonl").write_text(json.dumps(json.loads(first) | {"test": "assert True"}))
    text = family.config().replace("problems: problems.jsonl", f"problems: {problems}", 1)
    config = SearchConfig.parse(text, "mine.yaml", family.folder)
    with pytest.raises(SearchError, match=f"^mine.yaml: {message}"):
        config.evaluation.load_problems(config.source)
