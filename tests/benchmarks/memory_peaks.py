"""The memory plan against measured peaks on a CPU: three parents, their merge, and a batch that fills its cache.

    python -m tests.benchmarks.memory_peaks [--only NUMBER ...]
    python -m tests.benchmarks.memory_peaks --ascent  # a step of an ascent instead, in both of its ways

For each shape a process of its own makes a plan of headers, does what was planned for, and reads the highest resident
set (VmHWM) beyond that of the program. Weights are random. All rows read a reference first, so that a pass has as many
logits as a plan counts with, and then write to the end of their slots. A step of an ascent reads as many solutions as
make its largest batch, and merges in two places. What merging takes besides is measured by merging_peaks.py.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from evaluation import Request, Solution
from evaluation.generation.backends import make_backend
from evaluation.generation.out_of_memory import make_room_on_host
from evaluation.generation.room import Room
from merging import MergeOptions, Merger, ParentSet, Recipe, load_tokenizer
from search.ascent.ascent import losses_with_gradients
from search.ascent.checkpointing import checkpointed
from search.free_memory import machine_of
from search.memory_plan import CACHE, FREE, LIVE, MERGING, PARENTS, PASS, MemoryPlan
from search.planned_memory import Generation, Limits, Planner, budgets_of, demand_of
from tests.benchmarks.machine import describe_machine
from tests.tiny import byte_tokenizer

PROMPT, REFERENCE = 8, 247


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured: a model, what it computes in, how many rows, and whether parents stay in memory."""

    name: str
    config: PreTrainedConfig
    compute: torch.dtype | None = None
    rows: int = 8
    parents_limit: int | None = None


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, vocabulary: int) -> dict[str, int]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocabulary,
    }  # fmt: skip


SHAPES = (
    Shape("Llama, 60M, 32k tokens", LlamaConfig(**_sizes(512, 1408, 8, 8, 32_256), dtype="float32"), rows=32),
    Shape(
        "Llama with grouped queries, 61M, 49k tokens, in bfloat16",
        LlamaConfig(**_sizes(512, 1408, 4, 8, 49_152), num_key_value_heads=2, dtype="bfloat16"),
        rows=4,
    ),
    Shape(
        "the same, computing in float32",
        LlamaConfig(**_sizes(512, 1408, 4, 8, 49_152), num_key_value_heads=2, dtype="bfloat16"),
        torch.float32,
    ),
    Shape(
        "Qwen2, 120M, 152k tokens",
        Qwen2Config(
            **_sizes(384, 1024, 4, 6, 152_064), num_key_value_heads=2, tie_word_embeddings=False, dtype="float32"
        ),
    ),
    Shape("GPT-NeoX, 77M, 50k tokens", GPTNeoXConfig(**_sizes(512, 2048, 8, 8, 50_304), dtype="float32")),
    Shape(
        "Llama, 113M, 32k tokens, parents from files",
        LlamaConfig(**_sizes(768, 2048, 9, 12, 32_256), dtype="float32"),
        rows=16,
        parents_limit=0,
    ),
)


def make_parents(shape: Shape, folder: Path) -> list[str]:
    """Write a model of random weights, and two more that share its files."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shape.config, dtype=shape.config.dtype)  # type: ignore[no-untyped-call]
    first = folder / "0"
    model.save_pretrained(first)
    byte_tokenizer().save_pretrained(first)
    for number in (1, 2):
        (folder / str(number)).mkdir()
        for file in first.iterdir():
            (folder / str(number) / file.name).symlink_to(file)
    return [str(folder / str(number)) for number in range(3)]


def status(key: str) -> int:
    """Return a number of bytes that the system tells of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


class Filled(Exception):
    """The cache is full: what follows adds nothing."""


def fill(requests: Sequence[Request], model: PreTrainedModel, folder: str, room: Room) -> None:
    """Generate until every row has read its reference, which fills the cache."""
    left = set(range(len(requests)))

    def read(index: int, _: float) -> None:
        left.discard(index)
        if not left:
            raise Filled

    backend = make_backend("transformers", None, room)
    with suppress(Filled), closing(backend.generate(model, load_tokenizer(folder), requests, read)) as completions:
        for _ in completions:
            assert left


def measure(shape: Shape, names: list[str]) -> tuple[MemoryPlan, int]:
    """Return the plan, and by how much the resident set grew while what it plans was done."""
    recipe = Recipe.average(names)
    requests = [
        Request([2 + row % 200] * PROMPT, (), REFERENCE + 1, reference=[3] * REFERENCE) for row in range(shape.rows)
    ]
    generation = Generation("transformers", PROMPT + REFERENCE + 1, shape.rows)
    with ParentSet.open(recipe, MergeOptions(memory_budget=0)) as parents:
        merger = Merger(parents, compute_dtype=shape.compute)
        devices = parents.placement.devices
        planner = Planner(merger, [recipe], generation, machine_of(devices), limits=Limits(shape.parents_limit))
        plan = planner.plan(shape.compute and shape.compute.itemsize)
        warm = AutoModelForCausalLM.from_config(tiny(shape.config), dtype=shape.config.dtype).eval()  # type: ignore[no-untyped-call]
        fill(requests[:2], warm, names[0], Room())  # what the libraries need once
        del warm
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
        parents.keep_within(budgets_of(plan, devices))
        parents.load()
        fill(requests, merger.apply(recipe), names[0], plan.room)
        return plan, status("VmHWM") - before


def measure_ascent(shape: Shape, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return what is planned for a step, and by how much the resident set grew, by way."""
    middle, low, high = (
        Recipe.from_dict(
            {
                "merge_method": "linear",
                "models": [
                    {"model": name, "parameters": {"weight": weight if name == names[0] else 1.0}} for name in names
                ],
                "dtype": str(shape.config.dtype).removeprefix("torch."),
            },
            "memory_peaks",
        )
        for weight in (1.0, 0.9, 1.1)
    )
    length = PROMPT + REFERENCE + 1
    solutions = [Solution(str(index), (2 + index,) * PROMPT, (3,) * (REFERENCE + 1)) for index in range(8)]
    found = {}
    with ParentSet.open(middle, MergeOptions()) as parents:
        merger = Merger(parents, compute_dtype=shape.compute)
        generation, itemsize = Generation("transformers", length, shape.rows), shape.compute and shape.compute.itemsize
        (share,) = demand_of(merger, [middle], generation, ascends=True, itemsize=itemsize).shares
        parents.load()
        model = merger.apply(middle)
        losses_with_gradients(model, [Solution("first", (2, 3), (4, 5))])  # what the libraries need once
        merger.slopes(merger.take_gradients(), low, high)
        for way in ("tensor by tensor", "whole gradient"):
            gc.collect()
            make_room_on_host(1 << 40)
            before = status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
            if way == "whole gradient":
                losses_with_gradients(model, solutions)
                merger.slopes(merger.take_gradients(), low, high)
            else:
                with merger.slopes_in_backward([(low, high)]), checkpointed(model):
                    losses_with_gradients(model, solutions)
            planned = share.gradient if way == "whole gradient" else share.gradient_by_tensor
            found[way] = planned, status("VmHWM") - before
    return found


def tiny(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config of a small model of the same kind."""
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size = 1, 512
    return small


def in_child(number: int, *options: str) -> Any:
    """Return what a process of its own measures of a shape."""
    with tempfile.TemporaryDirectory() as folder:
        make_parents(SHAPES[number - 1], Path(folder))
        command = [sys.executable, "-m", "tests.benchmarks.memory_peaks", "--only", str(number), "--child", folder]
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, action="append", help="the number of a shape; may be repeated")
    parser.add_argument("--ascent", action="store_true", help="measure a step of an ascent")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = options.only or range(1, len(SHAPES) + 1)
    if options.child:
        names = [str(options.child / str(number)) for number in range(3)]
        if options.ascent:
            print(json.dumps(measure_ascent(SHAPES[chosen[0] - 1], names)))
            return
        plan, peak = measure(SHAPES[chosen[0] - 1], names)
        parts = {part.what: part.bytes for part in plan.places[-1].parts if part.what not in {FREE, MERGING}}
        print(json.dumps([parts, peak, plan.rows]))
        return
    print(f"{describe_machine()}\n")
    if options.ascent:
        print("| shape | way | planned, MB | measured, MB | off by |", flush=True)
        print("|---|---|---:|---:|---:|")
        for number in chosen:
            for way, (planned, peak) in in_child(number, "--ascent").items():
                cells = f"{planned / 1e6:.0f} | {peak / 1e6:.0f} | {planned / peak - 1:+.0%}"
                print(f"| {SHAPES[number - 1].name} | {way} | {cells} |", flush=True)
        return
    print("| shape | rows | parents | live | keys, values | pass | planned, MB | measured, MB | off by |", flush=True)
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for number in chosen:
        shape = SHAPES[number - 1]
        parts, peak, rows = in_child(number)
        planned = sum(parts.values())
        cells = " | ".join(f"{parts.get(what, 0) / 1e6:.0f}" for what in (PARENTS, LIVE, CACHE, PASS))
        print(
            f"| {shape.name} | {rows} | {cells} | {planned / 1e6:.0f} | {peak / 1e6:.0f} | {planned / peak - 1:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
