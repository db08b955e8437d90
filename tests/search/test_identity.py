"""A search knows what its parents are: what changed in place is refused by name, what was moved is found again."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from merging import FileDigests, Merger, NonFiniteTensor, ParentSet, Recipe
from merging.checkpoints.checkpoint import _download
from merging.statistics import digests
from search import Leaderboard, SearchConfig, SearchError, export_trial, run_search
from search.contents import ParentContents, find
from search.identity import Identity
from search.progress import Progress
from search.results import ResultsFolder
from tests.search.conftest import Command, fingerprint
from tests.search.family import Family, make_family
from tests.search.jobs import forget
from tests.search.programs import executed_once
from tests.search.told import Phases

CHOICES = """
  merge_method: ties
  base_model: base
  models:
    - model: {choices: [a, b]}
      parameters: {density: {low: 0.2, high: 1.0}, weight: 1.0}
"""
CALIBRATED = """
  merge_method: regmean
  models: [{model: a}, {model: b, parameters: {weight: {low: 0.1, high: 2.0}}}]
  parameters: {calibration: texts.txt}
"""
ADAPTED = """
  merge_method: linear
  models: [{model: a+adapter, parameters: {weight: 1.0}}, {model: b, parameters: {weight: {low: 0.1, high: 2.0}}}]
"""


def identity(config: SearchConfig, out: Path) -> Identity:
    """Return what a search is of that would begin now."""
    contents = ParentContents(config, FileDigests(), out)
    contents.begin()
    contents.wait(Progress())
    return contents.identity({"sha256": config.evaluation.load_problems().digest, "search": [], "report": []})


def begin(config: SearchConfig, out: Path) -> ResultsFolder:
    """Make a results folder as `run` does, or open it again."""
    return ResultsFolder.create(out, config, identity(config, out))


def retrain(model: Path) -> None:
    """Change some weights of a model in place."""
    (file,) = model.glob("*.safetensors")
    tensors = load_file(file)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def edit(file: Path, **values: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | values), encoding="utf-8")


def make_adapter(family: Family) -> None:
    (family.folder / "adapter").mkdir()
    edit(family.folder / "adapter" / "adapter_config.json", r=2, lora_alpha=2, peft_type="LORA")
    tensors = load_file(family.a / "model.safetensors")
    save_file(tensors, family.folder / "adapter" / "adapter_model.safetensors")


# By what is done: how, the recipe of the search, and how it is said.
CHANGED: dict[str, tuple[Callable[[Family], object], str, str]] = {
    "weights": (lambda f: retrain(f.a), "", "model {a}: its weights have changed since this search began"),
    "weights of the base": (lambda f: retrain(f.base), "", "model {base}: its weights have"),
    "weights of a choice": (lambda f: retrain(f.a), CHOICES, "model {a}: its weights have"),
    "a config": (lambda f: edit(f.b / "config.json", rope_theta=5.0), "", "model {b}: its config has changed since"),
    "end tokens": (lambda f: edit(f.b / "generation_config.json", eos_token_id=7), "", "model {b}: its config has"),
    "a tokenizer": (lambda f: edit(f.a / "tokenizer_config.json", x=1), "", "model {a}: its tokenizer has changed"),
    "a template": (lambda f: (f.a / "chat_template.jinja").write_text("x"), "", "model {a}: its tokenizer has"),
    "weights and config": (
        lambda f: (retrain(f.a), edit(f.a / "config.json", rope_theta=5.0)),
        "",
        "model {a}: its weights and config have changed",
    ),
    "an adapter": (lambda f: retrain(f.folder / "adapter"), ADAPTED, "model {folder}/adapter: its weights have"),
    "an adapter's rank": (
        lambda f: edit(f.folder / "adapter" / "adapter_config.json", lora_alpha=8),
        ADAPTED,
        "model {folder}/adapter: its config has",
    ),
    "a base with an adapter": (lambda f: retrain(f.a), ADAPTED, "model {a}: its weights have"),
    "calibration texts": (
        lambda f: (f.folder / "texts.txt").write_text("others"),
        CALIBRATED,
        "file {folder}/texts.txt: has changed",
    ),
    "problems": (
        lambda f: f.problems.write_text(f.problems.read_text().replace("== 3", "== 4")),
        "",
        "file {problems}: has changed",
    ),
    "the prompts' tokenizer": (
        lambda f: edit(f.folder / "asks" / "tokenizer_config.json", x=1),
        "",
        "model {folder}/asks: its tokenizer has",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changed_in_place_is_refused_by_name(family: Family, tmp_path: Path, what: str) -> None:
    change, recipe, said = CHANGED[what]
    make_adapter(family)
    shutil.copytree(family.a, family.folder / "asks")
    (family.folder / "texts.txt").write_text("some")
    file = family.write(recipe=recipe, evaluation=", prompt: {tokenizer: asks}")
    begin(SearchConfig.load(file), tmp_path / "run")
    begin(SearchConfig.load(file), tmp_path / "run")
    before = fingerprint(tmp_path / "run")
    change(family)
    with pytest.raises(SearchError) as caught:
        begin(SearchConfig.load(file), tmp_path / "run")
    names = {"a": family.a, "b": family.b, "base": family.base, "folder": family.folder, "problems": family.problems}
    assert str(caught.value).startswith(f"{tmp_path / 'run'}: {said.format(**names)}")
    assert "--fresh" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert fingerprint(tmp_path / "run") == before


def test_weights_of_what_lends_its_tokenizer_alone_do_not_matter(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.a, family.folder / "asks")
    config = SearchConfig.load(family.write(evaluation=", prompt: {tokenizer: asks}"))
    begin(config, tmp_path / "run")
    retrain(family.folder / "asks")
    begin(config, tmp_path / "run")


def test_files_that_are_no_part_of_a_model_do_not_matter(family: Family, tmp_path: Path) -> None:
    config = SearchConfig.load(family.write())
    begin(config, tmp_path / "run")
    (family.a / "README.md").write_text("trained again")
    (family.a / "model.safetensors").rename(family.a / "other.safetensors")
    begin(config, tmp_path / "run")


def test_a_model_of_the_hub_is_known_by_its_commit(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub" / "models--someone--coder"
    for commit in ("c0ffee", "decade"):
        shutil.copytree(family.a, hub / "snapshots" / commit)
    (hub / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def config(name: str = "someone/coder") -> SearchConfig:
        return SearchConfig.parse(family.config().replace("model: a", f"model: {name}"), "s.yaml", family.folder)

    (hub / "refs" / "main").write_text("c0ffee")
    begin(config(), tmp_path / "run")
    retrain(hub / "snapshots" / "c0ffee")  # is not read
    begin(config(), tmp_path / "run")
    (hub / "refs" / "main").write_text("decade")
    _download.cache_clear()  # as another process would find it
    with pytest.raises(SearchError, match=r"someone/coder: its commit has changed .* as someone/coder@c0ffee in the c"):
        begin(config(), tmp_path / "run")
    (hub / "refs" / "c0ffee").write_text("c0ffee")
    folder = begin(config("someone/coder@c0ffee"), tmp_path / "run")
    names = find(folder.identity, {"model": "someone/coder"}, folder.path, FileDigests(), config().merging)
    assert names == {"someone/coder": "someone/coder@c0ffee"}  # an export is of what was scored


def test_an_export_asks_the_hub_for_the_commit_that_was_scored_alone(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, scored, newer = tmp_path / "hub" / "models--someone--other", "c0ffee" + "0" * 34, "decade" + "0" * 34
    shutil.copytree(family.a, hub / "snapshots" / scored)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(scored)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    text = family.config().replace("model: a", "model: someone/other")
    config = SearchConfig.parse(text, "s.yaml", family.folder)
    folder = begin(config, tmp_path / "run")
    (hub / "refs" / "main").write_text(newer)  # which is not in the cache
    _download.cache_clear()  # as another process would find it
    names = find(folder.identity, {"model": "someone/other"}, folder.path, FileDigests(), config.merging)
    assert names == {"someone/other": f"someone/other@{scored}"}


def test_a_revision_that_is_spelled_out_is_that_of_the_model(family: Family) -> None:
    spelled = "{model: {path: someone/coder, revision: v2}, lora: someone/adapter}"
    config = SearchConfig.parse(family.config().replace("model: a\n", f"model: {spelled}\n"), "s.yaml", family.folder)
    named = [name for name, _ in config.named()]
    assert named == [str(family.base), "someone/coder@v2", "someone/adapter", str(family.b)]


def test_hashing_that_takes_its_time_is_shown(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.contents._QUIET_SECONDS", 0)
    hash_file = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda *given: time.sleep(0.02) or hash_file(*given))
    contents, progress = ParentContents(SearchConfig.load(family.write()), FileDigests(), Path("run")), Phases()
    contents.begin()
    contents.wait(progress)
    assert progress.begun == ["hashing the parents 1"]
    assert progress.phases == {"files"}


# --- a search whose database is left alone --------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["the same config", "another seed", "another recipe"])
def test_a_lost_database_lets_no_config_join_what_was_scored(family: Family, tmp_path: Path, other: str) -> None:
    config = SearchConfig.load(family.write())
    out = begin(config, tmp_path / "run").path
    (out / "completions" / "trial-0.jsonl").touch()
    (out / "search.db").unlink()
    if other == "another seed":
        config = config.updated("search", seed=7)
    elif other == "another recipe":
        config = SearchConfig.load(family.write(recipe=CHOICES))
        (out / ".lock").unlink()  # as a copy lacks it
    for use in (lambda: begin(config, out), lambda: ResultsFolder.open(out), lambda: Leaderboard.open(out)):
        with pytest.raises(SearchError, match=r"run/search\.db: is missing; restore it from a copy, .*--fresh"):
            use()
    assert not (out / "search.db").exists()
    ResultsFolder.create(out, config, identity(config, out), fresh=True)
    assert (tmp_path / "run.1" / "completions" / "trial-0.jsonl").exists()


# --- what runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def project_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project (models, config, problems, results of two trials) that was moved since; not to be changed."""
    family = make_family(tmp_path_factory.mktemp("begun") / "project")
    config = SearchConfig.load(family.write(recipe=CHOICES, search=", sampler: random"))
    with executed_once():
        run_search(config, family.folder / "results" / "search", trials=2)
    return family.folder.rename(family.folder.parent / "elsewhere")


@pytest.fixture
def project(project_elsewhere: Path, tmp_path: Path) -> Path:
    """Return a copy of that project."""
    return Path(shutil.copytree(project_elsewhere, tmp_path / "moved+here@2"))


@pytest.mark.slow
def test_a_moved_project_goes_on(project: Path, command: Command) -> None:
    out = project / "results" / "search"
    progress = Phases()
    board = run_search(SearchConfig.load(project / "search.yaml"), out, trials=4, progress=progress)
    rows = [row for row in board.rows if row.record.kind == "trial"]
    assert [row.record.search.state for row in rows] == ["complete"] * 4, [row.record.search.error for row in rows]
    assert len({json.dumps(row.record.recipe["base_model"]) for row in rows}) == 1  # called as when the search began
    assert not any(progress.notes)
    assert command("export", out, "--to", project / "merged", "--anyway").exit_code == 0
    assert str(project) in (project / "merged" / "recipe.yaml").read_text()


@pytest.mark.slow
def test_a_moved_project_is_exported(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_trial(project / "results" / "search", tmp_path / "beside the results", anyway=True)
    shutil.move(project / "results" / "search", tmp_path / "far away")
    with pytest.raises(SearchError, match=r"model /.*/project/\w+: is gone.*put it back"):
        export_trial(tmp_path / "far away", tmp_path / "nothing", anyway=True)
    monkeypatch.chdir(project)
    export_trial(tmp_path / "far away", tmp_path / "beside the config", anyway=True)
    names = ("beside the results", "beside the config")
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in names}) == 1
    assert not (tmp_path / "nothing").exists()


def test_neither_run_nor_export_take_other_weights_for_those_that_were_scored(
    project: Path, tmp_path: Path, command: Command
) -> None:
    out = project / "results" / "search"
    retrain(project / "base")
    done = command("run", project / "search.yaml", "--out", out, "--trials", "3")
    assert done.exit_code == 2
    assert f"base_model was '{{}}' there and is '{project}/base' now, with other weights" in done.output.replace(
        str(ResultsFolder.open(out).identity["recipe"]["base_model"]), "{}"
    )
    done = command("export", out, "--to", tmp_path / "merged", "--anyway")
    assert done.exit_code == 2
    assert f"model {project}/base: its weights have changed since it was scored" in done.output
    assert not (tmp_path / "merged").exists()
    for model in ("a", "b", "base"):
        shutil.rmtree(project / model)
    assert command("leaderboard", out).exit_code == 0
    assert command("compare", f"{out}:a", f"{out}:b").exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("when", ["search", "report split"])
def test_a_parent_that_changes_while_the_search_runs_ends_it(project: Path, when: str) -> None:
    class Trainer(Progress):
        def begin(self, what: str, *_: Any, **__: Any) -> None:
            if what == when:
                retrain(project / "a")

    out = project / "results" / "search"
    forget(out)
    with pytest.raises(SearchError, match=rf"model {re.escape(str(project))}/a: has changed while .*--fresh"):
        run_search(SearchConfig.load(project / "search.yaml"), out, trials=1, progress=Trainer())
    board = Leaderboard.open(out)
    assert [row.record.search.state for row in board.rows if row.record.kind == "trial"] == ["complete"] * (
        when != "search"
    )
    assert not [row for row in board.rows if row.record.on("report").score is not None]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["search", "report split"])
def test_a_model_that_fails_as_a_parent_changed_is_no_failure(
    project: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply, begun = Merger.apply, False

    class Trainer(Progress):
        def begin(self, what: str, *_: Any, **__: Any) -> None:
            nonlocal begun
            begun = begun or what == when

    def torn(merger: Merger, recipe: Recipe, progress: Any = None) -> Any:
        if begun:
            retrain(project / "a")
            raise NonFiniteTensor("lm_head.weight", "ties")
        return apply(merger, recipe, progress)

    monkeypatch.setattr(Merger, "apply", torn)
    out = project / "results" / "search"
    forget(out)
    with pytest.raises(SearchError, match=rf"model {re.escape(str(project))}/a: has changed while .*--fresh"):
        run_search(SearchConfig.load(project / "search.yaml"), out, trials=1, progress=Trainer())
    assert not [record for record in ResultsFolder.open(out).read()[1] if record.on("report").state == "failed"]
    assert not [row.record.search.error for row in Leaderboard.open(out).rows if row.record.search.state == "failed"]


def test_where_all_files_are_known_nothing_is_loaded_to_refuse(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.statistics.digests._TICK_NS", 0)
    config = SearchConfig.load(family.write())
    begin(config, tmp_path / "run")
    retrain(family.a)
    identity(config, tmp_path / "run")  # which hashes what it is now
    monkeypatch.setattr(ParentSet, "open", _never)
    with pytest.raises(SearchError, match=f"model {family.a}: its weights have changed since this search began"):
        run_search(config, tmp_path / "run", trials=1)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError
