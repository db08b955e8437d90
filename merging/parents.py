"""The parents: opened once, checked against each other, and kept in memory while candidates are made from them.

Guarantees: parents that do not fit each other are refused (parent_checks.py); opening reads headers only; a tensor that
memory has room for is read from disk once. Does not merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from merging.checkpoints.architecture import Architecture, Stack
from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.model_config import Config
from merging.checkpoints.weights import Digest, StoredTensor
from merging.options import MERGE, LoadOptions, MergeOptions
from merging.parent_checks import ParentNote, check_parents
from merging.recipes.recipe import Recipe
from merging.residency.budget import UNLIMITED, Budget
from merging.residency.placement import DeviceMap, Placement
from merging.residency.residency import Residency
from merging.statistics.digests import FileDigests
from merging.statistics.statistics import Placing, Statistics

OnRead = Callable[[str, int, int], None]
Sources: TypeAlias = tuple[tuple[str, str] | None, ...]


# Config keys that do not affect a model's tensors and differ between fine-tunes.
_OF_NO_TENSOR = ("architectures", "dtype", "transformers_version", "use_cache", "_token_id", "_name_or_path")


class ParentSet:
    """The parents of one recipe, or of all the recipes of a search, for merging on a device.

    Use it as a context manager; leaving it frees their memory.

    Attributes:
        options: what may be done to open them.
        own_architectures: by parent, the architecture of its own config, in the merge's names; None for another type.
    """

    def __init__(
        self,
        checkpoints: dict[str, Checkpoint],
        device: torch.device,
        budget: Budget,
        statistics: Statistics,
        options: LoadOptions,
    ) -> None:
        self.device = torch.empty(0, device=device).device  # "cuda" is "cuda:0" to a tensor
        self.options = options
        # Prefer a model with its own output head: a tied model lacks only that tensor.
        untied = (name for name, each in checkpoints.items() if not each.config.tie_word_embeddings)
        self._reference = next(untied, next(iter(checkpoints)))
        reference = checkpoints[self._reference]
        self.architecture: Architecture = reference.architecture
        self.checkpoints = {name: assemble(checkpoint, reference) for name, checkpoint in checkpoints.items()}
        self.statistics = statistics
        self._derived: dict[tuple[str, str], StoredTensor] = {}
        self.own_architectures = {
            name: self._own_architecture(checkpoint) for name, checkpoint in self.checkpoints.items()
        }
        self._stacks = {name: self._own_stacks(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._layer_shapes: dict[tuple[str, str, int], Mapping[str, torch.Size]] = {}
        self._notes: tuple[ParentNote, ...] = ()
        self.placement = Placement({"": self.device})
        self._residencies = {self.device: Residency(self.device, budget)}

    @classmethod
    def open(
        cls,
        recipes: Recipe | Iterable[Recipe],
        options: MergeOptions = MERGE,
        *,
        digests: FileDigests | None = None,
    ) -> ParentSet:
        """Open every parent of the recipes; their weights are read by `load`, or else when they are first merged.

        Args:
            recipes: one recipe or several.
            options: where they are merged, and what may be done to open them.
            digests: digests of the parents' files, to share them with other callers.

        Raises:
            MergingError: a parent is missing, broken, or does not fit the others.
        """
        every = [recipes] if isinstance(recipes, Recipe) else list(recipes)
        first = every[0].base_model
        names = dict.fromkeys([*([first] if first else []), *(name for recipe in every for name in recipe.parents())])
        device_map, load = options.device_map, options.load
        where = torch.device("cpu" if device_map is not None else options.device)
        for recipe in every:
            recipe.require(load)
        memo = Statistics(options.statistics, digests)  # comes first, so that a file that changes later gets no digest
        checkpoints = {name: Checkpoint.open(name, load) for name in names}
        budget = UNLIMITED if options.memory_budget is None else options.memory_budget
        if not isinstance(budget, Budget):
            budget = Budget.in_all(budget, where.type != "cpu")
        parents = cls(checkpoints, where, budget, memo, load)
        parents._notes = tuple(dict.fromkeys(check_parents(parents, checkpoints, every)))
        if device_map is not None:
            parents._spread(device_map, budget)
        return parents

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about the parents and the device."""
        texts = (note.text for note in self._notes)
        return (*texts, *(note for each in self._residencies.values() for note in each.notes))

    @property
    def doubts(self) -> tuple[str, ...]:
        """The notes on what may make merges worse."""
        return tuple(note.text for note in self._notes if note.is_doubt)

    @property
    def reference(self) -> Checkpoint:
        """The parent whose tensors the others are compared with."""
        return self.checkpoints[self._reference]

    @property
    def elements(self) -> int:
        """The number of elements in a merge of whole models."""
        return sum(
            torch.Size(tensor.shape).numel() for tensor in next(iter(self.checkpoints.values())).tensors.values()
        )

    def load(self, progress: OnRead | None = None) -> None:
        """Read the parents' weights into the memory that has room for them.

        Args:
            progress: called with (parent, tensors read, tensors in all).

        Raises:
            MergingError: a file cannot be read.
        """
        wanted = self.stored_tensors()
        for done, (name, stored) in enumerate(wanted, start=1):
            self._residency(stored.name).keep(stored)
            if progress:
                progress(name, done, len(wanted))
        groups: dict[str, list[StoredTensor]] = {}
        for _, stored in wanted:
            groups.setdefault(stored.name, []).append(stored)
        for residency in self._residencies.values():
            own = [group for name, group in groups.items() if self._residency(name) is residency]
            residency.note_shortage({each for group in own for each in group})
            residency.reserve(own)

    @property
    def chunk(self) -> int:
        """The bytes that may be copied to a device together."""
        return min(residency.chunk for residency in self._residencies.values())

    def place(self, device: torch.device) -> Placing | None:
        """Return a function that puts a statistic's tensor where there is room for it; None for the host, on a CPU."""
        return None if device.type == "cpu" else self._residencies[device].hold

    def give_up_some(self, device: torch.device) -> int:
        """Let go of some tensors that are kept on a device; return their bytes. They are read again when merged."""
        return self._residencies[device].give_up_some()

    def _comes_late(self, stored: StoredTensor) -> bool:
        """Whether this tensor of all parents can be copied together; a larger one is best kept on the device."""
        return stored.nbytes * len(self.checkpoints) <= self.chunk

    def stored_tensors(self, on_gpu: bool | None = None) -> list[tuple[str, StoredTensor]]:
        """Return the tensors that `load` reads, each once and with its parent, in order; derived tensors come last.

        On a GPU, tensors too large to be copied together with those of the other parents come first: it is best to keep
        them there.

        Args:
            on_gpu: whether they are to be kept on a GPU; by default, whether the device is one.
        """
        on_gpu = self.device.type != "cpu" if on_gpu is None else on_gpu
        own = [(name, self.stored(name, tensor)) for name in self.checkpoints for tensor in self.names(name)]
        found = [*own, *((name, derived) for (name, _), derived in self._derived.items())]
        found = list(dict.fromkeys(found))  # a tied head is its embedding
        return sorted(found, key=lambda each: self._comes_late(each[1])) if on_gpu else found

    def keep_within(self, budgets: Mapping[torch.device, Budget]) -> None:
        """Limit the parents' memory on each device of the live model, and on the host for it; comes before `load`."""
        for device, budget in budgets.items():
            self._residencies[device].keep_within(budget)

    def tensor(self, parent: str, name: str, device: torch.device | None = None) -> Tensor:
        """Return a parent's tensor in the dtype it was saved in; a tied head is its embedding.

        By default it is on the device of the live model's tensor of that name. Do not write to it. On a GPU without
        room to keep it, it stays valid until two more steps have begun.
        """
        return self._residencies[device or self.placement.device_of(name)].get(self.stored(parent, name))

    def source(self, parent: str, name: str, device: torch.device | None = None) -> Tensor:
        """Return a parent's tensor as `tensor` does, but on the host if it is not on the device yet."""
        return self._residencies[device or self.placement.device_of(name)].source(self.stored(parent, name))

    def kept(self, parent: str, name: str) -> Tensor | None:
        """Return a parent's tensor if memory keeps it between candidates, or None if it is read each time."""
        return self._residency(name).keep(self.stored(parent, name))

    def expect(self, sources: Iterable[tuple[str, str]], device: torch.device) -> None:
        """Start copying tensors, given as (parent, name), to a GPU while it computes with others."""
        self._residencies[device].expect([self.stored(parent, name) for parent, name in sources])

    def derive(self, parent: str, derived: StoredTensor) -> None:
        """Give a parent a further tensor, which is made of the parents' tensors and kept in memory like them."""
        self._derived.setdefault((parent, derived.name), derived)

    def has(self, parent: str, name: str) -> bool:
        """Whether a parent has a tensor of that name, or one that it is tied to."""
        return (parent, name) in self._derived or self._stored_name(parent, name) in self.checkpoints[parent].tensors

    def shape(self, parent: str, name: str) -> torch.Size:
        """Return the shape of a parent's tensor."""
        return torch.Size(self.stored(parent, name).shape)

    def stored(self, parent: str, name: str) -> StoredTensor:
        """Return a parent's tensor as it is stored, or a derived one."""
        return self._derived.get((parent, name)) or self.checkpoints[parent].tensors[self._stored_name(parent, name)]

    def all_equal(self, sources: tuple[tuple[str, str], ...]) -> bool:
        """Whether some tensors, each given as (parent, name), have the same dtype and the same values."""

        def equal() -> bool:
            first, *others = (self.source(*source) for source in sources)
            return all(other.dtype == first.dtype and _equal(first, other, self.chunk) for other in others)

        return self.statistics.once(("all_equal", sources), equal)

    def made_of(self, sources: Sources, dtype: torch.dtype, digest: Digest) -> object:
        """Return plain data that identifies what a statistic of some tensors is computed from.

        Args:
            sources: the tensors, each given as (parent, name); None for a missing base.
            dtype: the dtype in which they are used.
            digest: returns a file's digest.
        """
        return [str(dtype), [source and self.stored(*source).made_of(digest) for source in sources]]

    def layers(self, parent: str) -> int:
        """Return a parent's number of layers (in its main stack, if it has several)."""
        main = self.architecture.main
        return len(self.stack(parent, main.head).layers) if main else 0

    def stack(self, parent: str, head: str) -> Stack:
        """Return a stack of a parent's layers."""
        return self._stacks[parent][head]

    def layer_shapes(self, parent: str, head: str, index: int) -> Mapping[str, torch.Size]:
        """Return the shapes of a layer's tensors, by the part of their names after the layer's index."""
        key = (parent, head, index)
        if key not in self._layer_shapes:
            stack = self.stack(parent, head)
            shapes = {tail: self.shape(parent, stack.name(index, tail)) for tail in stack.layers[index]}
            # Equal layers share one mapping, so that `is` compares them.
            self._layer_shapes[key] = next((kind for kind in self._layer_shapes.values() if kind == shapes), shapes)
        return self._layer_shapes[key]

    def names(self, parent: str) -> list[str]:
        """Return the names of a parent's tensors, in order."""
        layers = (name for stack in self._stacks[parent].values() for name in stack.names())
        return [*self.architecture.before, *layers, *self.architecture.after]

    def close(self) -> None:
        """Give the parents' memory back."""
        self._derived.clear()
        self.statistics.clear()
        for residency in self._residencies.values():
            residency.close()

    def __enter__(self) -> ParentSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _residency(self, name: str) -> Residency:
        return self._residencies[self.placement.device_of(name)]

    def _spread(self, device_map: DeviceMap, budget: Budget) -> None:
        """Keep each parent's tensors where the device map puts the live model's; split the budget by their sizes."""
        layout = self.architecture.layout
        names = {live: layout.name_of(live) for live in layout.model.state_dict()}
        placement = Placement.of(device_map, layout.model, self.reference.dtype)
        self.placement = placement.named({live: name for live, name in names.items() if name != live})
        self.device = self.placement.devices[0]
        largest = max(self.checkpoints.values(), key=lambda each: each.nbytes)
        live = dict.fromkeys(self.placement.devices, 0)
        for stored in largest.tensors.values():
            live[self.placement.device_of(stored.name)] += stored.nbytes
        self._residencies = {
            device: Residency(device, budget.part(size / largest.nbytes)) for device, size in live.items()
        }

    def _own_stacks(self, checkpoint: Checkpoint) -> dict[str, Stack]:
        """Return a parent's layers; their kinds and their number may differ from the reference's."""
        architecture = self.own_architectures[checkpoint.reference]
        own = (architecture or self.architecture).stacks
        if architecture is None:  # another architecture (allow_crimes): judged by the reference's tensors
            depths = [self.architecture.count_layers(checkpoint.tensors, stack.head) for stack in own]
            own = tuple(stack.of_depth(depth) for stack, depth in zip(own, depths, strict=True))
        return {stack.head: stack for stack in own}

    def _own_architecture(self, checkpoint: Checkpoint) -> Architecture | None:
        """Return the architecture of a parent's own config, in the merge's names; None for another model type."""
        reference = self.checkpoints[self._reference]
        if checkpoint.config.model_type != reference.config.model_type:
            return None
        same = _content(checkpoint.config) == _content(reference.config)
        return self.architecture if same else checkpoint.architecture_as(reference)

    def _stored_name(self, parent: str, name: str) -> str:
        tensors = self.checkpoints[parent].tensors
        return name if name in tensors else self.architecture.tied_weights.get(name, name)


def _equal(one: Tensor, other: Tensor, chunk: int) -> bool:
    """Whether two tensors are equal; either may be on the host. On a device, comparing them takes half a chunk."""
    if one.shape != other.shape or one.device == other.device:
        return one.shape == other.shape and torch.equal(one, other)
    device = one.device if other.device.type == "cpu" else other.device
    parts = zip(*(torch.split(each.reshape(-1), chunk // 4 // one.itemsize) for each in (one, other)), strict=True)
    return all(torch.equal(a.to(device), b.to(device)) for a, b in parts)


def _content(config: Config) -> str:
    """Return the part of a config that may affect the tensors of its model."""
    return repr({key: value for key, value in config.to_dict().items() if not key.endswith(_OF_NO_TENSOR)})
