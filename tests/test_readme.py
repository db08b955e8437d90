"""What the README shows does what it says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    problems = tmp_path / "configs" / "quickstart" / "problems.jsonl"
    few = problems.read_text(encoding="utf-8").splitlines(keepends=True)[::15]  # .ci/run searches on all of them
    problems.write_text("".join(few), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(example, {"__name__": "__main__"})
    assert len(capsys.readouterr().out.splitlines()) >= 6  # three parents, their average, three trials or fewer
    assert (tmp_path / "merged" / "recipe.yaml").is_file()
    assert (tmp_path / "results" / "from-python" / "study.db").is_file()


def test_the_example_config_is_valid(tmp_path: Path) -> None:
    from search import SearchConfig
    from search.config import EvaluationSection

    text, sets = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    recipe = yaml.safe_load(text)["recipe"]
    recipe["models"][0]["parameters"]["density"] = [1.0, 0.7, 0.1]
    recipe["models"][1]["parameters"]["weight"] = [0.0, 0.3, 0.7, 1.0]
    (tmp_path / "known-good-recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = SearchConfig.parse(text, folder=tmp_path)
    assert len(config.space.distributions()) == 7
    assert len(config.warm_starts) == 1
    found = EvaluationSection.model_validate(yaml.safe_load(sets)["evaluation"]).problems
    assert [(entry.source, entry.weight) for entry in found] == [
        ("humaneval", 1.0), ("mbpp+", 0.5), ("my/problems.jsonl", 1.0),
    ]  # fmt: skip


def test_every_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_names_every_method() -> None:
    from merging import METHODS

    assert [name for name in METHODS if not re.search(rf"\b{name}\b", README)] == []
