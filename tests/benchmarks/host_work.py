"""What the host does in a pass besides the forward pass: for a card, all of it but the wait is time without work.

    python -m tests.benchmarks.host_work [--rows 82]

A model of one tiny layer writes completions that an earlier, slightly different one has drafted, so that guesses are
made, verified and refused as in a search. The least that a pass of a 7B takes on an H200 is 13.5 GB / 4.8 TB/s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evaluation import Request
from evaluation.generation.drafting.drafter import Drafter
from evaluation.generation.engine.active_request import ActiveRequest
from evaluation.generation.engine.batch import Batch
from evaluation.generation.engine.generator import TransformersGenerator
from evaluation.generation.engine.tuning import CPU
from merging import load_model, load_tokenizer
from tests.benchmarks.machine import describe_machine
from tests.tiny import TinyModel, save_tiny_model

H200_PASS_MS = 13.5e9 / 4.8e12 * 1e3
# In the order of a pass; each is timed without what it calls of the others.
PARTS: tuple[tuple[str, type, str], ...] = (
    ("proposing drafts", Drafter, "propose"),
    ("learning from what held", Drafter, "learn"),
    ("verifying", ActiveRequest, "accept"),
    ("laying out pieces", Batch, "pieces"),
    ("the forward pass, and its numbers", TransformersGenerator, "_launch"),
    ("admitting, moving, ending rows", Batch, "admit"),
    ("admitting, moving, ending rows", Batch, "share"),
    ("admitting, moving, ending rows", Batch, "note_ends"),
    ("reading the answers", TransformersGenerator, "_finish"),
)


class Clock:
    """Seconds of the processor by part, without those of the parts within; other programs do not count."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.passes = 0
        self._inner = [0.0]

    def timed(self, what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method that counts."""

        def call(*given: Any, **named: Any) -> Any:
            self.passes += method.__name__ == "_launch"
            self._inner.append(0.0)
            start = time.thread_time()
            try:
                return method(*given, **named)
            finally:
                took = time.thread_time() - start
                self.seconds[what] += took - self._inner.pop()
                self._inner[-1] += took

        return call


@contextmanager
def clocked() -> Iterator[Clock]:
    """Time the parts."""
    clock = Clock()
    with ExitStack() as patches:
        for what, owner, name in PARTS:
            patches.enter_context(patch.object(owner, name, clock.timed(what, getattr(owner, name))))
        yield clock


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=82)
    parser.add_argument("--tokens", type=int, default=300, help="of each completion")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = [save_tiny_model(Path(folder) / str(seed), TinyModel(seed=seed, layers=1)) for seed in (0, 1)]
        tokenizer = load_tokenizer(models[0])
        prompts = [tokenizer.encode(f"def f_{row}(x):\n    # {'ab' * (row % 40)}\n") for row in range(options.rows)]
        drafts: list[tuple[tuple[int, ...], ...]] = [()] * options.rows
        for name in models:
            requests = [
                Request(prompt, max_new_tokens=options.tokens, drafts=draft)
                for prompt, draft in zip(prompts, drafts, strict=True)
            ]
            generator = TransformersGenerator(
                load_model(name), tokenizer, options.rows, tuning=replace(CPU, overlaps=True)
            )
            with clocked() as clock:
                written = dict(generator.generate(requests))
            drafts = [(tuple(written[row].tokens),) for row in range(options.rows)]
    print(f"{describe_machine()}\n\n{options.rows} rows, {clock.passes} passes, with drafts\n")
    print("| part | ms per pass | of the least pass of a 7B on an H200 |\n|---|---:|---:|")
    for what in dict.fromkeys(what for what, *_ in PARTS):
        took = clock.seconds[what] / clock.passes * 1e3
        print(f"| {what} | {took:.2f} | {took / H200_PASS_MS:.0%} |")


if __name__ == "__main__":
    main()
