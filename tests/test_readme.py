"""What the README and its pages show does what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.test_docs import copy_configs_with_few_problems

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.slow
def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    copy_configs_with_few_problems(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(example, {"__name__": "__main__"})
    assert len(capsys.readouterr().out.splitlines()) >= 6  # three parents, their average, three trials or fewer
    assert (tmp_path / "merged" / "recipe.yaml").is_file()
    assert (tmp_path / "results" / "from-python" / "search.db").is_file()


def test_the_example_config_is_valid(tmp_path: Path) -> None:
    from search import SearchConfig
    from search.space.sections import EvaluationSection

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (sets,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_and_heading_that_is_linked_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not _exists(page, link)] == []


def _exists(page: Path, link: str) -> bool:
    file, _, heading = link.partition("#")
    if file.startswith("https://"):
        return True
    target = page.parent / file if file else page
    return target.exists() and (not heading or heading in _anchors(target))


def _anchors(page: Path) -> list[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]


def test_the_readme_and_the_overview_link_every_page_beside_them() -> None:
    linked = README + (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name not in linked] == []


def test_the_documentation_names_every_method() -> None:
    from merging import METHODS

    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if not re.search(rf"\b{name}\b", page)] == []
