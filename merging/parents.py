"""The parents: opened once, checked against each other, and kept resident for as long as candidates are made of them.

Guarantees: all parents have the same tensors, shapes and architecture, or opening fails with the name of what differs
(only the rows of an embedding may differ, where every recipe says what becomes of them); opening reads headers alone; a
tensor that has room is read from disk once. Does not merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from merging.checkpoints.architecture import Architecture, Stack, pattern
from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.config import Config
from merging.checkpoints.differences import different_computations, different_heads, different_ids, left_out
from merging.checkpoints.fit import check_fit
from merging.checkpoints.weights import Digest, StoredTensor
from merging.errors import MergingError
from merging.options import MERGE, LoadOptions, MergeOptions
from merging.placement import DeviceMap, Placement
from merging.recipes.recipe import Recipe
from merging.residency.memory import Budget
from merging.residency.residency import Residency
from merging.statistics.digests import FileDigests
from merging.statistics.memo import Statistics

Progress = Callable[[str, int, int], None]
Sources: TypeAlias = tuple[tuple[str, str] | None, ...]


# Keys of a config that say nothing of a model's tensors, and differ from fine-tune to fine-tune.
_OF_NO_TENSOR = ("architectures", "dtype", "transformers_version", "use_cache", "_token_id", "_name_or_path")


class ParentSet:
    """The parents of one recipe, or of all the recipes of a search, for merging on a device.

    Use as a context manager; on leaving, their memory is given back.

    Attributes:
        options: what opening them may do.
    """

    def __init__(
        self,
        checkpoints: dict[str, Checkpoint],
        device: torch.device,
        budget: Budget,
        statistics: Statistics,
        options: LoadOptions,
    ) -> None:
        self.device = device
        self.options = options
        # One with an output head of its own, if there is one: a tied model has all that the others have but that.
        untied = (name for name, each in checkpoints.items() if not each.config.tie_word_embeddings)
        self._reference = next(untied, next(iter(checkpoints)))
        reference = checkpoints[self._reference]
        self.architecture: Architecture = reference.architecture
        self.checkpoints = {name: assemble(checkpoint, reference) for name, checkpoint in checkpoints.items()}
        self.statistics = statistics
        self._derived: dict[tuple[str, str], StoredTensor] = {}
        self._own = {name: self._own_architecture(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._stacks = {name: self._own_stacks(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._layer_shapes: dict[tuple[str, str, int], Mapping[str, torch.Size]] = {}
        self._differences: dict[str, None] = {}
        self.placement = Placement.on(torch.empty(0, device=device).device)
        self._residencies = {self.placement.devices[0]: Residency(device, budget)}

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
            options: where they are merged, and what opening them may do.
            digests: of the parents' files, where somebody else needs these, too.

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
        memo = Statistics(options.statistics, digests)  # first: what changes after this has no digest
        checkpoints = {name: Checkpoint.open(name, load) for name in names}
        budget = options.memory_budget
        if not isinstance(budget, Budget):
            largest = max(checkpoint.nbytes for checkpoint in checkpoints.values())
            budget = Budget.of(where, largest, budget)
        parents = cls(checkpoints, where, budget, memo, load)
        parents._check(checkpoints, load.allow_crimes)
        if device_map is not None:
            parents._spread(device_map, None if options.memory_budget is None else budget)
        for recipe in every:
            parents._check_rows(recipe)
            donor = parents.checkpoints[recipe.donor]
            donor.check_generation_config()  # which the merge will have
            if keys := donor.loading_keys:
                parents._note(
                    f"model {recipe.donor}: its config.json says how to load it ({', '.join(keys)}); a merge is plain "
                    "tensors, and leaves that out"
                )
        return parents

    @property
    def notes(self) -> tuple[str, ...]:
        """What is otherwise than the person who chose the parents and the device would hope, in sentences."""
        return (*self._differences, *(note for each in self._residencies.values() for note in each.notes))

    def generation_notes(self, donor: str | None = None) -> list[str]:
        """Return what parents ask for when they generate, and who goes by it: scoring never does.

        Args:
            donor: whose generation_config.json is written with a merge; None where nothing is.
        """
        asked = {name: each.generation_settings for name, each in self.checkpoints.items()}
        ending = "scoring leaves it out" if donor is None else "the merge's files leave it out"
        return [
            f"model {name}: its generation_config.json asks for {settings}; "
            + ("so do the merge's files, though no score was made with it" if name == donor else ending)
            for name, settings in asked.items()
            if settings
        ]

    @property
    def elements(self) -> int:
        """How many elements a merge of whole models has."""
        return sum(
            torch.Size(tensor.shape).numel() for tensor in next(iter(self.checkpoints.values())).tensors.values()
        )

    def load(self, progress: Progress | None = None) -> None:
        """Read the parents' weights into the memory that has room for them.

        Args:
            progress: called with (parent, tensors read, tensors in all).

        Raises:
            MergingError: a file cannot be read.
        """
        wanted = [(name, self.stored(name, tensor)) for name in self.checkpoints for tensor in self.names(name)] + [
            (name, derived) for (name, _), derived in self._derived.items()
        ]
        for done, (name, stored) in enumerate(wanted, start=1):
            self._residency(stored.name).keep(stored)
            if progress:
                progress(name, done, len(wanted))
        for residency in self._residencies.values():
            residency.note_shortage({each for _, each in wanted if self._residency(each.name) is residency})

    def leave_room(self, nbytes: int) -> None:
        """Keep so much less where the live model is, which is wider than the parents."""
        for residency in self._residencies.values():
            residency.leave_room(nbytes // len(self._residencies))

    def tensor(self, parent: str, name: str, device: torch.device | None = None) -> Tensor:
        """Return a parent's tensor in the dtype it was saved in; a tied head is its embedding.

        It is on the device of the live model's tensor of that name, if it is not asked for on another one.

        It is not to be written to. On a GPU, a tensor that has no room there is valid until two more steps have begun.
        """
        return self._residencies[device or self.placement.device_of(name)].get(self.stored(parent, name))

    def kept(self, parent: str, name: str) -> Tensor | None:
        """Return a parent's tensor where it is kept between two candidates, or None where it is read each time."""
        return self._residency(name).keep(self.stored(parent, name))

    def expect(self, sources: Iterable[tuple[str, str]], device: torch.device) -> None:
        """Begin to bring tensors, given as (parent, name), to a GPU while it computes with others."""
        self._residencies[device].expect([self.stored(parent, name) for parent, name in sources])

    def derive(self, parent: str, derived: StoredTensor) -> None:
        """Give a parent one more tensor, which is made of the parents' and kept like theirs."""
        self._derived.setdefault((parent, derived.name), derived)

    def has(self, parent: str, name: str) -> bool:
        """Whether a parent has a tensor of that name, or one that it is tied to."""
        return (parent, name) in self._derived or self._stored_name(parent, name) in self.checkpoints[parent].tensors

    def dtype(self, parent: str, name: str) -> torch.dtype:
        """Return the dtype a parent's tensor is saved in."""
        return self.stored(parent, name).dtype

    def shape(self, parent: str, name: str) -> torch.Size:
        """Return the shape of a parent's tensor."""
        return torch.Size(self.stored(parent, name).shape)

    def stored(self, parent: str, name: str) -> StoredTensor:
        """Return what a parent's tensor is made of."""
        return self._derived.get((parent, name)) or self.checkpoints[parent].tensors[self._stored_name(parent, name)]

    def all_equal(self, sources: tuple[tuple[str, str], ...]) -> bool:
        """Whether some tensors, each given as (parent, name), have the same dtype and the same values."""

        def equal() -> bool:
            first, *others = (self.tensor(*source) for source in sources)
            return all(other.dtype == first.dtype and torch.equal(other.to(first.device), first) for other in others)

        return self.statistics.once(("all_equal", sources), equal)

    def made_of(self, sources: Sources, dtype: torch.dtype, digest: Digest) -> object:
        """Return plain data that tells what a statistic of some tensors is made of.

        Args:
            sources: the tensors, each given as (parent, name); None for a base that there is not.
            dtype: in which they are taken.
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
        """Return the tensors of a layer, by what stands after its index, with their shapes: of which kind it is."""
        key = (parent, head, index)
        if key not in self._layer_shapes:
            stack = self.stack(parent, head)
            shapes = {tail: self.shape(parent, stack.name(index, tail)) for tail in stack.layers[index]}
            # Layers of one kind have one mapping, which is compared at once.
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

    def _spread(self, device_map: DeviceMap, budget: Budget | None) -> None:
        """Keep each parent's tensors where the device map puts the live model's; shares of the budget by their size."""
        reference = self.checkpoints[self._reference]
        layout = self.architecture.layout
        model = layout.convert().model
        names = {live: layout.name_of(live) for live in model.state_dict()}
        placement = Placement.of(device_map, model, reference.dtype)
        self.placement = placement.named({live: name for live, name in names.items() if name != live})
        self.device = self.placement.devices[0]
        largest = max(self.checkpoints.values(), key=lambda each: each.nbytes)
        live = dict.fromkeys(self.placement.devices, 0)
        for stored in largest.tensors.values():
            live[self.placement.device_of(stored.name)] += stored.nbytes
        limit = None if budget is None else budget.device + budget.host
        parts = {device: size / largest.nbytes for device, size in live.items()}
        self._residencies = {
            device: Residency(device, Budget.of(device, live[device], limit, part)) for device, part in parts.items()
        }

    def _own_stacks(self, checkpoint: Checkpoint) -> dict[str, Stack]:
        """Return a parent's layers; they may be of other kinds than the reference's, or more."""
        architecture = self._own[checkpoint.reference]
        own = (architecture or self.architecture).stacks
        if architecture is None:  # a crime, judged by the reference's tensors
            depths = [self.architecture.count_layers(checkpoint.tensors, stack.head) for stack in own]
            own = tuple(stack.of_depth(depth) for stack, depth in zip(own, depths, strict=True))
        return {stack.head: stack for stack in own}

    def _own_architecture(self, checkpoint: Checkpoint) -> Architecture | None:
        """Return what a parent's own config makes of it, by a merge's names; None of a model of another type."""
        reference = self.checkpoints[self._reference]
        if checkpoint.config.model_type != reference.config.model_type:
            return None
        same = _content(checkpoint.config) == _content(reference.config)
        return self.architecture if same else checkpoint.architecture_as(reference)

    def _stored_name(self, parent: str, name: str) -> str:
        tensors = self.checkpoints[parent].tensors
        return name if name in tensors else self.architecture.stand_ins.get(name, name)

    def _check_rows(self, recipe: Recipe) -> None:
        if recipe.vocabulary_source:
            return
        for tensor in (name for name in self.architecture.loose if name in self.architecture.by_token):
            rows = {name: self.shape(name, tensor)[0] for name in recipe.parents()}
            for name, found in rows.items():
                if found != rows[recipe.donor]:
                    raise MergingError(
                        f"model {name}: tensor {tensor} has {found} rows, but in {recipe.donor} it has "
                        f"{rows[recipe.donor]}; set tokenizer_source in the recipe (union keeps the tokens of all "
                        "models, base those of the base), which brings the rows of each token together"
                    )
        donor = self.checkpoints[recipe.donor]
        for name in recipe.parents():
            if moved := different_ids(self.checkpoints[name].folder, donor.folder):
                self._note(
                    f"model {name}: {moved}, as in {recipe.donor}; rows are merged by their ids, unless the recipe "
                    "has a tokenizer_source"
                )

    def _check(self, files: Mapping[str, Checkpoint], allow_crimes: bool) -> None:
        reference = self.checkpoints[self._reference]
        for checkpoint in self.checkpoints.values():
            if checkpoint.config.model_type != reference.config.model_type and not allow_crimes:
                raise MergingError(
                    f"model {checkpoint.reference}: is a {checkpoint.config.model_type} model, but "
                    f"{reference.reference} is a {reference.config.model_type} model; only models of one architecture "
                    "can be merged, unless --allow-crimes (allow_crimes=True) takes those whose tensors fit"
                )
            self._check_depth(checkpoint)
            self._check_fit(files[checkpoint.reference])
            for name in self.names(checkpoint.reference):
                if not self.has(checkpoint.reference, name):
                    raise MergingError(
                        f"model {checkpoint.reference}: has no tensor {name}, which the architecture of "
                        f"{reference.reference} needs"
                    )
        for checkpoint in self.checkpoints.values():
            self._check_shapes(checkpoint, reference)
            self._compare(checkpoint, reference, allow_crimes)
            self._note_left_out(checkpoint)

    def _check_fit(self, files: Checkpoint) -> None:
        """Check a parent against its own config."""
        if architecture := self._own[files.reference]:
            check_fit(self.checkpoints[files.reference], architecture)
        else:
            check_fit(assemble(files, files), files.architecture)

    def _check_depth(self, checkpoint: Checkpoint) -> None:
        main = self.architecture.main
        if main is None:
            return
        depth = checkpoint.config.get_text_config().num_hidden_layers
        if (found := self.architecture.count_layers(checkpoint.tensors, main.head)) != depth:
            raise MergingError(
                f"model {checkpoint.reference}: its files hold {found} layers, but its config makes it {depth}; "
                "the files are not of one model, or some are missing"
            )

    def _compare(self, checkpoint: Checkpoint, reference: Checkpoint, allow_crimes: bool) -> None:
        """Refuse heads that are cut otherwise, and note what is computed otherwise."""
        heads = different_heads(checkpoint.config, reference.config)
        if heads and not allow_crimes:
            raise MergingError(
                f"model {checkpoint.reference}: {heads}, as it is in {reference.reference}; tensors whose heads are "
                "cut otherwise do not mean the same, though they fit; --allow-crimes (allow_crimes=True) merges them"
            )
        for found in [*([heads] if heads else []), *different_computations(checkpoint.config, reference.config)]:
            self._note(
                f"model {checkpoint.reference}: {found}, as in {reference.reference}; a merge computes as its base"
            )

    def _note_left_out(self, checkpoint: Checkpoint) -> None:
        taken = {*self.names(checkpoint.reference), *self.architecture.stand_ins}
        if found := left_out(name for name in checkpoint.tensors if name not in taken):
            self._note(f"model {checkpoint.reference}: a merge leaves out what its files hold besides: {found}")

    def _note(self, difference: str) -> None:
        self._differences[difference] = None

    def _check_shapes(self, checkpoint: Checkpoint, reference: Checkpoint) -> None:
        of_reference: dict[str, list[torch.Size]] = {}
        for name in self.names(self._reference):
            of_reference.setdefault(pattern(name), []).append(self.shape(self._reference, name))
        for name in self.names(checkpoint.reference):
            found = self.shape(checkpoint.reference, name)
            free = 1 if name in self.architecture.by_token else 0
            # Layers of other kinds may have a tensor of the same name in another shape.
            fitting = of_reference.get(pattern(name)) or [found]
            if found[free:] not in [shape[free:] for shape in fitting]:
                raise MergingError(
                    f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but in "
                    f"{reference.reference} it has {list(fitting[0])}; only models of one shape can be merged"
                )


def _content(config: Config) -> str:
    """Return what of a config may matter for the tensors that its model has."""
    return repr({key: value for key, value in config.to_dict().items() if not key.endswith(_OF_NO_TENSOR)})
