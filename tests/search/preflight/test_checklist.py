"""The checklist: real tiny parents with one fault each, and what a person is told of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers

from search import SearchConfig, run_search
from search.preflight.checklist import CHECKS, PROBE, Check, run_checks
from search.preflight.finding import Finding
from search.preflight.subject import Subject
from search.progress import Progress
from tests.search.family import Family
from tests.search.told import Stopped, Stops
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

LINEAR = """
  merge_method: linear
  dtype: float16
  models:
    - {model: a, parameters: {weight: {low: 0.2, high: 1.0}}}
    - {model: b, parameters: {weight: 1.0}}
"""
Fault = Callable[[Family], None]


def found(config: Path, *checks: str) -> list[Finding]:
    """Return what some checks find, by default all that need no sandbox, and what those need."""
    wanted = set(checks) or {check.what for check in CHECKS} - {"sandbox"}
    for check in reversed(CHECKS):
        wanted |= set(check.needs) if check.what in wanted else set()
    with Subject(SearchConfig.load(config), config.parent / "out", Progress()) as subject:
        return list(run_checks(subject, [check for check in CHECKS if check.what in wanted]))


def untoward(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(it.level, it.what, it.sentence) for it in findings if it.level != "ok" and it.what != "not checked"]


def another(**options: object) -> Fault:
    """Return what puts another model in the place of b."""

    def put(family: Family) -> None:
        shutil.rmtree(family.b)
        save_tiny_model(family.b, TinyModel(seed=2, **options))  # type: ignore[arg-type]

    return put


def value(number: float) -> Fault:
    def put(family: Family) -> None:
        tensors = load_file(family.b / "model.safetensors")
        tensors["lm_head.weight"][3, 3] = number
        save_file(tensors, family.b / "model.safetensors", metadata={"format": "pt"})

    return put


def edited(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def other_words(family: Family) -> None:
    """Let b's tokenizer.json replace a word, which the class that tokenizer_config.json names does not know of."""
    file = Tokenizer.from_file(str(family.b / "tokenizer.json"))
    file.normalizer = normalizers.Replace("alpha", "gamma")  # type: ignore[assignment]
    file.save(str(family.b / "tokenizer.json"))
    edited(family.b / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")


def longer_tokenizer(family: Family) -> None:
    file = Tokenizer.from_file(str(family.b / "tokenizer.json"))
    file.add_tokens(["alpha"])
    file.save(str(family.b / "tokenizer.json"))


def without_cache(family: Family) -> None:
    edited(family.base / "config.json", use_cache=False)
    (family.base / "generation_config.json").unlink()


def without_shard(family: Family) -> None:
    another(shards=True)(family)
    next(family.b.glob("*-00002-*")).unlink()


def test_where_nothing_is_amiss_every_check_says_what_it_saw(shared_family: Family) -> None:
    findings = found(shared_family.write("clean.yaml"))
    assert untoward(findings) == []
    assert [*dict.fromkeys(it.what for it in findings)] == [it.what for it in CHECKS if it.what != "sandbox"]
    details = [it.detail for it in findings]
    assert f"{shared_family.a}: llama, 3 layers, 0.04M parameters, bfloat16, 89 KB" in details
    assert "16: 8 to search on, 8 for the report" in details
    assert "262 tokens in 262 rows; texts end at </s>" in details


@pytest.mark.parametrize(
    ("fault", "level", "what", "told"),
    [
        (another(architecture="qwen2"), "problem", "architecture", "model b: is a qwen2 model, but base is a llama"),
        (another(hidden=64), "problem", "architecture", "model.embed_tokens.weight has shape [262, 64], but in base"),
        (
            another(vocabulary=TinyVocabulary(plain=("<s>", "</s>", "<b>", "<a>", "<c>", "<d>"))),
            "warning",
            "architecture",
            "model b: its tokenizer has other ids: '<b>' has id 258 here, 259 there",
        ),
        (
            another(vocabulary=TinyVocabulary(eos="<c>")),
            "note",
            "vocabulary",
            "texts end at different tokens, at </s>: base, a; at <c>: b; merges end as base does",
        ),
        (
            longer_tokenizer,
            "warning",
            "vocabulary",
            "b: its tokenizer has ids up to 262, and its embedding has 262 rows",
        ),
        (
            other_words,
            "warning",
            "prompts",
            "b: AutoTokenizer splits 2 of 16 prompts differently from its tokenizer.json",
        ),
        (value(float("nan")), "problem", "values", "b: holds NaN in lm_head.weight, and so does every merge of it"),
        (without_cache, "warning", "configs", "base: its config says use_cache: false, as training leaves it"),
        (without_shard, "problem", "parents", "model-00002-of-00003.safetensors is missing"),
        (
            lambda family: shutil.rmtree(family.b),
            "problem",
            "parents",
            "recipe.models[1].model: model b: no such folder",
        ),
        (
            lambda family: family.problems.write_text('{"task_id": 3}\n'),
            "problem",
            "problems",
            "field 'task_id' is not",
        ),
    ],
)
def test_a_fault_is_told_where_it_is(family: Family, fault: Fault, level: str, what: str, told: str) -> None:
    fault(family)
    assert [each for each in untoward(found(family.write(), what)) if each[:2] == (level, what) and told in each[2]]


@pytest.mark.parametrize(
    ("damage", "level", "told"),
    [
        ("", "ok", "holds this search with the results of 1 trial; a run continues it"),
        ("ALTER TABLE records DROP COLUMN seen", "problem", "search.db: no such column"),
        ("UPDATE records SET parameters = '{'", "problem", "search.db: holds a damaged value"),
    ],
)
def test_a_search_that_can_be_continued_is_told_from_one_whose_records_are_damaged(
    one_trial: tuple[SearchConfig, Path], damage: str, level: str, told: str
) -> None:
    config, out = one_trial
    with closing(sqlite3.connect(out / "search.db")) as database, database:
        database.execute(damage)
    with Subject(config, out, Progress()) as subject:
        (finding,) = run_checks(subject, CHECKS[:1])
    assert (finding.what, finding.level) == ("results", level)
    assert told in finding.detail


@pytest.mark.parametrize(("number", "told"), [(65_280.0, []), (1e5, ["problem"])])
def test_what_float16_cannot_hold_is_a_problem_where_merges_are_in_float16(
    family: Family, number: float, told: list[str]
) -> None:
    value(number)(family)
    findings = untoward(found(family.write(recipe=LINEAR), "values"))
    assert [each[0] for each in findings] == told
    assert all("b: lm_head.weight would overflow in float16, which ends at 65,504" in each[2] for each in findings)
    assert untoward(found(family.write(recipe=LINEAR.replace("float16", "bfloat16")), "values")) == []


def test_a_parameter_that_nothing_reads_is_told(shared_family: Family) -> None:
    density = "density: [{filter: mpl, value: {low: 0.2, high: 1.0}}, {value: 0.3}]"
    recipe = shared_family.config().partition("evaluation:")[0].partition("recipe:")[2]
    recipe = recipe.replace("density: {low: 0.2, high: 1.0, knots: 2}", density)
    (line,) = untoward(found(shared_family.write("unread.yaml", recipe=recipe), "parameters"))
    assert line[:2] == ("warning", "parameters")
    assert "nothing reads it: its filter 'mpl' matches no tensor of the merge; did you mean 'mlp'?" in line[2]


def test_every_parent_that_does_not_fit_is_told_at_once(family: Family) -> None:
    another(hidden=64)(family)
    shutil.rmtree(family.a)
    save_tiny_model(family.a, TinyModel(architecture="qwen2"))
    problems = untoward(found(family.write(), "architecture"))
    assert sorted(sentence.partition(":")[0] for _, _, sentence in problems) == ["model a", "model b"]


def test_what_needs_a_check_that_failed_is_not_checked(shared_family: Family) -> None:
    config = shared_family.write("broken.yaml", recipe=LINEAR.replace("model: b", "model: nowhere"))
    findings = found(config)
    assert [it.what for it in findings if it.level == "problem"] == ["parents"]
    (left,) = [it.detail for it in findings if it.what == "not checked"]
    assert left.startswith("architecture, merges, parameters, vocabulary, prompts, configs, values, memory, disk: ")
    assert PROBE.needs == tuple(check.what for check in CHECKS)


def test_a_check_comes_after_what_it_needs() -> None:
    def before(check: Check) -> set[str]:
        return {each.what for each in CHECKS[: CHECKS.index(check)]}

    assert [check.what for check in CHECKS if not set(check.needs) <= before(check)] == []


def test_the_problems_must_fit_into_the_models_context(shared_family: Family) -> None:
    text = shared_family.config(evaluation=", report_fraction: 0.1").replace(
        "max_new_tokens: 12", "max_new_tokens: 2040"
    )
    config = shared_family.folder / "long.yaml"
    config.write_text(text)
    warnings = [sentence for level, _, sentence in untoward(found(config, "prompts", "evidence")) if level == "warning"]
    assert len(warnings) == 2
    assert (
        "has 39 tokens, which leaves 2,009 of 2,040 for its completion: models have a context of 2,048" in warnings[0]
    )
    assert "too few to prove that any merge is better; score on more problems" in warnings[1]


def test_a_run_says_at_its_start_what_a_check_warns_of(family: Family, tmp_path: Path) -> None:
    without_cache(family)
    config, progress = family.write(), Stops()
    ((_, _, warning),) = untoward(found(config, "configs"))
    with pytest.raises(Stopped):
        run_search(SearchConfig.load(config), tmp_path / "run", progress=progress)
    assert progress.said == [warning.replace("base: ", f"{family.base}: ", 1)]
