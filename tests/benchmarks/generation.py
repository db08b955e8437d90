"""How long all of HumanEval takes: transformers' generate, ours without drafts, and ours with those of a search.

    python -m tests.benchmarks.generation [--trials 24] [--problems 164] [--repeats 1] [--threads 2]

The family is that of configs/smollm2.yaml (made by tests/fixtures/smollm2.py). A search over it runs first, of so many
trials on all of HumanEval, and is kept for the next time; what is measured is the candidate that it would try next, in
bfloat16, greedy, in one process. generate is given prompts sorted by length and its own stop strings; its best batch
size counts. Overhead is what a trial takes besides the model's forward passes: tokenizing, drafting, bookkeeping,
executing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import yaml

from evaluation import DraftStore, Evaluator, ProblemSet, Request, load_problems
from evaluation.generation.drafting.draft_store import prompt_key
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.prompts import render, stops
from merging import MergeOptions, Merger, ParentSet, Recipe
from search import SearchConfig, run_search
from search.results import ResultsFolder
from search.study.drafts import SharedDrafts
from search.study.record import TrialRecord
from search.study.samplers import Proposer
from search.views.terminal import terminal
from tests.benchmarks.machine import describe_machine

ROOT = Path(__file__).parents[2]


def load_config(models: Path, most: int) -> SearchConfig:
    """Return the search over SmolLM2, with all parents in a folder, on all problems, of so many new tokens."""
    raw = yaml.safe_load((ROOT / "configs" / "smollm2.yaml").read_text(encoding="utf-8"))
    raw["recipe"]["base_model"] = str(models / "base")
    for entry, name in zip(raw["recipe"]["models"], ("text", "numeric"), strict=True):
        entry["model"] = str(models / name)
    raw["evaluation"] |= {"max_new_tokens": most, "batch_size": None, "report_fraction": 0}
    return SearchConfig.parse(yaml.safe_dump(raw), "configs/smollm2.yaml").updated(
        "evaluation", allow_code_execution=True
    )


def searched(config: SearchConfig, folder: Path, trials: int) -> tuple[DraftStore, Recipe]:
    """Run a search, or take one that ran; return its drafts and the candidate that it would try next."""
    with terminal() as progress:
        run_search(config, folder, trials=trials, progress=progress)
    results = ResultsFolder.open(folder)
    with results.working() as store:
        drafts = SharedDrafts(store)
        drafts.sync()
        records = store.changed()[0]
    number = sum(record.kind == "trial" for record in records)
    proposer = Proposer(config.search.sampler, config.search.seed, config.space.distributions())
    proposal = proposer.propose(number, [*records, TrialRecord("trial", number)])
    return drafts, config.space.recipe_at(proposal.parameters)


def by_transformers(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], stop_texts: Sequence[str], most: int, batch: int
) -> list[list[int]]:
    """Return what `generate` writes, with its own stop strings, prompts of like length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    written: dict[int, list[int]] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(prompts[row]) for row in rows)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompts[row])) + prompts[row] for row in rows])
        mask = torch.tensor([[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows])
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            stop_strings=list(stop_texts),
            tokenizer=tokenizer,
            pad_token_id=pad,
        )
        written |= {row: out[index, width:].tolist() for index, row in enumerate(rows)}
    return [written[row] for row in range(len(prompts))]


def by_us(model: Any, tokenizer: Any, requests: Sequence[Request], **options: Any) -> list[list[int]]:
    """Return what our generator writes, the longest prompts first, as the evaluator orders them."""
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
    generator = TransformersGenerator(model, tokenizer, **options)
    found = {order[place]: one for place, one in generator.generate([requests[index] for index in order])}
    return [list(found[index].tokens) for index in range(len(requests))]


def without_numbered_text(model: Any, tokenizer: Any, requests: Sequence[Request]) -> list[list[int]]:
    """Return the same, where no guess is made of text that repeats itself except for its numbers."""
    with patch("evaluation.generation.engine.generator.digits_of", lambda _: {}):
        return by_us(model, tokenizer, requests)


def timed(function: Callable[[], list[list[int]]], repeats: int) -> tuple[float, float, list[list[int]]]:
    """Return the median wall and processor seconds of a function, and what it returns."""
    taken, busy = [], []
    for _ in range(repeats):
        started, spent = time.perf_counter(), time.process_time()
        written = function()
        taken.append(time.perf_counter() - started)
        busy.append(time.process_time() - spent)
    return median(taken), median(busy), written


@contextmanager
def forward_seconds(model: Any) -> Iterator[list[float]]:
    """Add up the seconds inside the model's forward."""
    spent = [0.0]

    def begin(*_: Any) -> None:
        spent[0] -= time.perf_counter()

    def end(*_: Any) -> None:
        spent[0] += time.perf_counter()

    with model.register_forward_pre_hook(begin), model.register_forward_hook(end):
        yield spent


def agreement(one: Sequence[list[int]], other: Sequence[list[int]]) -> str:
    """Return how many completions are the same, up to the padding after them."""
    same = sum(a[: len(b)] == b or b[: len(a)] == a for a, b in zip(one, other, strict=True))
    return f"{same} of {len(one)}"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a table is measured on: the candidate that a search would try next, and what the search has by then."""

    problems: ProblemSet
    most: int
    store: DraftStore
    model: Any
    tokenizer: Any

    def requests(self, drafts: bool) -> list[Request]:
        """Return the problems as requests, with the drafts of the search or without."""
        found = []
        for problem in self.problems:
            text = render(problem, "completion", self.tokenizer)
            tokens = self.tokenizer.encode(text)
            known = self.store.drafts(prompt_key(text, tokens)) if drafts else ()
            found.append(Request(tokens, stops(problem, "completion"), self.most, known))
        return found


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return the arguments that both tables of completions take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models" / "smollm2")
    parser.add_argument("--search", type=Path, default=ROOT / "results" / "benchmark", help="results folder")
    parser.add_argument("--trials", type=int, default=24, help="of the search before the candidate")
    parser.add_argument("--problems", type=int, default=164, help="on which the candidate is measured")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=1)
    return parser


@contextmanager
def set_up(args: argparse.Namespace) -> Iterator[Stage]:
    """Search, and yield what is measured then."""
    everything = load_problems("humaneval")
    problems = everything.subset(everything.task_ids[:: max(1, len(everything) // args.problems)][: args.problems])
    config = load_config(args.models.resolve(), args.max_new_tokens)
    store, candidate = searched(config, args.search, args.trials)
    with ParentSet.open([candidate], MergeOptions(torch.device("cpu"))) as parents:
        parents.load()
        merger = Merger(parents)
        yield Stage(problems, args.max_new_tokens, store, merger.apply(candidate), merger.tokenizer(candidate))


def compare(stage: Stage, batches: Sequence[int], repeats: int) -> None:
    """Print the table."""
    model, tokenizer = stage.model, stage.tokenizer
    plain, drafted = (stage.requests(drafts) for drafts in (False, True))
    prompts = [list(request.prompt) for request in plain]
    functions: dict[str, Callable[[], list[list[int]]]] = {
        "ours, no guesses": lambda: by_us(model, tokenizer, plain, drafting=False),
        "ours, no drafts (guesses from the text itself)": lambda: by_us(model, tokenizer, plain),
        "ours, no drafts and no guesses of numbered text": lambda: without_numbered_text(model, tokenizer, plain),
        "ours, drafts of the search": lambda: by_us(model, tokenizer, drafted),
    }
    for batch in batches:
        one = partial(by_transformers, model, tokenizer, prompts, plain[0].stops, stage.most, batch)
        functions[f"transformers generate, batch {batch}"] = one
    rows = []
    for name, function in functions.items():
        passes: list[int] = []
        with model.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1)):
            rows.append((name, *timed(function, repeats), len(passes) // repeats))
        print(f"{name}: {rows[-1][1]:.1f} s, {rows[-1][2]:.1f} s of processors", flush=True)
    theirs = min((row for row in rows if "transformers" in row[0]), key=lambda row: row[1], default=rows[0])
    print("\n| | seconds | processor seconds | passes | times faster | tokens | the same completions |")
    print("|---|---|---|---|---|---|---|")
    for name, seconds, busy, written, count in rows:
        faster = f"{theirs[1] / seconds:.1f} ({theirs[2] / busy:.1f})"
        tokens = sum(map(len, written))
        print(
            f"| {name} | {seconds:.1f} | {busy:.1f} | {count} | {faster} | {tokens} | {agreement(written, theirs[3])} |"
        )


def overhead(stage: Stage) -> None:
    """Print what a trial takes besides forward passes."""
    with (
        Evaluator(stage.problems, allow_code_execution=True, max_new_tokens=stage.most) as evaluator,
        forward_seconds(stage.model) as spent,
    ):
        report = evaluator.evaluate(stage.model, stage.tokenizer, drafts=stage.store)
    besides = report.seconds - spent[0]
    print(
        f"\na trial with drafts: {report.seconds:.1f} s, {spent[0]:.1f} s of them in forward passes, "
        f"{besides / report.seconds:.1%} besides; pass@1 {report.pass_at_1:.1%}"
    )


def main() -> None:
    """Print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[41, 82, 164], help="of transformers' generate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{describe_machine()}\n{args.problems} problems, {args.max_new_tokens} new tokens, {args.threads} threads\n")
    with set_up(args) as stage:
        compare(stage, args.batches, args.repeats)
        overhead(stage)


if __name__ == "__main__":
    main()
