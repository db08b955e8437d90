"""How long one candidate takes to merge on a GPU, against copying the same bytes in the same run.

    python -m tests.gpu.merge_speed [--layers 32] [--folder /dev/shm] [--methods ties linear] [--runs 5]

Three models of the shape of deepseek-coder-6.7b in bfloat16, of random weights made on the card: a base and two
fine-tunes. They are written to a temporary folder (40 GB for all layers, which must fit there; give fewer with
--layers), since parents are files, and removed at the end. Candidates are those of a running search: every number
changes in every tensor, and what depends only on the parents was computed by the first candidate, whose seconds
(reading, counting, compiling) are a column of their own. The parents are first in the card's memory, then in pinned
memory of the host.

A candidate reads its parents and writes the model. Copying that many bytes on the card means, for three parents, to
copy two models; from the host it means to copy the parents to the card. Medians, milliseconds of wall time, each run
from the recipe to the last tensor written and checked. With --device cpu the same runs on the CPU, in plain memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from merging import MergeOptions, Merger, ParentSet, Recipe, choose_kernels
from merging.residency.budget import Budget
from tests.benchmarks.candidates import METHODS, benchmark_recipes, candidate
from tests.benchmarks.machine import describe_machine
from tests.merging.conftest import Family

PLENTY = 1 << 50
REQUIRED = {("ties", "resident"): 1.5, ("ties", "pinned"): 1.2}
"""By what a candidate may take longer than the copy."""


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds."""

    method: str
    place: str
    ours: float
    copy: float
    first: float

    def __str__(self) -> str:
        ratio, needed = self.ours / self.copy, REQUIRED.get((self.method, self.place))
        return (
            f"| {self.method} | {self.place} | {self.ours * 1e3:.1f} | {self.copy * 1e3:.1f} | {ratio:.2f} "
            f"| {f'{needed:.1f}' if needed else ''} | {self.first:.1f} |"
        )


def shape(layers: int, hidden: int, vocabulary: int) -> LlamaConfig:
    """Return a config of the shape of deepseek-coder-6.7b, or of a smaller one of its proportions."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11008 // 4096,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 128),
        num_key_value_heads=max(1, hidden // 128),
        tie_word_embeddings=False,
    )


def write_family(folder: Path, config: LlamaConfig, device: torch.device) -> Family:
    """Write a base and two fine-tunes, one file per layer, with weights made on the device."""
    with torch.device("meta"):
        meta = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    shapes = {name: tensor.shape for name, tensor in meta.state_dict().items()}
    folders = [folder / name for name in ("base", "a", "b")]
    needed, free = 3 * 2 * sum(each.numel() for each in shapes.values()), shutil.disk_usage(folder).free
    if needed > free:
        sys.exit(f"{folder}: three models take {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free; "
                 "give fewer --layers, or another --folder")  # fmt: skip
    files: dict[str, list[str]] = {}
    for name in shapes:
        files.setdefault(".".join(name.split(".")[:3]), []).append(name)
    generator = torch.Generator(device).manual_seed(0)
    for each in folders:
        each.mkdir()
        config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
        config.save_pretrained(each)
    for number, names in enumerate(files.values(), start=1):
        weights = [_weights(shapes[name], generator) for name in names]
        for index, each in enumerate(folders):
            own = {name: family[index] for name, family in zip(names, weights, strict=True)}
            file = each / f"model-{number:05d}-of-{len(files):05d}.safetensors"
            save_file(own, file, metadata={"format": "pt"})
    for each in folders:
        _write_index(each, files)
    return Family(*map(str, folders))


def _weights(shape: torch.Size, generator: torch.Generator) -> list[Tensor]:
    """Return a tensor of the base and of its two fine-tunes, which change few weights much and most a little."""
    normal = [torch.randn(shape, generator=generator, device=generator.device) for _ in range(3)]
    base = normal[0].mul_(0.02)
    return [base.bfloat16().cpu(), *((base + change.pow_(3).mul_(0.0005)).bfloat16().cpu() for change in normal[1:])]


def _write_index(folder: Path, files: dict[str, list[str]]) -> None:
    weight_map = {
        name: f"model-{number:05d}-of-{len(files):05d}.safetensors"
        for number, names in enumerate(files.values(), start=1)
        for name in names
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes, until the device is done with it."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()  # as the live model's tensors are
def copy_on_device(parents: ParentSet, model: PreTrainedModel, sources: int, runs: int) -> float:
    """Return what it takes to read and write as many bytes as a merge of so many sources does, into its model."""
    name = next(iter(parents.checkpoints))
    targets = dict(model.named_parameters())
    names = parents.names(name)
    pairs = [(parents.tensor(name, each), targets[each].data) for each in names]

    def copy() -> None:
        # A merge moves sources + 1 tensors, a copy two; of an odd number the last is half a tensor's.
        for source, target in pairs:
            for _ in range((sources + 1) // 2):
                target.copy_(source)
            if sources % 2 == 0:
                half = target.numel() // 2
                target.view(-1)[:half].copy_(source.view(-1)[:half])

    copy()
    return median(timed(parents.device, copy) for _ in range(runs))


def copy_from_host(parents: ParentSet, sources: int, runs: int) -> float:
    """Return what it takes to bring so many parents from where they are kept to the device."""
    kept = list(_kept(parents, sources))
    target = torch.empty(max(each.numel() for each in kept), dtype=kept[0].dtype, device=parents.device)

    def copy() -> None:
        for source in kept:
            target[: source.numel()].copy_(source, non_blocking=True)

    copy()
    return median(timed(parents.device, copy) for _ in range(runs))


def _kept(parents: ParentSet, sources: int) -> Iterator[Tensor]:
    for name in list(parents.checkpoints)[:sources]:
        for each in parents.names(name):
            kept = parents.kept(name, each)
            assert kept is not None, f"{each} of {name} has no room in the host's memory"
            yield kept.view(-1)


def measure(recipes: dict[str, Recipe], device: torch.device, place: str, runs: int) -> Iterator[Row]:
    """Yield a line for each recipe, by its method, the parents being in one place."""
    host = device.type == "cpu" or place == "pinned"
    with ParentSet.open(
        recipes.values(), MergeOptions(str(device), memory_budget=Budget(0 if host else PLENTY, PLENTY))
    ) as parents:
        parents.load()
        merger = Merger(parents, kernels=choose_kernels(parents.elements, device, wanted=True).kernels)
        for method, recipe in recipes.items():
            first = timed(device, lambda recipe=recipe: merger.apply(recipe))
            candidates = [candidate(recipe, number + 1) for number in range(runs)]
            ours = median(timed(device, lambda each=each: merger.apply(each)) for each in candidates)
            sources = len(merger.steps(recipe)[0].sources())
            if place == "pinned":
                copy = copy_from_host(parents, sources, runs)
            else:
                copy = copy_on_device(parents, merger.apply(recipe), sources, runs)
            yield Row(method, place, ours, copy, first)


def describe(device: torch.device) -> str:
    """Return the card, its driver and the versions of what does the work, in one line."""
    if device.type != "cuda":
        return describe_machine()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False) if shutil.which(query[0]) else None
    driver = found.stdout.split("\n")[0] if found and found.returncode == 0 else "unknown"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "triton", "transformers"))
    return f"{torch.cuda.get_device_name(device)}, driver {driver}, CUDA {torch.version.cuda}, {versions}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=32256)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["ties", "dare_ties", "linear", "slerp"], choices=METHODS)
    parser.add_argument("--folder", help="where the models are written for the time being")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"there is no {options.device} here; --device cpu --layers 2 --hidden 256 shows that all of this runs")
    device = torch.device(options.device)
    config = shape(options.layers, options.hidden, options.vocabulary)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="merge-speed-") as folder:
        texts = benchmark_recipes(write_family(Path(folder), config, device))
        recipes = {method: Recipe.parse(texts[method]) for method in options.methods}
        print(f"{describe(device)}\n3 models of {options.layers} layers, hidden {options.hidden}, bfloat16\n")
        print("| method | parents | candidate, ms | copy, ms | ratio | allowed | first, s |")
        print("|---|---|---|---|---|---|---|")
        for place in ("resident", "pinned") if device.type == "cuda" else ("resident",):
            for row in measure(recipes, device, place, options.runs):
                print(row, flush=True)
    if device.type == "cuda":
        print(f"\nMost memory on the card: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
