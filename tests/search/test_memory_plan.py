"""What is planned fits; rows come before parents; what cannot work is refused with numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from evaluation import BackendName
from evaluation.generation.pass_memory import ModelShape
from merging.residency.budget import Budget
from search.cli.memory_table import memory_lines, memory_table
from search.memory_demand import UNKNOWN, Demand, MachineMemory, Memory, Share
from search.memory_plan import (
    CACHE,
    FREE,
    LIVE,
    MERGING,
    PARENTS,
    PASS,
    STATISTICS,
    MemoryPlan,
    PlacePlan,
    plan_memory,
)
from search.parent_tiers import parent_tiers, told_tiers
from search.planned_memory import is_enough
from tests.benchmarks.memory_plan import CARDS, LARGE, MODELS, Model, demand_of, machine_of, plans

BACKENDS: tuple[BackendName, ...] = ("transformers", "vllm")
SIZES = st.integers(0, 200_000_000_000)
SHAPES = st.builds(
    ModelShape,
    layers=st.integers(1, 80),
    hidden=st.integers(64, 8192),
    intermediate=st.integers(64, 28_672),
    vocabulary=st.integers(256, 256_000),
    heads=st.just(32),
    kv_heads=st.sampled_from([1, 4, 8, 32]),
    head_size=st.sampled_from([64, 128]),
    itemsize=st.sampled_from([2, 4]),
)


@st.composite
def shares(draw: st.DrawFn, shape: ModelShape, *, has_engine: bool = False) -> Share:
    live = draw(SIZES)
    streaming = draw(st.integers(0, 800_000_000))
    gradient = 0 if has_engine else draw(st.sampled_from([0, live]))
    return Share(
        parents=draw(SIZES),
        live=live,
        slot=shape.slot_bytes,
        streaming=streaming,
        staging=streaming,
        statistics=draw(st.sampled_from([0, 10**9, 30 * 10**9])),
        working=draw(st.sampled_from([0, 10**9])),
        calibration=draw(st.sampled_from([0, 2 * live])),
        gradient=gradient,
        gradient_by_tensor=gradient // 3,
        engine=live if has_engine else 0,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[MachineMemory, Demand]:
    shape, has_engine = draw(SHAPES), draw(st.booleans())
    devices = 1 if has_engine else draw(st.integers(0, 4))
    memories = []
    for index in range(devices):
        total = draw(SIZES)
        memories.append(Memory(f"cuda:{index}", total, draw(st.integers(0, total))))
    total = draw(SIZES)
    machine = MachineMemory(
        Memory("host", total, draw(st.integers(0, total))), tuple(memories), draw(st.integers(1, 8))
    )
    wanted = tuple(draw(shares(shape, has_engine=has_engine)) for _ in range(max(1, devices)))
    limit = st.none() | SIZES
    demand = Demand(
        wanted, shape, draw(st.integers(1, 8192)), draw(st.integers(0, 1000)), draw(SIZES),
        draw(st.none() | st.integers(1, 300)), draw(limit), draw(limit),
    )  # fmt: skip
    return machine, demand


def on(place: PlacePlan, what: str) -> int:
    return sum(part.bytes for part in place.parts if part.what == what)


@given(cases())
def test_a_plan_fits_into_what_is_free(case: tuple[MachineMemory, Demand]) -> None:
    machine, demand = case
    plan = plan_memory(machine, demand)
    if plan.refusal:
        return
    for place in plan.places:
        assert all(part.bytes >= 0 for part in place.parts)
        assert place.planned <= place.memory.free
    wanted = sum(share.parents + share.statistics for share in demand.shares)
    if machine.devices:
        assert sum(budget.device for budget in plan.budgets) + plan.from_host + plan.from_files == wanted
        pinned = sum(budget.host for budget in plan.budgets)
        assert plan.from_host <= pinned <= machine.host.free - sum(budget.spare for budget in plan.budgets)
    else:
        assert plan.budgets == (Budget(0, wanted - plan.from_files),)


@given(cases())
def test_a_plan_has_the_rows_that_are_wanted_or_a_reason(case: tuple[MachineMemory, Demand]) -> None:
    plan = plan_memory(*case)
    if plan.refusal:
        assert plan.rows == 0
        assert "can give" in plan.refusal
    elif plan.rows < case[1].first_rows:
        assert any(f"{plan.rows} of {case[1].first_rows} rows" in note for note in plan.notes)
    else:
        assert plan.rows <= case[1].most_rows


@given(cases(), st.integers(0, 100_000_000_000))
def test_more_memory_never_costs_rows_or_kept_parents(case: tuple[MachineMemory, Demand], more: int) -> None:
    machine, demand = case
    # The gradient of an ascent takes the place of parents from where it fits.
    demand = replace(demand, shares=tuple(replace(share, gradient=0, gradient_by_tensor=0) for share in demand.shares))

    def larger(memory: Memory) -> Memory:
        return replace(memory, total=memory.total + more, free=memory.free + more)

    if not machine.devices:
        machine = replace(machine, host=larger(machine.host))
    grown = replace(machine, devices=tuple(map(larger, machine.devices)))
    small, large = plan_memory(machine, demand), plan_memory(grown, demand)
    assert large.rows >= small.rows
    assert bool(large.refusal) <= bool(small.refusal)
    if not small.refusal:
        assert large.from_files <= small.from_files


@given(cases(), st.integers(0, 100_000_000_000))
def test_more_parents_never_cost_rows_that_come_first(case: tuple[MachineMemory, Demand], more: int) -> None:
    machine, demand = case
    many = replace(demand, shares=tuple(replace(share, parents=share.parents + more) for share in demand.shares))
    few, found = plan_memory(machine, demand), plan_memory(machine, many)
    assert min(few.rows, demand.first_rows) == min(found.rows, demand.first_rows)


@given(cases(), st.integers(1, 8))
def test_workers_of_one_machine_never_plan_more_than_there_is(case: tuple[MachineMemory, Demand], workers: int) -> None:
    machine = replace(case[0], workers=workers)
    plan = plan_memory(machine, case[1])
    if not plan.refusal:
        assert workers * plan.places[-1].planned <= machine.host.total


@pytest.mark.parametrize("workers", [1, 4, 12])
def test_each_worker_leaves_a_tenth_of_its_part_of_the_host_free(workers: int) -> None:
    machine = MachineMemory(Memory("host", 240 * 10**9, 240 * 10**9), workers=workers)
    share = Share(parents=10**9, live=10**9, slot=MODELS[0].shape.slot_bytes)
    plan = plan_memory(machine, replace(demand_of(MODELS[0]), shares=(share,)))
    assert plan.refusal == ""
    assert on(plan.places[0], FREE) == machine.host.total // workers // 10


@pytest.mark.parametrize(("free", "gradient"), [(11, "model"), (9, "tensor"), (5, "none")])
def test_an_ascent_has_the_gradient_that_memory_has_room_for(free: int, gradient: str) -> None:
    share = Share(0, live=2 * 10**9, slot=MODELS[0].shape.slot_bytes, gradient=7 * 10**9, gradient_by_tensor=5 * 10**9)
    demand = replace(demand_of(MODELS[0]), shares=(share,), length=100, requests=1)
    plan = plan_memory(MachineMemory(Memory("host", 24 * 10**9, free * 10**9)), demand)
    assert plan.gradient == gradient
    room = {"model": 7, "tensor": 5, "none": 0}[gradient] * 10**9
    work = sum(on(plan.places[0], what) for what in (MERGING, CACHE, PASS))
    assert work == room or (gradient == "none" and not on(plan.places[0], MERGING))
    notes = [note for note in plan.notes if note.startswith("ascent: memory has no room")]
    assert len(notes) == (gradient != "model")
    assert all(("so there is none" in note) is (gradient == "none") for note in notes)


@given(cases())
def test_merging_has_its_room_or_the_plan_says_what_it_lacks(case: tuple[MachineMemory, Demand]) -> None:
    plan = plan_memory(*case)
    if plan.refusal:
        return
    devices = plan.places[: len(case[1].shares)]
    for place, share in zip(devices, case[1].shares, strict=True):
        turns = () if share.engine else (CACHE, PASS)  # an engine keeps its memory
        room = sum(on(place, what) for what in (MERGING, *turns))
        assert room + plan.lacking >= share.working
    assert bool(plan.lacking) == any(note.startswith("merging may run out of memory") for note in plan.notes)


def test_merging_comes_before_computing_in_float32() -> None:
    shape = ModelShape(
        layers=1, hidden=64, intermediate=64, vocabulary=256, heads=1, kv_heads=1, head_size=64, itemsize=2
    )
    machine = MachineMemory(Memory("host", 3 * 10**9, 3 * 10**9))

    def plan(live: int) -> MemoryPlan:
        share = Share(0, live=live, slot=shape.slot_bytes, working=10**9)
        return plan_memory(machine, Demand((share,), shape, length=100, requests=1))

    own, wide = plan(10**9), plan(2 * 10**9)
    assert (own.lacking, own.refusal, wide.refusal) == (0, "", "")
    assert not is_enough(wide, own)
    assert is_enough(own, own)
    assert wide.takes_turns
    assert not own.takes_turns


# As their model cards have it.
PARAMETERS = [6.74e9, 7.62e9, 8.03e9, 70.6e9]


@pytest.mark.parametrize(("model", "parameters"), list(zip([*MODELS, LARGE], PARAMETERS, strict=True)))
def test_the_layouts_have_the_parameters_of_the_models(model: Model, parameters: float) -> None:
    assert model.parameters == pytest.approx(parameters, rel=0.002)
    halves = [sum(model.on_device(index, 2)) for index in range(2)]
    assert sum(halves) == model.parameters


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("card", CARDS)
def test_a_card_has_enough_rows_or_says_why_not(card: int, model: Model, backend: BackendName) -> None:
    plan = plan_memory(machine_of(card), demand_of(model, backend))
    place = plan.places[0]
    if backend == "transformers":
        assert not plan.refusal
        assert on(place, LIVE) == 2 * model.parameters
        assert plan.rows >= {24: 14, 48: 50, 80: 82, 141: 82}[card]
        assert card < 80 or (plan.from_files == 0 and plan.gradient == "model")
    if plan.refusal:
        assert card == 24
    else:
        assert place.planned <= place.memory.free
        assert plan.rows >= 32 or plan.notes
        assert on(place, CACHE) >= plan.rows * 1110 * model.shape.slot_bytes
    if card == 141:
        assert plan.rows == 82
        assert on(place, PARENTS) == 6 * model.parameters


def test_an_engine_is_given_what_it_needs_or_is_refused() -> None:
    for _, model, backend, _, plan in plans():
        if backend == "vllm" and not plan.refusal:
            assert plan.room.engine_bytes is not None
            assert plan.room.engine_cache_bytes is not None
            assert plan.room.engine_bytes - plan.room.engine_cache_bytes > 2 * model.parameters
            assert plan.room.engine_cache_bytes >= plan.rows * 1110 * model.shape.slot_bytes


def test_a_model_that_is_spread_has_rows_by_all_its_devices() -> None:
    plan = plan_memory(machine_of(80, 4), demand_of(LARGE, devices=4))
    assert (plan.refusal, plan.rows) == ("", 82)
    assert [place.memory.name for place in plan.places] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "host"]
    assert plan.room.cache_bytes == 82 * 1110 * LARGE.shape.slot_bytes
    slots, layer = 20 * LARGE.shape.slot_bytes // 80, LARGE.shape.slot_bytes // 80
    assert on(plan.places[0], CACHE) == 82 * 1110 * (slots + layer // 2)  # the keys of a layer, to move rows together
    assert plan_memory(machine_of(80), demand_of(LARGE)).refusal.startswith("cuda:0 can give 82.8 GB")


def test_plain_generation_has_the_same_rows_whatever_the_requests() -> None:
    demand = demand_of(MODELS[0])
    rooms = [plan_memory(machine_of(80), replace(demand, requests=each)).room for each in (1, 20, 164)]
    assert {room.plain_rows for room in rooms} == {64}
    assert plan_memory(machine_of(24), demand).room.plain_rows == 14


def test_limits_of_the_user_are_kept_on_the_device_and_in_all() -> None:
    demand = replace(demand_of(MODELS[1]), parents_limit=20 * 10**9, device_limit=5 * 10**9)
    plan = plan_memory(machine_of(141), demand)
    assert (plan.budgets[0].device, plan.budgets[0].host) == (5 * 10**9, 15 * 10**9)
    assert plan.from_files == demand.shares[0].parents - 20 * 10**9


def test_the_host_has_room_for_what_a_full_card_leaves() -> None:
    plan = plan_memory(machine_of(80), demand_of(MODELS[0]))
    assert plan.budgets[0].spare > plan.budgets[0].device > 10**10


def test_a_host_of_which_nothing_is_known_has_room_for_everything() -> None:
    machine = MachineMemory(Memory("host", UNKNOWN, UNKNOWN))
    plan = plan_memory(machine, replace(demand_of(MODELS[0]), requests=164))
    assert (plan.rows, plan.from_files, plan.refusal) == (164, 0, "")


def test_a_host_keeps_room_for_what_is_not_planned_however_small_it_is() -> None:
    """The sandbox, and libraries that are imported while a search runs, take as much beside a small model."""
    shape = ModelShape(
        layers=1, hidden=64, intermediate=64, vocabulary=256, heads=1, kv_heads=1, head_size=64, itemsize=2
    )
    demand = Demand((Share(parents=0, live=1_000_000, slot=shape.slot_bytes),), shape, length=100, requests=1)
    refused = plan_memory(MachineMemory(Memory("host", 10**9, 10**8)), demand)
    assert refused.refusal.startswith("host can give 0 bytes, and the least that is needed there is ")
    assert not plan_memory(MachineMemory(Memory("host", 10**9, 3 * 10**8)), demand).refusal


def test_calibration_that_has_no_room_is_refused_before_anything_is_loaded() -> None:
    demand = demand_of(MODELS[0])
    share = replace(demand.shares[0], calibration=27 * 10**9)
    refused = plan_memory(machine_of(24), replace(demand, shares=(share,)))
    assert "calibration takes 27.0 GB" in refused.refusal
    fitting = plan_memory(machine_of(80), replace(demand, shares=(share,)))
    assert not fitting.refusal
    # Parents are there before it, the live model and the cache are not.
    assert on(fitting.places[0], PARENTS) + share.calibration <= fitting.places[0].memory.free


def test_statistics_that_have_no_room_on_the_card_are_kept_on_the_host() -> None:
    demand = demand_of(MODELS[0])
    share = replace(demand.shares[0], statistics=27 * 10**9)
    plan = plan_memory(machine_of(80), replace(demand, shares=(share,)))
    assert on(plan.places[0], STATISTICS) == 0
    assert plan.from_host == share.parents + share.statistics - on(plan.places[0], PARENTS)


def test_parents_fill_the_memories_in_the_order_in_which_they_are_read() -> None:
    plan = plan_memory(machine_of(80), demand_of(MODELS[0]))
    layer = 6 * MODELS[0].parameters // 3 // 100
    tiers = parent_tiers(plan, [(name, 0, layer) for name in ("base", "a", "b") for _ in range(100)])
    assert told_tiers(tiers) == "base on cuda:0, a 5.3 GB on cuda:0 and 8.2 GB on host, b on host"
    for place in plan.places:
        kept = sum(places.get(place.memory.name, 0) for places in tiers.values())
        assert abs(on(place, PARENTS) - kept) < layer


def test_of_several_cards_each_has_its_own_room() -> None:
    plan = replace(plan_memory(machine_of(141, 4), demand_of(LARGE, devices=4)), from_files=1)
    room = on(plan.places[1], PARENTS)
    tiers = parent_tiers(plan, [("a", 1, room), ("b", 1, 1), ("c", 2, 1), ("d", 2, 10**15)])
    assert {name: list(places) for name, places in tiers.items()} == {
        "a": ["the cards"], "b": ["host"], "c": ["the cards"], "d": ["files"]
    }  # fmt: skip
    assert told_tiers(tiers) == "a on the cards, b on host, c on the cards, d in files"
    assert told_tiers(dict.fromkeys("ab", tiers["d"])) == "all in files"


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("devices", [0, 1, 4, 8])
def test_the_table_fits_a_terminal_and_adds_up(width: int, devices: int) -> None:
    if devices:
        plan = plan_memory(machine_of(80, devices), demand_of(LARGE if devices > 1 else MODELS[0], devices=devices))
    else:
        plan = plan_memory(MachineMemory(Memory("host", 10**11, 9 * 10**10)), demand_of(MODELS[0]))
    console = Console(width=width, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.print(memory_table(plan))
    text = capture.get() or console.export_text()
    assert max(map(len, text.splitlines()), default=0) <= width
    table = shown(plan)
    assert table[0][0] == "memory, in GB"
    assert FREE in [row[0] for row in table]
    first, second, *_ = memory_lines(plan, {"a": {"host": 10**9}})
    assert first.startswith(f"{plan.rows} problems")
    assert second == "Parents: all on host."
    assert next(iter(memory_lines(replace(plan, rows=1), {}))) == "1 problem is decoded at once."


def test_cards_alike_share_a_column() -> None:
    plan = plan_memory(machine_of(80, 8), demand_of(LARGE, devices=8))
    assert shown(plan)[0] == ["memory, in GB", "cuda:0", "cuda:1-6", "cuda:7", "host"]


def shown(plan: MemoryPlan) -> list[list[str]]:
    """Return the cells of the table."""
    table = memory_table(plan)
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]
