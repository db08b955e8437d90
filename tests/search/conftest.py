"""What the tests of the search share: a family of tiny models, and one finished search over it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers import PreTrainedModel

from merging import compute_in_float32, load_model
from search import SearchConfig, run_search
from search.cli import main
from search.results import ResultsFolder
from tests.search.family import Family, make_family
from tests.search.programs import executed_once

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def programs_of_the_session() -> Iterator[None]:
    """Execute no program that an earlier search of the session has executed."""
    with executed_once():
        yield


@pytest.fixture(scope="session")
def shared_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def family(shared_family: Family, tmp_path: Path) -> Family:
    """Return a family of the test's own, which it may break."""
    folder = tmp_path / "family"
    shutil.copytree(shared_family.folder, folder)
    return Family(folder, folder / "base", folder / "a", folder / "b", folder / "problems.jsonl")


@pytest.fixture(scope="session")
def finished(shared_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results folder of a search of three trials that is over; not to be changed."""
    out = tmp_path_factory.mktemp("results") / "finished"
    config = shared_family.write("finished.yaml")
    with executed_once():
        run_search(SearchConfig.load(config), out)
    return out


@pytest.fixture(scope="session")
def stopped_folder(shared_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results folder of the same search after its first trial; not to be changed."""
    out = tmp_path_factory.mktemp("results") / "stopped"
    with executed_once():
        run_search(SearchConfig.load(shared_family.write("finished.yaml")), out, trials=1)
    return out


@pytest.fixture
def one_trial(stopped_folder: Path, shared_family: Family, tmp_path: Path) -> tuple[SearchConfig, Path]:
    """Return the config of a search, and a results folder of the test's own in which it has had one trial."""
    out = Path(shutil.copytree(stopped_folder, tmp_path / "run"))
    return SearchConfig.load(shared_family.write("finished.yaml")), out


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `merge-search` with some arguments, and that names no slow phase."""
    monkeypatch.setattr("search.views.bar._QUIET_SECONDS", 600.0)

    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


def load_as_scored(model: str | Path, results: Path) -> PreTrainedModel:
    """Return a model that computes in what the models of a search were scored in."""
    loaded = load_model(str(model))
    if ResultsFolder.open(results).compute_dtype == "float32":
        compute_in_float32(loaded)
    return loaded


def fingerprint(folder: Path) -> dict[str, str]:
    """Return what is in a folder, by path."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
