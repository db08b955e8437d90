"""The configs that come with the project, on tiny models of the same architecture."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from merging.checkpoints.checkpoint import Checkpoint
from search import Leaderboard, SearchConfig, run_search
from tests.search.conftest import Command
from tests.search.family import make_family
from tests.tiny import TinyModel, save_tiny_model

CONFIGS = Path(__file__).parents[2] / "configs"
# What config.json of deepseek-coder-6.7b says beside its sizes: linear RoPE scaling, in the words of its time.
DEEPSEEK = {"rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4.0}, "torch_dtype": "float16"}


@pytest.fixture
def trinity(tmp_path: Path) -> Path:
    """Return a folder in which the hub ids of ds-trinity-7b.yaml are folders of tiny models."""
    names = [
        "deepseek-ai/deepseek-coder-6.7b-base",
        "deepseek-ai/deepseek-coder-6.7b-instruct",
        "m-a-p/OpenCodeInterpreter-DS-6.7B",
    ]
    for seed, name in enumerate(names):
        folder = Path(save_tiny_model(tmp_path / name, TinyModel(seed=seed, layers=4, dtype="float16")))
        config = json.loads((folder / "config.json").read_text())
        kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")}
        (folder / "config.json").write_text(json.dumps(kept | DEEPSEEK))
        if seed:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            tokenizer.chat_template = "{% for m in messages %}<a>{{ m.content }}{% endfor %}<b>"
            tokenizer.save_pretrained(folder)
    return tmp_path


def test_ds_trinity_plans_the_hand_made_merge(trinity: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trinity)
    done = command("run", CONFIGS / "ds-trinity-7b.yaml", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "weight   0 to 1    4             models[1].parameters.weight" in done.stdout
    # Four layers: t = 0, 1/3, 2/3, 1. Outside the layers t = 0.
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    numbers = {row[0]: [cell.strip() for cell in row if cell][1:] for row in rows}
    assert numbers["embed_tokens"] == numbers["norm, lm_head"] == ["1.00 0.00", "1.00 0.50"]
    assert numbers["layers 0-1"] == ["1.00 0.00→0.30", "1.00→0.80 0.50"]
    assert numbers["layers 2-3"] == ["1.00 0.70→1.00", "0.50→0.10 0.50"]


@pytest.mark.slow
def test_ds_trinity_runs_with_the_hand_made_merge_as_a_trial(
    trinity: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trinity)
    family = make_family(tmp_path / "family")
    text = (CONFIGS / "ds-trinity-7b.yaml").read_text(encoding="utf-8")
    rows = family.problems.read_text(encoding="utf-8").splitlines(keepends=True)
    family.problems.write_text("".join(rows[:8]), encoding="utf-8")
    text = text.replace("problems: humaneval", f"problems: {family.problems}\n  allow_code_execution: true")
    text = text.replace("max_new_tokens: 512", "max_new_tokens: 4")
    config = SearchConfig.parse(text, source="ds-trinity-7b.yaml", folder=trinity)
    board = run_search(config, tmp_path / "run", trials=1)
    first = next(row for row in board.rows if row.name == "trial 0")
    models = first.record.recipe["models"]
    assert models[0]["parameters"] == {"density": [1, 0.7, 0.1], "weight": 1.0}
    assert models[1]["parameters"] == {"density": 0.5, "weight": [0, 0.3, 0.7, 1]}
    assert [row.record.search.state for row in board.rows] == ["complete"] * 5
    assert Leaderboard.open(tmp_path / "run") == replace(board, ended="")


def test_smollm2_is_a_search_over_the_hub_model_and_two_local_ones() -> None:
    config = SearchConfig.load(CONFIGS / "smollm2.yaml")
    *parents, base = [Path(name).parts[-2:] for name in config.space.example().parents()]
    assert base == ("HuggingFaceTB", "SmolLM2-135M-Instruct")
    assert parents == [("smollm2", "text"), ("smollm2", "numeric")]
    assert [entry.source for entry in config.evaluation.problems] == ["humaneval"]
    assert config.search.trials >= 8


def test_smollm2_adapters_is_a_search_over_three_adapters_of_the_base_that_the_script_makes() -> None:
    config = SearchConfig.load(CONFIGS / "smollm2_adapters.yaml")
    *parents, base = config.space.example().parents()
    assert Path(base).parts[-3:] == ("models", "smollm2", "base")
    assert parents == [f"{base}+{CONFIGS / 'smollm2-adapters' / name}" for name in ("first", "second", "third")]
    (problems,) = [Path(entry.source) for entry in config.evaluation.problems]
    rows = map(json.loads, problems.read_text(encoding="utf-8").splitlines())
    assert Counter(row["task_id"].split("/")[0] for row in rows) == {"first": 100, "second": 100, "third": 100}


@pytest.mark.slow
def test_each_of_the_smollm2_adapters_changes_every_projection_of_the_base(smollm2_folder: Path) -> None:
    text = (CONFIGS / "smollm2_adapters.yaml").read_text(encoding="utf-8")
    text = text.replace("models/smollm2/base", str(smollm2_folder / "base"))
    config = SearchConfig.parse(text, source="smollm2_adapters.yaml", folder=CONFIGS)
    *parents, base = [Checkpoint.open(parent) for parent in config.space.example().parents()]
    projections = [name for name in base.tensors if name.endswith("_proj.weight")]
    assert len(projections) == 30 * 7
    for parent in parents:
        assert sorted(parent.adapted()) == sorted(projections)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_can_be_read_and_says_how_to_run_it(file: Path) -> None:
    assert SearchConfig.load(file).space.ranges
    text = file.read_text(encoding="utf-8")
    assert f"merge-search run configs/{file.name}" in text
    assert "recipe" in yaml.safe_load(text)
