"""What a memory plan counts for merging on a CPU, against the highest resident set, by method.

    python -m tests.benchmarks.merging_peaks [--methods NAME ...]

Three parents of 61M parameters in bfloat16, with a vocabulary of 49k tokens; first whole models, all tensors of which
differ, and then adapters of one base. Parents are read from their files for each merge. Each method runs in a process
of its own: beside a live model it merges two candidates, the first of which computes the statistics. What it keeps of
the parents, its tables and what it needs meanwhile count together; the parents' files, which are mapped, do not.
Methods that are calibrated are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from evaluation.generation.out_of_memory import release_unused
from merging import MergeOptions, Merger, ParentSet, Recipe
from merging.methods import METHODS, Scope
from search.planned_memory import Generation, demand_of
from tests.benchmarks.machine import describe_machine
from tests.tiny import byte_tokenizer

CONFIG = LlamaConfig(
    hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
    vocab_size=49_152, tie_word_embeddings=True, dtype="bfloat16",
)  # fmt: skip
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_parents(folder: Path, adapters: bool) -> list[str]:
    """Write a base of random weights, and three models like it or three adapters; return the four names."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    tokenizer, names = byte_tokenizer(), [str(folder / "base")]
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for number in range(3):
        place = folder / str(number)
        if adapters:
            model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
            settings = peft.LoraConfig(r=8, target_modules=LINEAR, init_lora_weights=False)
            peft.get_peft_model(model, settings).save_pretrained(place)
            names.append(f"{names[0]}+{place}")
        else:
            with torch.no_grad():
                for weight in base.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.01)
            base.save_pretrained(place)
            tokenizer.save_pretrained(place)
            names.append(str(place))
    return names


def recipe_of(method: str, names: list[str], weight: float) -> Recipe:
    """Return a recipe of a method, with densities and this weight where it has them."""
    it, (base, *others) = METHODS[method], names
    if most := it.inputs[1]:
        others = others[: most - (it.base == "required")]
    values = {"weight": weight, "density": 0.6, "t": weight, "select_topk": 0.6}
    known = [each for each in it.parameters if each.key in values]
    shared = {each.key: values[each.key] for each in known if each.scope is Scope.SHARED}
    own = {each.key: values[each.key] for each in known if each.scope is not Scope.SHARED}
    content: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": each, "parameters": own} for each in others],
        "parameters": shared,
        "dtype": "bfloat16",
    }
    if it.base == "required":
        content["base_model"] = base
    return Recipe.from_dict(content, "merging_peaks")


def anonymous() -> int:
    """Return the bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


@contextmanager
def highest(found: list[int]) -> Iterator[None]:
    """Append the highest number of anonymous bytes while the context is open."""
    over, most = threading.Event(), [anonymous()]

    def watch() -> None:
        while not over.wait(0.002):
            most.append(max(most.pop(), anonymous()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        found.append(max(*most, anonymous()))


def measure(method: str, names: list[str]) -> dict[str, int]:
    """Return what is planned, in its parts, and what two candidates took."""
    first, second = (recipe_of(method, names, weight) for weight in (0.5, 0.7))
    average, found = Recipe.average(names[1:]), list[int]()
    with ParentSet.open([first, second, average], MergeOptions(memory_budget=0)) as parents:
        merger = Merger(parents)
        demand = demand_of(merger, [first, second], Generation("transformers", 256, 1))
        parents.load()
        merger.apply(average)
        release_unused()
        before = anonymous()
        for recipe in (first, second):
            with highest(found):
                merger.apply(recipe)
    (share,) = demand.shares
    return {
        "kept": share.statistics, "tables": demand.host_statistics, "working": share.working,
        "measured": max(found) - before,
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[name for name, it in METHODS.items() if not it.observes])
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.child:
        print(json.dumps(measure(options.methods[0], options.child)))
        return
    print(f"{describe_machine()}\n")
    print("| parents | method | kept, MB | tables | meanwhile | planned | measured |", flush=True)
    print("|---|---|---:|---:|---:|---:|---:|")
    for parents in ("whole models", "adapters"):
        with tempfile.TemporaryDirectory() as folder:
            names = make_parents(Path(folder), parents == "adapters")
            for method in options.methods:
                command = [sys.executable, "-m", "tests.benchmarks.merging_peaks", "--methods", method, "--child"]
                done = subprocess.run([*command, *names], stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                planned = found["kept"] + found["tables"] + found["working"]
                cells = " | ".join(f"{found[part] / 1e6:.0f}" for part in ("kept", "tables", "working"))
                compared = f"{planned / 1e6:.0f} | {found['measured'] / 1e6:.0f}"
                print(f"| {parents} | {method} | {cells} | {compared} |", flush=True)


if __name__ == "__main__":
    main()
