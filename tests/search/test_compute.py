"""What models compute in is chosen where a search begins, recorded, and the same for every worker of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evaluation import Speeds
from merging import ParentSet
from search import SearchConfig, SearchError, export_trial, run_search
from search.compute import Compute
from search.memory_plan import LIVE, MemoryPlan
from search.results import ResultsFolder
from search.run.setup import Setup
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.told import Phases

SLOW, FAST = Speeds(7.0, 1.0), Speeds(0.25, 1.0)  # processors without bfloat16, and with it
Measure = Callable[[Speeds], None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return a function that makes this a processor of other speeds."""

    def become(speeds: Speeds) -> None:
        monkeypatch.setattr("search.compute.compute_speeds", lambda *_: speeds)

    return become


def recorded(folder: Path) -> Any:
    """Return what the search in a folder says."""
    return ResultsFolder.open(folder).identity["evaluation"]["compute_dtype"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("speeds", "chosen", "elsewhere"),
    [(SLOW, "float32", FAST), (FAST, "recipe", SLOW)],
)
def test_a_worker_elsewhere_takes_what_the_search_began_with_and_says_what_that_costs(
    speeds: Speeds,
    chosen: str,
    elsewhere: Speeds,
    family: Family,
    tmp_path: Path,
    processor: Measure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(speeds)
    config, phases = SearchConfig.load(family.write()), Phases()
    room: list[int] = []
    load = Setup.load
    used: list[torch.dtype] = []
    monkeypatch.setattr("search.run.trial.Merger.apply", _remembering(used))

    def remembering(self: Setup, parents: ParentSet, plan: MemoryPlan) -> None:
        room.append(next(part.bytes for part in plan.places[0].parts if part.what == LIVE))
        load(self, parents, plan)

    monkeypatch.setattr(Setup, "load", remembering)
    run_search(config, tmp_path / "run", trials=1, progress=phases)
    assert recorded(tmp_path / "run") == chosen
    assert not phases.said
    before = ResultsFolder.open(tmp_path / "run").identity
    processor(elsewhere)
    run_search(config, tmp_path / "run", trials=2, progress=phases)
    assert ResultsFolder.open(tmp_path / "run").identity == before
    there, here = ("float32", "bfloat16") if chosen == "float32" else ("bfloat16", "float32")
    times = "4.0x" if chosen == "float32" else "7.0x"
    assert phases.said == [
        f"scoring computes in {there}, as where this search began; here {here} would be {times} as fast"
    ]
    # Parents, their average, trials and finalists.
    assert set(used) == {getattr(torch, there)}
    # A live model in float32 takes twice the memory of one in bfloat16, and the plan knows which it is.
    elements = sum(tensor.numel() for tensor in load_file(family.a / "model.safetensors").values())
    assert room == [elements * (4 if chosen == "float32" else 2)] * 2
    log = (tmp_path / "run" / "worker.log").read_text()
    assert log.count(f"scoring computes in {there}") == 2
    export_trial(tmp_path / "run", tmp_path / "merged", anyway=True)
    computed = "float32" if chosen == "float32" else "the model's own dtype"
    assert f"computed in {computed}" in (tmp_path / "merged" / "README.md").read_text()


def _remembering(used: list[torch.dtype]) -> Any:
    from merging import Merger

    apply = Merger.apply

    def remembering(self: Merger, *given: Any, **named: Any) -> Any:
        model = apply(self, *given, **named)
        used.append(model.dtype)
        return model

    return remembering


def test_workers_that_begin_at_once_on_different_processors_agree(family: Family, tmp_path: Path) -> None:
    # Each has measured before either has made the folder; the second finds what the first wrote.
    config = SearchConfig.load(family.write())
    identities = [config.identity for _ in range(2)]
    for identity, chosen in zip(identities, ("float32", "recipe"), strict=True):
        identity["evaluation"]["compute_dtype"] = chosen
        folder = ResultsFolder.create(tmp_path / "run", config, identity)
        assert folder.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("here", "recorded", "cost"),
    [
        (SLOW, "recipe", "here float32 would be 7.0x as fast"),
        (FAST, "float32", "here bfloat16 would be 4.0x as fast"),
        (Speeds(7.0, 1.0, fits=False), "float32", "here memory has room only for bfloat16"),
        (Speeds(1.2, 1.0), "float32", ""),  # faster, if not by enough to begin with it
        (SLOW, "float32", ""),
        (FAST, "recipe", ""),
    ],
)
def test_a_cost_is_told_where_there_is_one(here: Speeds, recorded: Any, cost: str, processor: Measure) -> None:
    processor(here)
    there, told = Compute.choose("auto", torch.bfloat16, [(64, 32)]).instead(recorded)
    assert there.dtype == recorded
    assert told.partition("; ")[2] == cost


@pytest.mark.parametrize(("fits", "choice"), [(False, "recipe"), (True, "float32")])
def test_a_model_that_has_no_room_in_float32_keeps_its_dtype(fits: bool, choice: str, processor: Measure) -> None:
    processor(SLOW)
    found = Compute.choose("auto", torch.bfloat16, [(64, 32)], fits=lambda: fits)
    assert (found.dtype, found.itemsize) == (choice, 4 if fits else 2)


@pytest.mark.parametrize(
    ("wanted", "backend", "device", "chosen"),
    [
        ("auto", "transformers", "cpu", "float32"),
        ("auto", "vllm", "cpu", "recipe"),
        ("auto", "transformers", "cuda", "recipe"),
        ("recipe", "transformers", "cpu", "recipe"),
        ("float32", "transformers", "cuda", "float32"),
    ],
)
def test_the_choice_is_made_on_a_cpu_alone(
    wanted: Any, backend: Any, device: str, chosen: str, processor: Measure
) -> None:
    processor(SLOW)
    assert Compute.choose(wanted, torch.bfloat16, [(64, 32)], device, backend).dtype == chosen


def test_vllm_in_float32_is_refused_by_its_key(family: Family, command: Command) -> None:
    file = family.write(evaluation=", backend: vllm, compute_dtype: float32")
    with pytest.raises(
        SearchError, match=r"evaluation.*compute_dtype: float32: vllm computes in the recipe's dtype; set"
    ):
        SearchConfig.load(file)
    words = ["evaluate", family.a, "--backend", "vllm", "--compute-dtype", "float32", "--allow-code-execution"]
    assert "--compute-dtype float32: vllm computes in the weights' dtype" in command(*words).stderr


@pytest.mark.slow
def test_an_evaluation_says_what_it_computed_in(family: Family, command: Command, processor: Measure) -> None:
    recipe = family.folder / "average.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {family.a}, parameters: {{weight: 1}}}}]\ndtype: float16\n"
    )
    problem = family.folder / "one.jsonl"
    problem.write_text(family.problems.read_text().splitlines()[0])
    words = ["--problems", problem, "--max-new-tokens", "2", "--allow-code-execution"]
    processor(SLOW)
    for model, own in ((family.a, "bfloat16"), (recipe, "float16")):
        for wanted, used in (("auto", "float32"), ("recipe", own)):
            found = command("evaluate", model, *words, "--compute-dtype", wanted, "--json")
            assert json.loads(found.stdout)["compute_dtype"] == used
    assert "computed in float32" in command("evaluate", family.a, *words).stdout
    formats = command("evaluate", recipe, *words, "--prompt-formats", "all").stdout
    assert formats.splitlines()[-1] == "computed in float32"
