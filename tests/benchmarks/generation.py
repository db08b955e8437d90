"""How long all of HumanEval takes: transformers' generate, ours without drafts, and ours with those of a search.

    python tests/benchmarks/generation.py [--problems 164] [--history 6] [--repeats 1] [--threads 2]

The family is that of configs/smollm2.yaml (made by tests/fixtures/smollm2.py). The parents, their average and some
candidates of the search space are written first, as a search does, and fill the book of drafts; what is measured is
the next candidate, in bfloat16, greedy, in one process. generate is given prompts sorted by length and its own stop
strings; its best batch size counts. Overhead is what a trial takes besides the model's forward passes: tokenizing,
drafting, bookkeeping, executing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch
import yaml

from evaluation import DraftBook, DraftEntry, Evaluator, ProblemSet, Request, load_problems
from evaluation.generation.book import prompt_key
from evaluation.generation.transformers_backend import TransformersGenerator
from evaluation.prompts import render, stops
from merging import Merger, ParentSet, Recipe
from search import SearchConfig
from search.worker import baselines
from tests.benchmarks.machine import describe_machine

ROOT = Path(__file__).parents[2]


def load_config(models: Path) -> SearchConfig:
    """Return the search over SmolLM2, with all parents in a folder."""
    raw = yaml.safe_load((ROOT / "configs" / "smollm2.yaml").read_text(encoding="utf-8"))
    raw["recipe"]["base_model"] = str(models / "base")
    for entry, name in zip(raw["recipe"]["models"], ("text", "numeric"), strict=True):
        entry["model"] = str(models / name)
    file = models / "benchmark.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    try:
        return SearchConfig.load(file)
    finally:
        file.unlink()


def candidates(config: SearchConfig, count: int) -> list[Recipe]:
    """Return the first candidates that a search begins with."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    trials = (study.ask(config.space.distributions()) for _ in range(count))
    return [config.space.recipe_at(trial.params) for trial in trials]


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
    """Return what our generator writes."""
    found = dict(TransformersGenerator(model, tokenizer, **options).generate(requests))
    return [list(found[index].tokens) for index in range(len(requests))]


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


class Bench:
    """The family, its problems and the book of drafts that a search over them has by now."""

    def __init__(self, config: SearchConfig, problems: ProblemSet, most: int, merger: Merger) -> None:
        self.config, self.problems, self.most, self.merger = config, problems, most, merger
        self.book = DraftBook()

    def requests(self, tokenizer: Any, drafts: bool) -> list[Request]:
        """Return the problems as requests, with the drafts of the book or without."""
        found = []
        for problem in self.problems:
            text = render(problem, "completion", tokenizer)
            tokens = tokenizer.encode(text)
            known = self.book.drafts(prompt_key(text, tokens)) if drafts else ()
            found.append(Request(tokens, stops(problem, "completion"), self.most, known))
        return found

    def write(self, recipe: Recipe, parent: bool) -> tuple[float, int]:
        """Let a model of the history write, and keep that; return its processor seconds and tokens."""
        model, tokenizer = self.merger.apply(recipe), self.merger.tokenizer(recipe)
        requests = self.requests(tokenizer, drafts=True)
        _, seconds, written = timed(lambda: by_us(model, tokenizer, requests), 1)
        for problem, tokens in zip(self.problems, written, strict=True):
            text = render(problem, "completion", tokenizer)
            self.book.add(DraftEntry(prompt_key(text, tokenizer.encode(text)), tuple(tokens), parent))
        return seconds, sum(map(len, written))

    def compare(self, recipe: Recipe, batches: Sequence[int], repeats: int) -> None:
        """Print the table of one candidate."""
        model, tokenizer = self.merger.apply(recipe), self.merger.tokenizer(recipe)
        plain, drafted = (self.requests(tokenizer, drafts) for drafts in (False, True))
        prompts = [list(request.prompt) for request in plain]
        functions: dict[str, Callable[[], list[list[int]]]] = {
            "ours, no guesses": lambda: by_us(model, tokenizer, plain, drafting=False),
            "ours, no drafts (guesses from the text itself)": lambda: by_us(model, tokenizer, plain),
            "ours, drafts of the search": lambda: by_us(model, tokenizer, drafted),
        }
        for batch in batches:
            one = partial(by_transformers, model, tokenizer, prompts, plain[0].stops, self.most, batch)
            functions[f"transformers generate, batch {batch}"] = one
        rows = []
        for name, function in functions.items():
            rows.append((name, *timed(function, repeats)))
            print(f"{name}: {rows[-1][1]:.1f} s, {rows[-1][2]:.1f} s of processors", flush=True)
        theirs = min((row for row in rows if "transformers" in row[0]), key=lambda row: row[1], default=rows[0])
        print("\n| | seconds | processor seconds | times faster | the same completions |\n|---|---|---|---|---|")
        for name, seconds, busy, written in rows:
            faster = f"{theirs[1] / seconds:.1f} ({theirs[2] / busy:.1f})"
            print(f"| {name} | {seconds:.1f} | {busy:.1f} | {faster} | {agreement(written, theirs[3])} |", flush=True)

    def overhead(self, recipe: Recipe) -> None:
        """Print what a trial takes besides forward passes."""
        model, tokenizer = self.merger.apply(recipe), self.merger.tokenizer(recipe)
        with (
            Evaluator(self.problems, allow_code_execution=True, max_new_tokens=self.most) as evaluator,
            forward_seconds(model) as spent,
        ):
            report = evaluator.evaluate(model, tokenizer, drafts=self.book)
        besides = report.seconds - spent[0]
        print(
            f"\na trial with drafts: {report.seconds:.1f} s, {spent[0]:.1f} s of them in forward passes, "
            f"{besides / report.seconds:.1%} besides; pass@1 {report.pass_at_1:.1%}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "models" / "smollm2")
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--history", type=int, default=6, help="candidates before the one that is measured")
    parser.add_argument("--batches", type=int, nargs="*", default=[41, 82, 164], help="of transformers' generate")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    everything = load_problems("humaneval")
    problems = everything.subset(everything.task_ids[:: max(1, len(everything) // args.problems)][: args.problems])
    config = load_config(args.models.resolve())
    known = baselines(config)
    recipes = candidates(config, args.history + 1)
    print(f"{describe_machine()}\n{len(problems)} problems, {args.max_new_tokens} new tokens, {args.threads} threads\n")
    opened = [*config.space.corners(), *(baseline.recipe for baseline in known)]
    with ParentSet.open(opened, torch.device("cpu")) as parents:
        parents.load()
        bench = Bench(config, problems, args.max_new_tokens, Merger(parents))
        history = [*((baseline.recipe, True) for baseline in known), *((recipe, False) for recipe in recipes[:-1])]
        for recipe, parent in history:
            seconds, tokens = bench.write(recipe, parent)
            print(f"before: {tokens} tokens in {seconds:.1f} processor seconds", flush=True)
        bench.compare(recipes[-1], args.batches, args.repeats)
        bench.overhead(recipes[-1])


if __name__ == "__main__":
    main()
