"""The shapes of attention that the passes of a search's trials have."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine import generator as generator_module
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.engine.pass_layout import PackedPass
from evaluation.generation.engine.tuning import Tuning
from tests.tiny import byte_tokenizer

Shape = tuple[int, int, int]


def shapes_of_trials(tuning: Tuning, trials: int, problems: int, rows: int, longest: int) -> list[set[Shape]]:
    """Return the shapes (rows, queries per row, slots per row) of each trial's attention.

    Each trial generates what the one before did, and is given drafts of it in which every 25th token is another, as a
    neighbouring candidate's are.

    Args:
        tuning: of the device.
        trials: how many.
        problems: per trial.
        rows: of a batch.
        longest: the most tokens of a prompt, and of a completion; the fewest are a fifth of that.
    """
    config = LlamaConfig(
        vocab_size=320, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=4096,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config).eval().requires_grad_(False)
    chance = random.Random(0)
    requests = [
        Request(
            [chance.randrange(250) for _ in range(chance.randint(longest // 5, longest))],
            max_new_tokens=chance.randint(longest // 5, longest),
        )
        for _ in range(problems)
    ]
    found: list[set[Shape]] = []

    class Noted(PackedPass):
        def on(self, device: torch.device) -> Any:
            layout = super().on(device)
            found[-1].update((*group.positions.shape, group.length) for group in layout.groups)
            return layout

    for _ in range(trials):
        generator = TransformersGenerator(model, byte_tokenizer(), rows, tuning=tuning)
        generator._ends = frozenset()
        found.append(set())
        with patch.object(generator_module, "PackedPass", Noted):
            written = dict(generator.generate(requests))
        requests = [
            replace(request, drafts=[_changed(written[index].tokens, chance)]) for index, request in enumerate(requests)
        ]
    return found


def _changed(tokens: tuple[int, ...], chance: random.Random) -> tuple[int, ...]:
    changed = list(tokens)
    for _ in range(max(1, len(tokens) // 25)):
        changed[chance.randrange(len(tokens))] = 7
    return tuple(changed)
