"""What vLLM is told: settings that fit a card, for cards and models of all sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.errors import EvaluationError
from evaluation.generation.room import MOST_ROWS, UNLIMITED, Room
from evaluation.generation.vllm_engine.engine_settings import (
    ENGINE_OVERHEAD_BYTES,
    Device,
    EngineDemand,
    EngineSettings,
    capture_sizes,
    llm_arguments,
    settings_for,
)

GB = 10**9
# Bytes of the weights and of a token's keys and values, in bfloat16: from the models' configs.
MODELS = {"deepseek-coder-6.7b": (13.5, 524_288), "Qwen2.5-7B": (15.2, 57_344), "Llama-3.1-8B": (16.1, 131_072)}
CARDS = {24: 25.8, 48: 51.5, 80: 85.5, 141: 150.8}
LENGTH = 2048 + 15


def demand(model: str, texts: int = 82) -> EngineDemand:
    weights, slot = MODELS[model]
    return EngineDemand(int(weights * GB), slot, 16_384, (1_100,) * texts)


def of(asked: EngineDemand, device: Device, room: Room = UNLIMITED, draft_tokens: int | None = None) -> EngineSettings:
    return settings_for(asked, device, room, "bfloat16", {}, draft_tokens=draft_tokens)


def card(size: int) -> Device:
    return Device("cuda", int(CARDS[size] * GB))


@pytest.mark.parametrize(
    ("model", "size", "rows"),
    [
        ("deepseek-coder-6.7b", 48, 29),
        ("deepseek-coder-6.7b", 80, 85),
        ("deepseek-coder-6.7b", 141, 194),
        ("Qwen2.5-7B", 48, 210),
        ("Qwen2.5-7B", 80, 256),
        ("Llama-3.1-8B", 48, 78),
        ("Llama-3.1-8B", 80, 256),
    ],
)
def test_an_engine_fits_its_card_beside_a_live_model(model: str, size: int, rows: int) -> None:
    asked, device = demand(model), card(size)
    settings = of(asked, device)
    assert settings.rows == rows
    left = device.total_bytes - 2 * asked.weight_bytes - ENGINE_OVERHEAD_BYTES - settings.cache_bytes
    assert left >= 0.09 * device.total_bytes
    # So many texts of half the longest length.
    assert settings.cache_bytes >= min(rows, MOST_ROWS // 2) * LENGTH * asked.slot_bytes // 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cache", [4, 12])
def test_an_engine_keeps_to_its_room_and_wants_no_more_to_be_free(model: str, cache: int) -> None:
    asked, device = demand(model), card(80)
    settings = of(asked, device, Room(engine_cache_bytes=cache * GB))
    assert settings.cache_bytes <= cache * GB
    assert settings.memory_part is not None
    assert settings.memory_part * device.total_bytes == pytest.approx(asked.weight_bytes + settings.cache_bytes)
    in_all = Room(engine_bytes=asked.weight_bytes + ENGINE_OVERHEAD_BYTES + cache * GB)
    assert of(asked, device, in_all) == settings


@pytest.mark.parametrize(
    ("size", "room", "may"),
    [
        (24, UNLIMITED, r"it may take 90% of a GPU of 25\.8 GB"),
        (80, Room(engine_bytes=14 * GB), r"it may take 14\.0 GB in all"),
        (80, Room(engine_cache_bytes=10**8), r"it may take 0\.1 GB for keys and values"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(size: int, room: Room, may: str) -> None:
    with pytest.raises(EvaluationError, match=rf"vLLM needs 13\.5 GB for weights.* 2063 tokens; .*{may}"):
        of(demand("deepseek-coder-6.7b"), card(size), room)


@given(
    kind=st.sampled_from(["cpu", "cuda"]),
    text=st.integers(2, 5_000),
    texts=st.integers(1, 400),
    context=st.sampled_from([512, 2_048, 131_072]),
    guesses=st.sampled_from([None, 0, 15, 64]),
)
@pytest.mark.hypothesis
def test_the_longest_text_fits_and_its_guesses_do_too(
    kind: str, text: int, texts: int, context: int, guesses: int | None
) -> None:
    asked = EngineDemand(GB, 10_000, context, (min(text, context),) * texts)
    device = Device("cpu") if kind == "cpu" else card(80)
    settings = of(asked, device, draft_tokens=guesses)
    assert settings.length >= min(context, text + settings.draft_tokens)
    assert settings.length <= context
    assert settings.cache_bytes >= settings.length * asked.slot_bytes
    assert 1 <= settings.rows <= MOST_ROWS


def test_a_gpu_guesses_fewer_tokens_at_once_than_its_graphs_have_room_for() -> None:
    settings = of(demand("Qwen2.5-7B"), card(80))
    assert (settings.draft_tokens, settings.step_positions) == (15, 130)
    arguments = llm_arguments(settings, "some.Proposer")
    graphs = arguments["compilation_config"]
    assert graphs == {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": list(capture_sizes(1024))}
    assert settings.rows <= settings.most_positions
    on_cpu = of(demand("Qwen2.5-7B"), Device("cpu"))
    assert (on_cpu.draft_tokens, on_cpu.step_positions) == (64, 20)
    assert not {"compilation_config", "gpu_memory_utilization"} & llm_arguments(on_cpu, "some.Proposer").keys()


@given(most=st.sampled_from([8, 64, 512, 1024, 4096]), positions=st.integers(1, 4096))
@pytest.mark.hypothesis
def test_steps_are_padded_by_a_quarter_at_most_or_by_seven_positions(most: int, positions: int) -> None:
    sizes = capture_sizes(most)
    assert sizes[-1] == most
    assert len(sizes) <= 36
    if positions <= most:
        padded = next(size for size in sizes if size >= positions)
        assert padded - positions < max(8, positions / 4)
