"""Planned memory: the plan of a search or evaluation, made from its parents' headers, its problems and the machine.

Guarantees: reads headers, configs and tokenizers, and no weights, so that a dry run shows the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from evaluation import BackendName, EvaluationError, ProblemSet, PromptFormat
from evaluation.generation.pass_memory import ModelShape, logits_bytes
from evaluation.generation.vllm_engine.weight_stream import SHARED_BYTES
from evaluation.prompts import prompt_tokens
from merging import MergeOptions, Merger, ParentSet, Recipe, load_tokenizer
from merging.calibration import CALIBRATION_TOKENS
from merging.checkpoints.checkpoint import Checkpoint
from merging.merger import streamed_bytes
from merging.planning.plan import Plan
from merging.residency.budget import Budget
from merging.residency.streaming import streaming_bytes
from merging.statistics.memory import StatisticsBytes, calibration_bytes, statistics_bytes
from search.ascent.loss import BackwardPass, activation_bytes
from search.errors import SearchError
from search.free_memory import machine_of
from search.memory_demand import Demand, MachineMemory, Share
from search.memory_plan import MemoryPlan, plan_memory
from search.parent_tiers import parent_tiers
from search.space.config import SearchConfig

# A batch with fewer rows does not keep a processor busy.
_ENOUGH_ROWS = 32


@dataclass(frozen=True, slots=True)
class Generation:
    """What is generated.

    Attributes:
        backend: the generation backend.
        length: the tokens of the longest request, its completion included.
        requests: how many requests may run at once.
        batch_size: the batch size that the user asks for.
    """

    backend: BackendName
    length: int
    requests: int
    batch_size: int | None = None

    @classmethod
    def of(
        cls,
        backend: BackendName,
        problems: Sequence[ProblemSet],
        tokenizer: PreTrainedTokenizerBase,
        formats: Sequence[PromptFormat],
        max_new_tokens: int,
        samples: int = 1,
        batch_size: int | None = None,
    ) -> Generation:
        """Return what is generated for problem sets, one set after the other, in some prompt formats.

        Raises EvaluationError if the prompts can be made in none of the formats.
        """
        lengths = _lengths(problems, tokenizer, formats)
        longest = max((max(own, default=0) for own in lengths), default=0)
        requests = max(map(len, lengths), default=0) * samples
        return cls(backend, longest + max_new_tokens, requests, batch_size)


def _lengths(
    problems: Sequence[ProblemSet], tokenizer: PreTrainedTokenizerBase, formats: Sequence[PromptFormat]
) -> Sequence[Sequence[int]]:
    """Return the tokens per prompt of each set, in each format that its prompts can be made in."""
    found, failed = [], None
    for each in formats:
        try:
            found += [[len(tokens) for _, tokens in prompt_tokens(chosen, each, tokenizer)] for chosen in problems]
        except EvaluationError as error:
            failed = error
    if failed and not found:
        raise failed
    return found


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user lets parents take, in bytes: in all, and on the devices."""

    parents: int | None = None
    device: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the memory of merges and their evaluation.

    Attributes:
        merger: holds the parents.
        recipes: at least one for each structure of the merges.
        generation: what is generated.
        machine: the machine's memory, as it was when this was made.
        ascends: whether gradients are taken.
        limits: the user's limits.
    """

    merger: Merger
    recipes: Sequence[Recipe]
    generation: Generation
    machine: MachineMemory
    ascends: bool = False
    limits: Limits = NO_LIMITS

    @classmethod
    def of_search(
        cls,
        config: SearchConfig,
        merger: Merger,
        recipes: Sequence[Recipe],
        splits: Sequence[ProblemSet],
        tokenizer: PreTrainedTokenizerBase | None = None,
        devices: Sequence[torch.device] | None = None,
        workers: int = 1,
    ) -> Planner:
        """Return the planner of a search, with the memory that the machine has now.

        Args:
            config: the search's config.
            merger: holds the parents.
            recipes: at least one for each structure of the space.
            splits: the problem sets, each of which is generated at once.
            tokenizer: the tokenizer for all models, if the config names one.
            devices: the live model's devices; by default the parents'.
            workers: the number of workers on this machine, this one included.

        Raises:
            SearchError: the prompts cannot be made.
        """
        section = config.evaluation
        try:
            generation = Generation.of(
                section.backend,
                splits,
                tokenizer or merger.tokenizer(recipes[0]),
                (section.prompt.format,),
                section.max_new_tokens,
                section.samples,
                section.batch_size,
            )
        except EvaluationError as error:
            raise SearchError(f"{config.source}: evaluation.prompt: {error}") from None
        ascends = config.search.ascent is not None and config.objectives == 1 and section.backend == "transformers"
        limits = Limits(config.merging.memory_budget, config.merging.device_budget)
        machine = machine_of(devices or merger.parents.placement.devices, workers)
        return cls(merger, recipes, generation, machine, ascends, limits)

    def plan(self, itemsize: int | None = None) -> MemoryPlan:
        """Return the plan for models that compute in a dtype of `itemsize` bytes; by default in their own."""
        devices = len(self.machine.devices)
        demand = demand_of(self.merger, self.recipes, self.generation, self.ascends, self.limits, devices, itemsize)
        return plan_memory(self.machine, demand)

    def tiers(self, plan: MemoryPlan) -> dict[str, dict[str, int]]:
        """Return the bytes of each parent in each memory; see `parent_tiers`."""
        devices = len(self.machine.devices)
        index, tensors = _Index(self.merger, devices), self.merger.parents.stored_tensors(on_gpu=devices > 0)
        return parent_tiers(plan, ((parent, index.of(stored.name), stored.nbytes) for parent, stored in tensors))

    def fits_in_float32(self) -> bool:
        """Whether models have room in float32, with as many rows as a batch needs."""
        return is_enough(self.plan(torch.float32.itemsize), self.plan())


def plans_of_evaluation(
    reference: str | Recipe, options: MergeOptions, generation: Callable[[PreTrainedTokenizerBase], Generation]
) -> tuple[MemoryPlan, MemoryPlan]:
    """Plan the memory of scoring one model, in its own dtype and in float32.

    Args:
        reference: a model that is loaded as it is, or a recipe whose merge is scored.
        options: the device, and how to load it.
        generation: returns what is generated with a tokenizer.

    Raises:
        MergingError: the model is missing or broken.
        EvaluationError: the prompts cannot be made.
    """
    if isinstance(reference, str):
        checkpoint, machine = Checkpoint.open(reference, options.load), machine_of([torch.device(options.device)])
        wanted = generation(load_tokenizer(reference, options.load))
        own, wide = (
            plan_memory(machine, _demand_of_model(checkpoint, wanted, each)) for each in (None, torch.float32.itemsize)
        )
        return own, wide
    with ParentSet.open(reference, replace(options, memory_budget=0)) as parents:
        merger = Merger(parents)
        wanted, machine = generation(merger.tokenizer(reference)), machine_of(parents.placement.devices)
        planner = Planner(merger, [reference], wanted, machine, limits=Limits(parents=0))
        return planner.plan(), planner.plan(torch.float32.itemsize)


def _demand_of_model(checkpoint: Checkpoint, generation: Generation, itemsize: int | None) -> Demand:
    tensors = checkpoint.tensors.values()
    own = max((tensor.dtype.itemsize for tensor in tensors), default=torch.float32.itemsize)
    shape = ModelShape.of(checkpoint.config.get_text_config(), itemsize or own)
    live = sum(torch.Size(tensor.shape).numel() for tensor in tensors) * shape.itemsize
    engine = live if generation.backend == "vllm" else 0
    return _demand((Share(0, live, shape.slot_bytes, engine=engine),), shape, generation, 0, NO_LIMITS)


def is_enough(wide: MemoryPlan, own: MemoryPlan) -> bool:
    """Whether a plan in float32 can merge and has the rows that a batch needs, or what the models' own dtype has."""
    return not wide.refusal and wide.lacking <= own.lacking and wide.rows >= min(_ENOUGH_ROWS, own.rows)


def budgets_of(plan: MemoryPlan, devices: Sequence[torch.device]) -> Mapping[torch.device, Budget]:
    """Return the parents' budgets by the devices of the live model."""
    if len(plan.budgets) == len(devices):
        return dict(zip(devices, plan.budgets, strict=True))
    (whole,) = plan.budgets  # several CPU devices share one memory
    return {device: whole.part(1 / len(devices)) for device in devices}


def demand_of(
    merger: Merger,
    recipes: Sequence[Recipe],
    generation: Generation,
    ascends: bool = False,
    limits: Limits = NO_LIMITS,
    devices: int = 0,
    itemsize: int | None = None,
) -> Demand:
    """Return what merges and their evaluation need on a number of GPUs, or on the host if there are none."""
    parents, plans = merger.parents, {id(plan): plan for plan in map(merger.plan, recipes)}.values()
    index = _Index(merger, devices)
    groups: dict[tuple[int, str], list[int]] = {}
    for _, stored in parents.stored_tensors():
        groups.setdefault((index.of(stored.name), stored.name.partition("@")[0]), []).append(stored.nbytes)
    largest = max(plans, key=_elements)
    itemsize = itemsize or largest.model_dtype.itemsize
    live, layers, largest_tensor = Counter[int](), Counter[int](), Counter[int]()
    for entry in largest.entries:
        place, elements = index.of(entry.name), torch.Size(entry.shape).numel()
        live[place] += elements * itemsize
        largest_tensor[place] = max(largest_tensor[place], elements)
    for number in range(largest.layers):
        layers[index.of_layer(number)] += 1
    shape = ModelShape.of(
        parents.reference.config.get_text_config(), itemsize, largest.layers or None, index.vocabulary(largest)
    )
    of_layer, has_engine = shape.slot_bytes // shape.layers, generation.backend == "vllm"
    shares, tables = [], 0
    for place in range(index.count):
        sizes = [group for (where, _), group in groups.items() if where == place]
        streaming = streaming_bytes(sizes, from_files=True)
        methods, statistics = _statistics(merger, plans, index, place, on_gpu=devices > 0)
        tables += statistics.host
        backward = BackwardPass(
            shape,
            layers[place],
            generation.length,
            live[place] // itemsize,
            largest_tensor[place],
            place == index.head,
        )
        share = Share(
            parents=sum(map(sum, sizes)),
            live=beside_engine(max(largest_tensor.values()) * itemsize, devices > 0) if has_engine else live[place],
            slot=of_layer * layers[place],
            streaming=streaming.device,
            staging=streaming.host,
            statistics=statistics.kept,
            working=statistics.working,
            calibration=_calibration(methods, shape, live[place] // itemsize, layers[place]),
            gradient=backward.whole if ascends else 0,
            gradient_by_tensor=backward.by_tensor if ascends else 0,
            engine=live[place] if has_engine else 0,
            has_head=place == index.head,
        )
        shares.append(share)
    return _demand(tuple(shares), shape, generation, tables, limits)


def _calibration(methods: Collection[str], shape: ModelShape, elements: int, layers: int) -> int:
    """Return what running a parent over a calibration file takes on a device: its weights and a text, in float32."""
    weights, wide = calibration_bytes(methods, elements), replace(shape, itemsize=torch.float32.itemsize)
    if not weights:
        return 0
    states = activation_bytes(wide, layers, CALIBRATION_TOKENS)
    return weights + states + logits_bytes(wide, CALIBRATION_TOKENS, scored=CALIBRATION_TOKENS)


def beside_engine(largest: int, on_gpu: bool) -> int:
    """Return what a merge takes on the device of a vLLM engine, which reads it as a stream, beside the engine itself.

    Args:
        largest: the bytes of the largest tensor.
        on_gpu: whether that is a GPU.
    """
    kind: Literal["cpu", "cuda"] = "cuda" if on_gpu else "cpu"
    return streamed_bytes(largest, kind) + SHARED_BYTES[kind]


def _demand(
    shares: tuple[Share, ...], shape: ModelShape, generation: Generation, host_statistics: int, limits: Limits
) -> Demand:
    return Demand(
        shares,
        shape,
        generation.length,
        generation.requests,
        host_statistics,
        generation.batch_size,
        limits.parents,
        limits.device,
    )


def _elements(plan: Plan) -> int:
    return sum(tensor.shape.numel() for tensor in plan.tensors)


def _statistics(
    merger: Merger, plans: Collection[Plan], index: _Index, place: int, on_gpu: bool
) -> tuple[frozenset[str], StatisticsBytes]:
    """Return the methods of some merges, and what these keep of the parents on a device."""
    methods = frozenset(tensor.method for plan in plans for tensor in plan.tensors)
    largest, is_table = max(plans, key=_elements), merger.parents.architecture.is_table
    tensors = [tensor for tensor in largest.tensors if index.of(tensor.name) == place]
    inputs = max((len(tensor.inputs) for plan in plans for tensor in plan.tensors), default=0)
    shapes = [(tuple(each.shape), len(each.shape) in (2, 3) and not is_table(each.name)) for each in tensors]
    dtype = str(largest.tensors[0].dtype).removeprefix("torch.")
    return methods, statistics_bytes(methods, shapes, inputs, dtype, on_gpu=on_gpu)


class _Index:
    """The index of each tensor's device among those of a live model."""

    def __init__(self, merger: Merger, devices: int) -> None:
        self._parents = merger.parents
        self.count = max(1, devices)
        architecture = self._parents.architecture
        untied = [name for name in architecture.after if name in architecture.by_token]
        self.head = self.of(untied[0] if untied else architecture.embedding)

    def of(self, name: str) -> int:
        placement = self._parents.placement
        return placement.devices.index(placement.device_of(name)) if self.count > 1 else 0

    def of_layer(self, number: int) -> int:
        main = self._parents.architecture.main
        if main is None or self.count == 1:
            return 0
        tails = main.layers[min(number, len(main.layers) - 1)]
        return self.of(main.name(number, tails[0]))

    def vocabulary(self, plan: Plan) -> int:
        by_token = self._parents.architecture.by_token
        return max((tensor.shape[0] for tensor in plan.tensors if tensor.name in by_token), default=1)
