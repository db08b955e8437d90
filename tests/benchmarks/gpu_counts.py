"""What a pass of generation asks of a GPU: copies, waits, operations, and new shapes of attention.

    python -m tests.benchmarks.gpu_counts [--trials 10] [--problems 82] [--rows 31]

No GPU is needed: devices are pretended (tests/pretend_devices.py), and the counts are those of the code. An operation
is one that writes memory; on a GPU it is one launch at least. A prompt has 60 to 300 tokens, and so has a completion;
each trial has drafts of the one before, in which every 25th token is another.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.generation.backend_protocol import Request
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.engine.tuning import GPU
from evaluation.generation.sampling import TokenDraws
from tests.evaluation.shapes import shapes_of_trials
from tests.pretend_devices import moved, pretended_devices
from tests.tiny import byte_tokenizer

KINDS = ("to device", "waits", "launches")


def model_of(layers: int) -> Any:
    """Return a small model in the shape of a Llama, with two queries per key."""
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlamaForCausalLM(config).eval().requires_grad_(False)
    assert made.generation_config is not None
    made.generation_config.eos_token_id = None
    return made


def counts_of(model: Any, *, drafting: bool, **options: Any) -> Counter[str]:
    """Return the counts of one pass in the middle, in which each of eight rows decodes."""
    chance = random.Random(1)
    draw = options.pop("draw", None)
    requests = [
        Request([chance.randrange(250) for _ in range(60)], max_new_tokens=12, draw=draw, **options) for _ in range(8)
    ]
    starts: list[Counter[str]] = []
    with pretended_devices() as mode:
        here = copy.deepcopy(model)
        moved(here, torch.device("meta", 1), mode)
        here.register_forward_pre_hook(lambda *_: starts.append(Counter(mode.counts)))
        dict(TransformersGenerator(here, byte_tokenizer(), drafting=drafting).generate(requests))
    middle = len(starts) // 2
    return starts[middle + 1] - starts[middle]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--problems", type=int, default=82)
    parser.add_argument("--rows", type=int, default=31)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| a pass in which eight rows decode | copies to the device | waits | operations, two layers | per layer |")
    print("|---|---|---|---|---|")
    cases: dict[str, dict[str, Any]] = {
        "the likeliest token": {"drafting": False},
        "with guesses": {"drafting": True},
        "drawn": {"drafting": False, "draw": TokenDraws("0", 0.8)},
    }
    for name, options in cases.items():
        two, three = (counts_of(model_of(layers), **options) for layers in (2, 3))
        print(f"| {name} | {' | '.join(str(two[kind]) for kind in KINDS)} | {three['launches'] - two['launches']} |")
    size = f"{args.problems} problems, {args.rows} rows"
    print(f"\n| shapes of attention, {size} | never seen before, per trial | in {args.trials} trials |\n|---|---|---|")
    for name, tuning in (("not padded", replace(GPU, few_shapes=False)), ("padded, as on a GPU", GPU)):
        found = shapes_of_trials(tuning, args.trials, args.problems, args.rows, longest=300)
        new = [len(shapes.difference(*found[:index])) for index, shapes in enumerate(found)]
        print(f"| {name} | {', '.join(map(str, new))} | {sum(new)} |")


if __name__ == "__main__":
    main()
