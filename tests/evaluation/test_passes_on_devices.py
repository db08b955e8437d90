"""On accelerators, which are pretended here: few shapes, one copy and one wait per pass, models spread over several."""

from __future__ import annotations

import copy
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine import attention
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.engine.tuning import CPU, GPU
from evaluation.generation.sampling import TokenDraws
from tests.evaluation.shapes import shapes_of_trials
from tests.parametrization import every
from tests.pretend_devices import PretendedDevices, moved, pretended_devices
from tests.tiny import byte_tokenizer

FIRST, SECOND = torch.device("meta", 1), torch.device("meta", 2)


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(config).eval().requires_grad_(False)
    assert made.generation_config is not None
    made.generation_config.eos_token_id = None
    return made


def requests_of(**options: Any) -> list[Request]:
    chance = random.Random(1)
    prompts = [[chance.randrange(256) for _ in range(chance.randint(5, 30))] for _ in range(4)]
    draw = options.pop("top_p", None)
    draws = [TokenDraws(str(index), 0.01, draw) if draw else None for index in range(4)]
    return [
        Request(prompt, max_new_tokens=6 + 2 * index, draw=each, **options)
        for index, (prompt, each) in enumerate(zip(prompts, draws, strict=True))
    ]


def on_devices(model: Any, mode: PretendedDevices, *, spread: bool = False) -> Any:
    """Return a copy of a model on pretended devices, with accelerate's hooks where it is spread."""
    made = copy.deepcopy(model)
    if spread:
        for block in (made.model.layers[1], made.model.norm, made.lm_head):
            moved(block, SECOND if block is not made.lm_head else FIRST, mode)
            add_hook_to_module(block, _Moving(execution_device=SECOND if block is not made.lm_head else FIRST))
        add_hook_to_module(made, _Moving(execution_device=FIRST, io_same_device=True))
        made.hf_device_map = {"": FIRST, "model.layers.1": SECOND, "model.norm": SECOND}
    moved(made, FIRST, mode)
    return made


class _Moving(AlignDevicesHook):  # type: ignore[misc]
    """A hook that moves what a block gets; its weights are there already."""

    def init_hook(self, module: Any) -> Any:
        return module


@pytest.mark.parametrize(
    ("drafting", "options"),
    every(3, [(True, {"reference": (1, 2, 3), "top_p": 0.9}), (False, {}), (True, {"top_p": 1.0})]),
)
def test_a_pass_sends_once_and_waits_once(model: Any, drafting: bool, options: dict[str, Any]) -> None:
    requests, tokenizer = requests_of(**options), byte_tokenizer()
    expected = dict(TransformersGenerator(model, tokenizer, 3, drafting=drafting).generate(requests))
    with pretended_devices() as mode:
        moved_model = on_devices(model, mode)
        generator = TransformersGenerator(moved_model, tokenizer, 3, drafting=drafting)
        passes = counted_passes(moved_model, mode)
        found = dict(generator.generate(requests))
    assert found == expected
    between = [later - earlier for earlier, later in pairwise(passes)]
    assert len(between) > 7
    # Rows that move together need a second copy, and cause no wait.
    assert Counter(each["to device"] for each in between).most_common(1)[0][0] == 1
    assert all(each["to device"] <= 2 for each in between)
    assert all(each["waits"] == 1 for each in between)
    assert not any(each["between devices"] for each in between)


def test_a_spread_model_moves_states_and_logits_and_nothing_else(model: Any) -> None:
    requests, tokenizer = requests_of(reference=(1, 2, 3)), byte_tokenizer()
    expected = dict(TransformersGenerator(model, tokenizer, 3).generate(requests))
    with pretended_devices() as mode:
        spread = on_devices(model, mode, spread=True)
        generator = TransformersGenerator(spread, tokenizer, 3)
        logits: list[int] = []
        spread.lm_head.register_forward_hook(lambda _module, _given, output: logits.append(output.shape[1]))
        passes = counted_passes(spread, mode)
        found = dict(generator.generate(requests))
    assert found == expected
    between = [later - earlier for earlier, later in pairwise(passes)]
    assert all(each["waits"] == 1 for each in between)
    # The numbers of a pass reach each device once, and rows that move together twice.
    assert Counter(each["to device"] for each in between).most_common(1)[0][0] == 2
    assert all(each["to device"] <= 4 for each in between)
    # Logits only of the last tokens: a prompt has one, and each token of a reference another.
    assert max(logits) == 3 * 4


def test_a_mixed_device_is_noticed() -> None:
    with pretended_devices() as mode:
        one, other = (torch.ones(2, device=device) for device in (FIRST, SECOND))
        with pytest.raises(RuntimeError, match="tensors on"):
            one + other
        with pytest.raises(RuntimeError, match="tensors on"):
            one + torch.ones(2)
        assert (one + other.to(FIRST)).tolist() == [2, 2]
        assert float(one.sum()) == 2
        assert mode.counts == Counter({"launches": mode.counts["launches"], "between devices": 1, "waits": 2})


def counted_passes(model: Any, mode: PretendedDevices) -> list[Counter[str]]:
    """Return a list that gets the counts at the start of each pass."""
    passes: list[Counter[str]] = []

    def note(*_: Any) -> None:
        passes.append(_Difference(mode.counts))

    model.register_forward_pre_hook(note)
    return passes


class _Difference(Counter[str]):
    """Counts of which the difference keeps zeros."""

    def __sub__(self, other: Counter[str]) -> _Difference:
        return _Difference({key: self[key] - other[key] for key in self})


@pytest.mark.parametrize(("batch_size", "drafting"), every(3, [(3, True), (4, False), (1, True)]))
def test_the_tuning_of_a_gpu_changes_no_token(model: Any, batch_size: int, drafting: bool) -> None:
    requests, tokenizer = requests_of(), byte_tokenizer()
    expected = dict(TransformersGenerator(model, tokenizer, 1, drafting=False).generate(requests))
    generator = TransformersGenerator(model, tokenizer, batch_size, drafting=drafting, tuning=GPU)
    assert dict(generator.generate(requests)) == expected


def test_attention_on_a_gpu_never_builds_graphs(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[tuple[bool, bool, bool]] = []

    def noted(*given: Any, **options: Any) -> Any:
        backends = torch.backends.cuda
        allowed.append(
            (backends.cudnn_sdp_enabled(), backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled())
        )
        return F.scaled_dot_product_attention(*given, **options)

    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(attention, "F", type("Functional", (), {"scaled_dot_product_attention": staticmethod(noted)}))
    generated = TransformersGenerator(model, byte_tokenizer(), tuning=GPU).generate(requests_of())
    next(generated)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    list(generated)
    assert set(allowed) == {(False, True, True)}


@pytest.mark.slow
def test_ten_trials_on_a_gpu_have_fifty_shapes_of_attention() -> None:
    few, many = (shapes_of_trials(tuning, trials=10, problems=20, rows=8, longest=60) for tuning in (GPU, CPU))
    assert len(set().union(*few)) <= 50 < len(set().union(*many))
