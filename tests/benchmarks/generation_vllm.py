"""How long vLLM takes to write all of HumanEval greedily: by itself, and with the drafts of a search.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.generation_vllm [--trials 24] [--problems 164] [--repeats 1]

In an environment with vLLM (.ci/install-vllm-cpu makes one for a CPU). The search is that of generation.py, and so are
the candidate and its drafts. Plain vLLM is `LLM.generate` as a person would call it, in a process of its own, on a
checkpoint of the candidate; ours takes the candidate's weights into a running engine, which is in its seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evaluation import Request
from evaluation.generation.vllm_backend import VllmBackend
from tests.benchmarks.generation import Stage, agreement, arguments, set_up
from tests.benchmarks.machine import describe_machine

# In one process, which was the faster way here. Seconds count only `generate`.
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


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, and what it costs."""

    backend: VllmBackend
    pid: int

    def round(self, stage: Stage, requests: Sequence[Request], plain: bool) -> tuple[Round, list[list[int]]]:
        """Return how long the stage's candidate takes, and what it writes."""
        started, worked = time.perf_counter(), self.processor_seconds()
        found = dict(self.backend.generate(stage.model, stage.tokenizer, requests, plain=plain))
        took = Round(time.perf_counter() - started, self.processor_seconds() - worked)
        return took, [list(found[index].tokens) for index in range(len(requests))]

    def processor_seconds(self) -> float:
        """Return the processor time of this process and the engine's so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(stage: Stage, engine: Engine, repeats: int) -> None:
    """Print the table."""
    known, unknown = (stage.requests(drafts) for drafts in (True, False))
    print(
        "\n| | seconds | processor seconds | times faster | tokens | the same completions |\n|---|---|---|---|---|---|"
    )
    theirs, right = by_vllm(stage.model, stage.tokenizer, unknown, repeats)
    print_row("vllm", theirs, theirs, right, right)
    for name, requests, plain in (
        ("ours, no guesses", unknown, True),
        ("ours, no drafts (guesses from the text itself)", unknown, False),
        ("ours, drafts of the search", known, False),
    ):
        made = [engine.round(stage, requests, plain) for _ in range(repeats)]
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
    args = arguments(__doc__).parse_args()
    threads = torch.get_num_threads()
    print(f"{describe_machine()}, vllm-cpu {version('vllm-cpu')}")
    print(f"{args.problems} problems, {args.max_new_tokens} new tokens, {threads} threads\n", flush=True)
    with set_up(args) as stage, closing(VllmBackend()) as backend:
        engine = Engine(backend, backend.engine(stage.model, stage.tokenizer, stage.requests(drafts=False)).pid)
        table(stage, engine, args.repeats)


if __name__ == "__main__":
    main()
