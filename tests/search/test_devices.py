"""A device that is not here is refused by the option or the key that asked for it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search import SearchConfig, SearchError, export_trial, run_search
from search.devices import choose_device, with_device
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.test_confirm import put_scores

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


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str, count: int = 1) -> None:
    """Let torch say that the machine has accelerators of a kind."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mps", "merges sum in float64, which Apple's GPUs lack"),
        ("xpu", "merge-search cannot tell how much of its memory is free"),
        ("mtia", "merge-search works on NVIDIA's and AMD's GPUs (cuda), and on the CPU"),
    ],
)
def test_accelerators_that_it_does_not_work_on_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    pretend(monkeypatch, kind)
    for name in (kind, f"{kind}:0"):
        with pytest.raises(SearchError) as caught:
            choose_device(name)
        assert str(caught.value) == f"--device: {name}: {reason}; give auto or one of cpu"
    assert choose_device("auto") == "cpu"


def test_amds_cards_are_taken_and_vllm_on_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", count=2)
    assert choose_device("cuda:1", backend="vllm") == "cuda:1"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    for name in ("auto", "cuda:1"):
        with pytest.raises(SearchError, match=r"built for CUDA, .* AMD's \(ROCm\); take the transformers backend"):
            choose_device(name, backend="vllm")


def test_the_option_is_instead_of_the_configs_device(family: Family) -> None:
    config = SearchConfig.load(family.write(more="merging: {device: gpu}"))
    section = with_device(config.merging, "cpu", "transformers", config.source)
    assert section.device == "cpu"
    assert replace(config, merging=section).identity == config.identity
    assert with_device(config.merging, None, "transformers", config.source) is config.merging


@pytest.mark.parametrize("words", [["run", "{config}", "--out", "{out}"], ["confirm", "{out}", "--samples", "2"]])
def test_a_search_refuses_it(family: Family, finished: Path, command: Command, words: list[str]) -> None:
    out = shutil.copytree(finished, family.folder / "run")
    put_scores(out)
    given = [word.format(config=family.write(), out=out) for word in words]
    done = command(*given, "--device", ABSENT, "--allow-code-execution")
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].startswith(f"merge-search: --device: this machine has no {ABSENT}")


@pytest.mark.slow
def test_a_search_goes_on_where_the_option_says(family: Family, finished: Path, command: Command) -> None:
    out = shutil.copytree(finished, family.folder / "run")
    config = family.write(more="merging: {device: gpu}")
    done = command("run", config, "--out", out, "--trials", "99999", "--timeout", "1s", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert re.search(r"To continue:\n  merge-search run .* --device cpu", done.output)
    put_scores(out)
    done = command("confirm", out, "--samples", "2", "--device", "cpu", "--allow-code-execution")
    assert done.exit_code == 0, done.output


def test_it_is_refused_beside_a_device_map(family: Family, command: Command) -> None:
    config = family.write(more="merging: {device_map: auto}")
    done = command("run", config, "--device", "cpu")
    assert done.exit_code == 2
    assert done.stderr == (
        f"merge-search: --device cpu: {config}: merging.device_map also says where to merge; leave out one of the two\n"
    )


@pytest.mark.parametrize("option", ["--dry-run", "--fresh"])
def test_a_device_map_is_refused_by_its_file_and_key(family: Family, command: Command, option: str) -> None:
    config = family.write(more="merging: {device_map: {'': cpu, head: cpu}}")
    done = command("run", config, "--out", family.folder / "run", option)
    assert done.exit_code == (1 if option == "--dry-run" else 2)
    assert f"{config}: merging.device_map: the model has no module 'head'" in done.stderr


def test_vllm_beside_a_device_map_is_refused(family: Family, command: Command) -> None:
    config = family.write(evaluation=", backend: vllm", more="merging: {device_map: auto}")
    with pytest.raises(SearchError, match=r"vllm runs a model on one card, and merging\.device_map spreads"):
        SearchConfig.load(config)
    done = command("evaluate", family.a, "--backend", "vllm", "--device-map", "auto", "--allow-code-execution")
    assert (done.exit_code, "--device-map: vllm runs a model on one card" in done.stderr) == (2, True)


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
