"""`merge-search evaluate A B C`: candidates for parents side by side."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation import Evaluator, LogitsError
from merging import load_model
from search.views.side_by_side import side_by_side_data
from tests.search.conftest import Command
from tests.search.family import Family


def options(family: Family) -> list[str]:
    return ["--problems", str(family.problems), "--max-new-tokens", "12", "--allow-code-execution"]


def recipe_of(family: Family, folder: Path) -> Path:
    file = folder / "average.yaml"
    file.write_text(
        f"merge_method: linear\nmodels:\n- model: {family.a}\n- model: {family.b}\nparameters: {{weight: 1}}\n"
    )
    return file


@pytest.mark.sandbox
def test_each_model_is_scored_as_if_alone_by_one_evaluator_and_freed_before_the_next(
    command: Command, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []
    evaluators: set[int] = set()
    evaluate = Evaluator.evaluate

    def loading(*arguments: Any, **named: Any) -> Any:
        alive.append(sum(each() is not None for each in loaded))
        model = load_model(*arguments, **named)
        loaded.append(weakref.ref(model))
        return model

    def evaluating(self: Evaluator, *arguments: Any, **named: Any) -> Any:
        evaluators.add(id(self))
        return evaluate(self, *arguments, **named)

    models = [str(family.a), str(family.b), str(recipe_of(family, tmp_path))]
    alone = json.loads(command("evaluate", family.b, *options(family), "--json").stdout)
    monkeypatch.setattr("search.candidates.load_model", loading)
    monkeypatch.setattr(Evaluator, "evaluate", evaluating)
    done = command("evaluate", *models, *options(family), "--json")
    assert done.exit_code == 0, done.output
    assert (alive, len(loaded), len(evaluators)) == ([0, 0], 2, 1)
    found = json.loads(done.stdout)
    assert [each["model"] for each in found["models"]] == models
    assert found["models"][1]["problems"] == alone["problems"]
    solved = {
        each["model"]: {task for task, problem in each["problems"].items() if problem["passed"]}
        for each in found["models"]
    }
    for pair in found["pairs"]:
        mine, theirs = (solved[name] for name in pair["models"])
        assert pair["either"] == pytest.approx(len(mine | theirs) / 16)
        assert (set(pair["won"]), set(pair["lost"])) == (mine - theirs, theirs - mine)


@pytest.mark.sandbox
def test_a_candidate_that_cannot_be_scored_keeps_the_others(command: Command, family: Family) -> None:
    file = family.b / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"].fill_(torch.nan)
    save_file(tensors, file, metadata={"format": "pt"})
    done = command("evaluate", family.a, family.b, family.base, *options(family))
    assert done.exit_code == 2
    assert f"{family.b}: cannot be scored: " in done.stderr
    lines = done.stdout.splitlines()
    scores = [re.search(r"(\d+\.\d%) \[.*\] ", line) for line in lines]
    assert [line.split()[0] for line, score in zip(lines, scores, strict=True) if score] in (
        ["a", "base"],
        ["base", "a"],
    )
    assert "a + base" in done.stdout or "base + a" in done.stdout
    assert "any of the 2 solves" in done.stdout
    assert side_by_side_data({}, {"b": LogitsError()}, None)["failed"] == {"b": str(LogitsError())}


def test_what_makes_no_sense_is_refused_before_anything_is_loaded(command: Command, family: Family) -> None:
    for words, error in {
        (family.a, family.a): "is given twice",
        (family.a, family.b, "--prompt-formats", "all"): "of one model",
        (family.a, family.folder / "nowhere"): "nowhere: no such folder",
    }.items():
        done = command("evaluate", *words, *options(family))
        assert (done.exit_code, error in done.stderr) == (2, True), done.stderr
