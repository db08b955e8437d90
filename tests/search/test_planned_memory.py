"""The plan of a search is made of headers, and is the plan that the search keeps to."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evaluation import Evaluator, ProblemSet
from evaluation.generation.engine import generator
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.room import Room
from merging import MergeOptions, Merger, ParentSet, Recipe, compute_in_float32, load_model, load_tokenizer
from merging.calibration import CALIBRATION_TOKENS, diagonal_fisher
from merging.residency.budget import Budget
from search import SearchConfig, SearchError, run_search
from search.memory_demand import MachineMemory, Memory
from search.planned_memory import Generation, Limits, Planner, beside_engine, budgets_of, demand_of
from search.results import ResultsFolder
from search.run.setup import Setup
from tests.parametrization import every
from tests.search.conftest import Command
from tests.search.family import Family
from tests.search.told import Phases
from tests.tiny import TinyModel, TinyVocabulary, save_tiny_model

SCARCE = MachineMemory(Memory("host", 10**9, 200_090_000))


def test_the_sizes_of_a_search_are_those_of_its_files(family: Family) -> None:
    config = SearchConfig.load(family.write())
    elements = [
        sum(tensor.numel() for tensor in load_file(Path(folder) / "model.safetensors").values())
        for folder in dict.fromkeys(name for recipe in config.space.extreme_recipes for name in recipe.parents())
    ]
    with ParentSet.open(config.space.extreme_recipes, MergeOptions(memory_budget=0)) as parents:
        merger, name = Merger(parents), next(iter(parents.checkpoints))
        demand = demand_of(merger, config.space.extreme_recipes, Generation("transformers", 100, 7))
        (share,) = demand.shares
        itemsize = parents.stored_tensors()[0][1].dtype.itemsize
        assert share.parents == sum(elements) * itemsize
        assert share.live == elements[0] * itemsize
        wide = demand_of(merger, config.space.extreme_recipes, Generation("vllm", 100, 7), itemsize=4).shares[0]
        largest = max(tensor.numel() for tensor in load_file(Path(name) / "model.safetensors").values())
        assert (wide.live, wide.engine) == (beside_engine(4 * largest, on_gpu=False), 4 * elements[0])
        assert (demand.first_rows, demand.length) == (7, 100)
        # A dry run opens the parents on the CPU, whatever device the search is for.
        (share,) = demand_of(merger, config.space.extreme_recipes, Generation("vllm", 100, 7), devices=1).shares
        assert share.live == beside_engine(itemsize * largest, on_gpu=True)


# Parents that count their tokens in other orders; two have rows that no token uses.
VOCABULARIES = (
    TinyVocabulary(plain=("<s>", "</s>", "<a>"), rows=264),
    TinyVocabulary(plain=("</s>", "<s>"), added=("<b>",)),
    TinyVocabulary(plain=("<s>", "</s>", "<c>", "<d>", "<e>"), rows=300),
)


@pytest.mark.parametrize("tied", every(5, [(each,) for each in product((True, False), repeat=3)]))
@pytest.mark.parametrize("source", every(2, ["union", "base", "last"]))
def test_vocabularies_of_three_sizes_take_what_is_planned_for_them(
    tied: tuple[bool, bool, bool], source: str, tmp_path: Path
) -> None:
    base, one, last = (
        save_tiny_model(
            tmp_path / str(seed), TinyModel(seed=seed, layers=2, dtype="float32", vocabulary=vocabulary, tied=is_tied)
        )
        for seed, (vocabulary, is_tied) in enumerate(zip(VOCABULARIES, tied, strict=True))
    )
    models = ", ".join(f"{{model: {name}, parameters: {{weight: 0.5}}}}" for name in (one, last))
    recipe = Recipe.parse(
        f"merge_method: task_arithmetic\nbase_model: {base}\nmodels: [{models}]\n"
        f"dtype: float32\ntokenizer_source: {last if source == 'last' else source}"
    )
    with ParentSet.open(recipe) as parents:
        merger = Merger(parents)
        demand = demand_of(merger, [recipe], Generation("transformers", 100, 7))
        parents.load()
        model = merger.apply(recipe)
        residencies = parents._residencies.values()
        kept = sum(tensor.nbytes for residency in residencies for tensor in residency._kept.values())
    lives = {each.untyped_storage().data_ptr(): each.nbytes for each in model.parameters()}  # tied weights once
    assert demand.shares[0].live == sum(lives.values())
    assert demand.shares[0].parents == kept
    assert demand.shape.vocabulary == len(model.lm_head.weight) == model.config.vocab_size


def test_a_slot_takes_what_the_generator_finds(family: Family) -> None:
    config = SearchConfig.load(family.write())
    with ParentSet.open(config.space.extreme_recipes, MergeOptions(memory_budget=0)) as parents:
        name = next(iter(parents.checkpoints))
        model, tokenizer = load_model(name), load_tokenizer(name)
        demand = demand_of(Merger(parents), config.space.extreme_recipes, Generation("transformers", 100, 7))
        TransformersGenerator(model, tokenizer)
        assert demand.shares[0].slot * model.dtype.itemsize == generator._PROBED[model] * demand.shape.itemsize


def test_calibration_is_planned_with_what_a_text_keeps_for_its_backward_pass(family: Family) -> None:
    (family.folder / "text.txt").write_text("text")
    models = "".join(f"\n  - {{model: {name}, parameters: {{calibration: text.txt}}}}" for name in ("a", "b"))
    recipe = f"\n  merge_method: fisher\n  models:{models}\n  parameters: {{scale: {{low: 0.5, high: 1.0}}}}\n"
    config = SearchConfig.load(family.write(recipe=recipe))
    with ParentSet.open(config.space.extreme_recipes, MergeOptions(memory_budget=0)) as parents:
        demand = demand_of(Merger(parents), config.space.extreme_recipes, Generation("transformers", 100, 7))
    model = load_model(str(family.a))
    compute_in_float32(model)
    weights = {each.untyped_storage().data_ptr(): 4 * each.numel() for each in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        diagonal_fisher(model, [torch.full((1, CALIBRATION_TOKENS), 5)])
    planned = demand.shares[0].calibration - sum(weights.values())
    assert sum(kept.values()) <= planned <= 4 * sum(kept.values())


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.7, 1.0])
def test_parents_are_kept_where_the_plan_says(family: Family, kept: float) -> None:
    recipes = SearchConfig.load(family.write()).space.extreme_recipes
    with ParentSet.open(recipes, MergeOptions(memory_budget=0)) as parents:
        limit = int(kept * sum(stored.nbytes for _, stored in parents.stored_tensors()))
        machine, wanted = MachineMemory(Memory("host", 10**10, 10**10)), Generation("transformers", 100, 7)
        planner = Planner(Merger(parents), recipes, wanted, machine, limits=Limits(parents=limit))
        plan = planner.plan()
        parents.keep_within(budgets_of(plan, [torch.device("cpu")]))
        parents.load()
        found: dict[str, dict[str, int]] = {}
        for name, stored in parents.stored_tensors():
            place = "files" if parents.kept(name, stored.name) is None else "host"
            own = found.setdefault(name, {})
            own[place] = own.get(place, 0) + stored.nbytes
        assert planner.tiers(plan) == found


def test_several_cpus_share_the_budget_of_the_host(family: Family) -> None:
    config = SearchConfig.load(family.write())
    with ParentSet.open(config.space.extreme_recipes, MergeOptions(memory_budget=0)) as parents:
        machine = MachineMemory(Memory("host", 10**10, 10**10))
        planner = Planner(Merger(parents), config.space.extreme_recipes, Generation("transformers", 100, 7), machine)
        plan = planner.plan()
        whole = plan.budgets[0].host
        assert budgets_of(plan, [torch.device("cpu")]) == {torch.device("cpu"): Budget(0, whole)}
        halves = budgets_of(plan, [torch.device("cpu"), torch.device("cpu:0")])
        assert [budget.host for budget in halves.values()] == [whole // 2] * 2
        assert planner.fits_in_float32()
        assert not replace(planner, machine=SCARCE).fits_in_float32()


def test_a_search_without_room_is_refused_before_anything_is_written(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.planned_memory.machine_of", lambda *_: SCARCE)
    monkeypatch.setattr(ParentSet, "load", pytest.fail)
    with pytest.raises(
        SearchError, match=r"the search has no room here: host can give 90 KB, and the least .* is .* MB"
    ):
        run_search(SearchConfig.load(family.write()), tmp_path / "run", trials=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("machine", "told", "code"),
    every(
        2,
        [
            (MachineMemory(Memory("host", 10**10, 8 * 10**9)), "problems are decoded at once.", 0),
            (SCARCE, "The search has no room here: host can give 90 KB", 1),
        ],
    ),
)
def test_a_dry_run_shows_the_plan(
    machine: MachineMemory, told: str, code: int, family: Family, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.planned_memory.machine_of", lambda *_: machine)
    done = command("run", family.write(), "--dry-run")
    assert done.exit_code == code
    assert all(part in done.stdout for part in ("memory, in GB", "free now", told))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_a_dry_run_says_how_to_install_vllm(family: Family, command: Command) -> None:
    config = family.write(evaluation=", backend: vllm")
    done = command("run", config, "--dry-run")
    assert done.exit_code == 1
    told = f"{config}: evaluation.backend: backend vllm is not installed; pip install 'merge-search[vllm]'"
    assert told in done.stderr
    assert "free now" in done.stdout


@pytest.mark.slow
def test_the_report_split_is_decoded_in_batches_of_one_size_for_a_whole_search(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Room] = []
    evaluator, plan = Setup.evaluator, Planner.plan

    def remembering(self: Setup, problems: ProblemSet, room: Room) -> Evaluator:
        rooms.append(room)
        return evaluator(self, problems, room)

    def with_rows(rows: int) -> list[str]:
        room = Room(cache_bytes=10**8, plain_rows=rows)
        monkeypatch.setattr(Planner, "plan", lambda *given: replace(plan(*given), room=room))
        phases = Phases()
        run_search(SearchConfig.load(family.write()), tmp_path / "run", trials=1, progress=phases)
        return [line for line in phases.said if "report split" in line]

    monkeypatch.setattr(Setup, "evaluator", remembering)
    assert with_rows(12) == []
    assert ResultsFolder.open(tmp_path / "run").identity["evaluation"]["plain_rows"] == 12
    assert with_rows(64) == []
    assert with_rows(5) == [
        "the report split is decoded 12 problems at a time, as where this search began; here memory has room for 5: if "
        "it runs out, the batch is smaller, and 16-bit scores may differ"
    ]
    assert [room.plain_rows for room in rooms] == [12, 12, 12]
