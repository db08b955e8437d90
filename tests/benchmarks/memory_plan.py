"""The memory plan of real models on real cards, as arithmetic: nothing is run, and no card is needed.

    python -m tests.benchmarks.memory_plan

prints the table of docs/gpu-figures.md. Sizes are those of the models' configs; a search has three parents and one live
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console

from evaluation import BackendName
from evaluation.generation.pass_memory import ModelShape
from merging.residency.streaming import streaming_bytes
from search.ascent.loss import BackwardPass
from search.cli.memory_table import memory_table
from search.memory_demand import Demand, GradientRoom, MachineMemory, Memory, Share
from search.memory_plan import CACHE, ENGINE, LIVE, PARENTS, PASS, WEIGHTS, MemoryPlan, PlacePlan, plan_memory
from search.planned_memory import beside_engine

CARDS = {24: 24_564, 48: 46_068, 80: 81_559, 141: 143_771}
"""The memory of cards in MiB, by the gigabytes that they are sold with: RTX 4090, L40S, A100 or H100, H200."""

PARENTS_OF_SEARCH, ROWS, PROMPT, NEW_TOKENS = 3, 82, 598, 512
"""A search on half of HumanEval, whose longest prompt has so many tokens."""

# What a process takes of a card before anything is on it.
_CONTEXT = 500_000_000
_HOST = Memory("host", 256_000_000_000, 240_000_000_000)


@dataclass(frozen=True, slots=True)
class Model:
    """A model's shape, and whether its projections have biases."""

    name: str
    shape: ModelShape
    biases: bool = False

    def layer(self) -> Iterator[int]:
        """Yield the elements of each tensor of a layer."""
        shape, kv = self.shape, self.shape.kv_heads * self.shape.head_size
        yield from (shape.hidden**2, shape.hidden * kv, shape.hidden * kv, shape.hidden**2)
        yield from [shape.hidden * shape.intermediate] * 3
        yield from (shape.hidden, shape.hidden)
        if self.biases:
            yield from (shape.hidden, kv, kv)

    def on_device(self, index: int, devices: int) -> list[int]:
        """Return the elements of the tensors on one of several devices: layers in equal parts."""
        layers = self.shape.layers * (index + 1) // devices - self.shape.layers * index // devices
        table = self.shape.vocabulary * self.shape.hidden
        first, last = [table] * (index == 0), [self.shape.hidden, table] * (index == devices - 1)
        return [*first, *(size for _ in range(layers) for size in self.layer()), *last]

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(self.on_device(0, 1))


def _model(name: str, sizes: tuple[int, int, int, int, int, int], *, biases: bool = False) -> Model:
    layers, hidden, intermediate, vocabulary, heads, kv_heads = sizes
    return Model(
        name, ModelShape(layers, hidden, intermediate, vocabulary, heads, kv_heads, hidden // heads, 2), biases
    )


MODELS = (
    _model("deepseek-coder-6.7b", (32, 4096, 11_008, 32_256, 32, 32)),
    _model("Qwen2.5-7B", (28, 3584, 18_944, 152_064, 28, 4), biases=True),
    _model("Llama-3.1-8B", (32, 4096, 14_336, 128_256, 32, 8)),
)
LARGE = _model("Llama-3.1-70B", (80, 8192, 28_672, 128_256, 64, 8))


def demand_of(
    model: Model, backend: BackendName = "transformers", parents: int = PARENTS_OF_SEARCH, devices: int = 1
) -> Demand:
    """Return what a search over a model's fine-tunes in 16 bits wants."""
    shares = []
    for index in range(devices):
        elements = model.on_device(index, devices)
        size = 2 * sum(elements)
        streaming = streaming_bytes([[2 * each] * parents for each in elements], from_files=True)
        has_engine = backend == "vllm"
        layers = sum(each == model.shape.hidden * model.shape.intermediate for each in elements) // 3
        backward = BackwardPass(
            model.shape, layers, PROMPT + NEW_TOKENS, sum(elements), max(elements), index == devices - 1
        )
        share = Share(
            parents=parents * size,
            live=beside_engine(2 * max(elements), on_gpu=True) if has_engine else size,
            slot=model.shape.slot_bytes // model.shape.layers * layers,
            streaming=streaming.device,
            staging=streaming.host,
            gradient=0 if has_engine else backward.whole,
            gradient_by_tensor=0 if has_engine else backward.by_tensor,
            engine=size if has_engine else 0,
            has_head=index == devices - 1,
        )
        shares.append(share)
    return Demand(tuple(shares), model.shape, PROMPT + NEW_TOKENS, ROWS)


def machine_of(card: int, devices: int = 1, host: Memory = _HOST) -> MachineMemory:
    """Return a machine with cards of so many gigabytes, on which nothing is but this process."""
    total = CARDS[card] << 20
    return MachineMemory(host, tuple(Memory(f"cuda:{index}", total, total - _CONTEXT) for index in range(devices)))


def plans() -> Iterator[tuple[str, Model, BackendName, Demand, MemoryPlan]]:
    """Yield the cards, model, backend, demand and plan of each line."""
    backends: tuple[BackendName, ...] = ("transformers", "vllm")
    for card in CARDS:
        for model in MODELS:
            for backend in backends:
                demand = demand_of(model, backend)
                yield f"{card} GB", model, backend, demand, plan_memory(machine_of(card), demand)
    large = MachineMemory(replace(_HOST, total=512 * 10**9, free=480 * 10**9), machine_of(80, 4).devices)
    demand = demand_of(LARGE, devices=4)
    yield "4 x 80 GB", LARGE, "transformers", demand, plan_memory(large, demand)


def _on(place: PlacePlan, *kinds: str) -> str:
    return f"{sum(part.bytes for part in place.parts if part.what in kinds) / 1e9:.1f}"


def _ascent(share: Share, room: GradientRoom) -> str:
    if not share.gradient:
        return ""
    if room == "none":
        return room
    return f"{share.gradient / 1e9:.1f}" if room == "model" else f"by tensor {share.gradient_by_tensor / 1e9:.1f}"


def lines() -> Iterator[str]:
    """Yield the lines of the table, and the reasons below it."""
    columns = (
        "cards",
        "model",
        "backend",
        "live",
        "engine",
        "pass",
        "keys, values",
        "parents",
        "host",
        "files",
        "ascent",
        "rows",
    )
    yield f"| {' | '.join(columns)} |"
    yield f"|---|---|---|{'---:|' * (len(columns) - 3)}"
    reasons: dict[str, int] = {}
    for cards, model, backend, demand, plan in plans():
        place = plan.places[0]
        why = plan.refusal or (plan.notes[0] if plan.rows < ROWS else "")
        mark = f" [{reasons.setdefault(why, len(reasons) + 1)}]" if why else ""
        numbers = [
            _on(place, LIVE), _on(place, WEIGHTS, ENGINE), _on(place, PASS), _on(place, CACHE), _on(place, PARENTS),
            f"{plan.from_host / 1e9:.1f}", f"{plan.from_files / 1e9:.1f}",
            _ascent(demand.shares[0], plan.gradient),
        ]  # fmt: skip
        yield f"| {cards} | {model.name} | {backend} | {' | '.join(numbers)} | {plan.rows or 'refused'}{mark} |"
    yield ""
    for why, number in reasons.items():
        yield f"{number}. {why}"


def example() -> str:
    """Return what a dry run shows of deepseek-coder-6.7b on a card of 80 GB."""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(memory_table(plan_memory(machine_of(80), demand_of(MODELS[0]))))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


if __name__ == "__main__":
    print(example(), *lines(), sep="\n")
