"""Execution: for each step of a merge, read the sources in blocks, combine them, write the result.

Guarantees: the result does not depend on the block size; a NaN or an Inf in it is an error that names the tensor.
Sources are cast to the dtype of the merge first, and results to the output's dtype last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from merging.arithmetic.bits import Finite
from merging.arithmetic.magnitude_table import RUN
from merging.arithmetic.random_bits import keys
from merging.calibration import calibrate, observed
from merging.errors import MergingError, NonFiniteTensor
from merging.kernels import EAGER, Kernels, Target
from merging.methods import METHODS
from merging.methods.operands import Operands, Workspace
from merging.methods.registry import Undefined
from merging.methods.sparsification import Sparsification, located
from merging.parents import ParentSet
from merging.planning.plan import Step
from merging.residency.memory_errors import with_room
from merging.residency.placement import by_device
from merging.residency.streaming import piece_elements
from merging.statistics.forms import Form
from merging.statistics.statistics import Kept

T = TypeVar("T")

# Tensors that a thread gets together: handing them out one by one would cost more than it balances.
_AT_A_TIME = 4
_OWN_DTYPES: Mapping[str, torch.dtype] = {}


class StepOperands(Operands):
    """The sources of one step of a merge, and what is known of its parents."""

    def __init__(
        self,
        step: Step,
        parents: ParentSet,
        shape: torch.Size,
        random_seed: int,
        kernels: Kernels,
        workspace: Workspace,
    ) -> None:
        device = parents.placement.device_of(step.name)
        flat = [parents.source(source.parent, source.tensor, device).reshape(-1) for source in step.sources()]
        base, inputs = (flat[0], flat[1:]) if step.base else (None, flat)
        super().__init__(base, inputs, shape, step.dtype, device, workspace)
        self.step, self.parents, self.random_seed = step, parents, random_seed
        if any(source.device.type != device.type for source in flat):
            width = sum(max(source.itemsize, step.dtype.itemsize) for source in flat)
            self.at_once = piece_elements(width, parents.chunk, RUN)
        # A compiled pass takes a tensor as a whole; copying one in pieces takes longer than merging them does.
        self.kernels = kernels if self.at_once >= self.elements else EAGER

    @property
    def for_masks(self) -> Operands:
        """The same operands in the dtype in which a method finds what it keeps of them."""
        return self if self._mask_dtype == self.dtype else self._narrow

    @property
    def _mask_dtype(self) -> torch.dtype:
        return self.step.mask_dtype or self.dtype

    # Never `self`, which would keep itself, and tensors that were read, until Python looks for reference cycles.
    @cached_property
    def _narrow(self) -> Operands:
        narrow = replace(self.step, dtype=self._mask_dtype)
        return StepOperands(narrow, self.parents, self.shape, self.random_seed, self.kernels, self._workspace)

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor is the matrix of a linear map, (..., out, in), rather than a vector, table or filter."""
        return len(self.shape) in (2, 3) and not self.parents.architecture.is_table(self.step.name)

    def once(self, name: str, inputs: Sequence[int], compute: Callable[[], T], kept: Form[T] | None = None) -> T:
        """Return a statistic of these inputs (and the base), computed at most once per parent set."""
        key, found = self._statistic(name, inputs, kept)
        return self.parents.statistics.once(key, compute, found)

    def last(
        self,
        name: str,
        inputs: Sequence[int],
        values: Hashable,
        compute: Callable[[], T],
        kept: Form[T] | None = None,
    ) -> T:
        """Return a statistic of these inputs (and the base) and of parameter values; only the last one is held."""
        key, found = self._statistic(name, inputs, kept)
        return self.parents.statistics.last(key, values, compute, found)

    def _statistic(self, name: str, inputs: Sequence[int], form: Form[T] | None) -> tuple[Hashable, Kept[T] | None]:
        """Return a statistic's key in memory, and how it is kept on disk, if it has a form."""
        sources = (self.step.base, *(self.step.inputs[index] for index in inputs))
        made_of, place = partial(self.parents.made_of, sources, self.dtype), self.parents.place(self.device)
        kept = Kept(name, form, made_of, place) if form else None
        return (name, self.dtype, self.device, sources), kept

    def completed(self, index: int, sparsification: Sparsification, rescale: bool) -> Sparsification:
        """Complete a sparsification, except for what the kernels find while they merge."""
        if self.for_masks is not self and sparsification.key is None:
            sparsification = self._widened(index, sparsification)
        return self.kernels.completed(self, index, sparsification, rescale)

    def _widened(self, index: int, narrow: Sparsification) -> Sparsification:
        """Return a sparsification that was found in the dtype of the masks for these wider operands."""

        def widened() -> Sparsification:
            return located(self.for_masks, index, narrow).widened(self.for_masks.dtype)

        return self.for_masks.last("edges", [index], (narrow.floor, narrow.ceiling), widened)

    def random_key(self, index: int) -> tuple[int, int]:
        """Return two 32-bit keys for an input's random numbers; they depend only on (seed, input, its tensor)."""
        # The part after an @ names the vocabulary that the tensor is rearranged to, which depends on the models' paths.
        tensor, _, _ = self.step.inputs[index].tensor.partition("@")
        return keys(self.random_seed, index, tensor)

    def observed(self, index: int) -> Tensor | None:
        """Return what the method observes of an input's tensor, in float32; None if that cannot be observed."""
        return observed(self.step, index, self.parents)


def run_steps(
    work: Sequence[tuple[Step, AbstractContextManager[Tensor]]],
    parents: ParentSet,
    random_seed: int,
    kernels: Kernels,
    done: Callable[[Step], None],
    dtypes: Mapping[str, torch.dtype] = _OWN_DTYPES,
) -> None:
    """Merge many tensors into their outputs.

    A CPU merges as many tensors at a time as torch has threads, one thread per tensor. (Threads that share the
    operations on a block wait for each other after each one; when other work took a core, that made a merge ten times
    slower.) A GPU gets one tensor after another, and is asked once, at the end, whether all are finite. Nothing more is
    written after an error or an interrupt.

    Args:
        work: steps, each with a context manager for its output: the thread that merges the step enters it to get
            `run_step`'s `out`, and leaves it when the output is complete.
        parents: the open parents.
        random_seed: the seed of methods that draw random numbers.
        kernels: the kernels to compute with; what they do not cover is computed eagerly.
        done: called with each step whose output is complete, in order, by the calling thread.
        dtypes: by name, the dtype that an output is rounded to last, if that is not its own.

    Raises:
        NonFiniteTensor: a result holds NaN or Inf; the error names the first such tensor.
        OutOfMemory: memory ran out, and the parents have none to give up.
        MergingError: a method has no answer for some tensors, or a parent cannot be calibrated.
    """
    calibrate((step for step, _ in work), parents)
    own = threading.local()

    def merge(step: Step, out: Tensor) -> Finite:
        workspace = own.__dict__.setdefault("workspace", Workspace())
        return run_step(step, parents, out, random_seed, kernels, workspace, dtypes.get(step.name))

    def give_up(step: Step) -> int:
        own.__dict__.pop("workspace", None)
        return parents.give_up_some(parents.placement.device_of(step.name))

    def run(*some: tuple[Step, AbstractContextManager[Tensor]]) -> list[Finite]:
        found = []
        with torch.inference_mode():  # which is set per thread
            for step, place in some:
                with place as out:
                    found.append(with_room(partial(merge, step, out), partial(give_up, step), _doing(step, parents)))
        return found

    if parents.device.type != "cpu" or len(parents.placement.devices) > 1:
        _check([step for step, _ in work], _run_on_devices(work, parents, run), done)
        return
    groups = [work[index : index + _AT_A_TIME] for index in range(0, len(work), _AT_A_TIME)]
    with _one_thread_an_operation() as threads, ThreadPoolExecutor(threads, "merge") as pool:
        try:
            results = [(group, pool.submit(run, *group)) for group in groups]
            for group, result in results:
                _check([step for step, _ in group], result.result(), done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _doing(step: Step, parents: ParentSet) -> str:
    device = parents.placement.device_of(step.name)
    return f"{device} ran out of memory while {step.name} was merged (method {step.method})"


def _check(steps: Sequence[Step], finite: Sequence[Finite], done: Callable[[Step], None]) -> None:
    """Report each step as done, in order; raise NonFiniteTensor for the first whose result is not finite."""
    flags: dict[torch.device, list[Tensor]] = {}
    for each in finite:
        if isinstance(each, Tensor):
            flags.setdefault(each.device, []).append(each)
    # The only time that the host waits for a device.
    known = {device: iter(torch.stack(some).tolist()) for device, some in flags.items()}
    for step, each in zip(steps, finite, strict=True):
        if not (next(known[each.device]) if isinstance(each, Tensor) else each):
            raise NonFiniteTensor(step.name, step.method)
        done(step)


def _run_on_devices(
    work: Sequence[tuple[Step, AbstractContextManager[Tensor]]],
    parents: ParentSet,
    run: Callable[[tuple[Step, AbstractContextManager[Tensor]]], list[Finite]],
) -> list[Finite]:
    """Let each device merge its own tensors, one after another, while the next one's sources are copied to it."""
    found: list[Finite] = [True] * len(work)

    def run_on(device: torch.device, indices: Sequence[int]) -> None:
        _expect([work[index][0] for index in indices[:1]], parents, device)
        for place, index in enumerate(indices, start=1):
            _expect([work[following][0] for following in indices[place : place + 1]], parents, device)
            (found[index],) = run(work[index])

    shares = by_device((step.name for step, _ in work), parents.placement)
    if len(shares) < 2:
        for device, indices in shares.items():
            run_on(device, indices)
        return found
    with ThreadPoolExecutor(len(shares), "merge") as pool:
        for result in [pool.submit(run_on, device, indices) for device, indices in shares.items()]:
            result.result()
    return found


def _expect(steps: Sequence[Step], parents: ParentSet, device: torch.device) -> None:
    for step in steps:
        parents.expect([(source.parent, source.tensor) for source in step.sources()], device)


@contextmanager
def _one_thread_an_operation() -> Iterator[int]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def run_step(
    step: Step,
    parents: ParentSet,
    out: Tensor,
    random_seed: int,
    kernels: Kernels,
    workspace: Workspace,
    last: torch.dtype | None = None,
) -> Finite:
    """Merge one tensor into `out`, in place; return whether the result is finite.

    Args:
        step: what to merge.
        parents: the open parents.
        out: the output, contiguous, in the step's shape, on any device; the result is first rounded to the dtype that
            it has in files.
        random_seed: the seed of methods that draw random numbers.
        kernels: the kernels to compute with; what they do not cover is computed eagerly.
        workspace: memory for intermediate results.
        last: the dtype that the result is rounded to next, if that is not the dtype of `out`, which may be wider.

    Raises:
        MergingError: the method has no answer for these tensors.
    """
    if not out.numel():
        return True
    method = METHODS[step.method]
    usable = kernels if kernels.covers(method, step.dtype, parents.placement.device_of(step.name)) else EAGER
    stored, last = step.out_dtype, last or out.dtype
    roundings = (stored,) if torch.promote_types(stored, last) == last else (stored, last)
    operands = StepOperands(step, parents, out.shape, random_seed, usable, workspace)
    try:
        return operands.kernels.merge(method, operands, step.parameters, Target(out.view(-1), roundings))
    except Undefined as reason:
        raise MergingError(f"tensor {step.name} cannot be merged (method {step.method}): {reason}") from None
