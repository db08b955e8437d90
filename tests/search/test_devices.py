"""A device that is not here is refused by the option or the key that asked for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from search import SearchConfig, SearchError, export_trial, run_search
from search.devices import choose_device
from tests.search.conftest import Command
from tests.search.family import Family

ABSENT = f"cuda:{torch.cuda.device_count()}"


def test_what_is_here_can_be_asked_for() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device(choose_device("auto")) in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "--device: 'gpu' is not a device; give auto or one of cpu"),
        ("", "--device: '' is not a device"),
        (ABSENT, f"--device: this machine has no {ABSENT}; give auto or one of cpu"),
        ("meta", "--device: this machine has no meta"),
        ("cpu:1", "--device: this machine has no cpu:1"),
    ],
)
def test_what_is_not_here_is_refused_with_what_is(name: str, message: str) -> None:
    with pytest.raises(SearchError) as caught:
        choose_device(name)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("device", [ABSENT, pytest.param("gpu", marks=pytest.mark.slow)])
def test_commands_refuse_it_in_one_line(command: Command, family: Family, tmp_path: Path, device: str) -> None:
    recipe = tmp_path / "linear.yaml"
    recipe.write_text(f"merge_method: linear\nmodels: [{{model: {family.a}, parameters: {{weight: 1}}}}]\n")
    for words in (["merge", recipe, tmp_path / "out"], ["evaluate", family.a, "--allow-code-execution"]):
        done = command(*words, "--device", device)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("merge-search: --device: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_config_is_refused_by_its_key(family: Family, finished: Path, tmp_path: Path) -> None:
    config = family.write(more="merging: {device: gpu}")
    with pytest.raises(SearchError, match=r"search\.yaml: merging\.device: 'gpu' is not a device"):
        run_search(SearchConfig.load(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shutil.copytree(finished, tmp_path / "moved")
    with (tmp_path / "moved" / "config.yaml").open("a") as file:
        file.write("merging: {device: gpu}\n")
    with pytest.raises(SearchError, match=r"moved/config\.yaml: merging\.device: 'gpu' is not a device"):
        export_trial(tmp_path / "moved", tmp_path / "out", anyway=True)
