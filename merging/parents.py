"""The parents: opened once, checked against each other, and kept resident for as long as candidates are made of them.

Guarantees: all parents have the same tensors, shapes and architecture, or opening fails with the name of what differs
(only the rows of an embedding may differ, where every recipe says what becomes of them); opening reads headers alone; a
tensor that has room is read from disk once. Does not merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from merging.checkpoints.architecture import Architecture, Stack, pattern, skeleton
from merging.checkpoints.assembled import assemble
from merging.checkpoints.checkpoint import Checkpoint
from merging.checkpoints.differences import different_computations, different_heads, different_ids
from merging.checkpoints.weights import StoredTensor
from merging.errors import MergingError
from merging.recipes.recipe import Recipe
from merging.residency.memory import Budget
from merging.residency.residency import Residency
from merging.statistics import Statistics

Progress = Callable[[str, int, int], None]


# Keys of a config that say nothing of a model's tensors, and differ from fine-tune to fine-tune.
_OF_NO_TENSOR = ("architectures", "dtype", "transformers_version", "use_cache", "_token_id", "_name_or_path")


class ParentSet:
    """The parents of one recipe, or of all the recipes of a search, for merging on a device.

    Use as a context manager; on leaving, their memory is given back.
    """

    def __init__(self, checkpoints: dict[str, Checkpoint], device: torch.device, budget: Budget) -> None:
        self.device = device
        # One with an output head of its own, if there is one: a tied model has all that the others have but that.
        untied = (name for name, each in checkpoints.items() if not each.config.tie_word_embeddings)
        self._reference = next(untied, next(iter(checkpoints)))
        self.architecture = Architecture.of(_skeleton(checkpoints[self._reference]))
        layout = self.architecture.layout
        self.checkpoints = {name: assemble(checkpoint, layout) for name, checkpoint in checkpoints.items()}
        self.statistics = Statistics()
        self._derived: dict[tuple[str, str], StoredTensor] = {}
        self._stacks = {name: self._own_stacks(checkpoint) for name, checkpoint in self.checkpoints.items()}
        self._layer_shapes: dict[tuple[str, str, int], Mapping[str, torch.Size]] = {}
        self._differences: dict[str, None] = {}
        self._residency = Residency(device, budget)

    @classmethod
    def open(
        cls,
        recipes: Recipe | Iterable[Recipe],
        device: str = "cpu",
        *,
        memory_budget: int | Budget | None = None,
        lazy_unpickle: bool = False,
        trust_remote_code: bool = False,
        allow_crimes: bool = False,
    ) -> ParentSet:
        """Open every parent of the recipes; their weights are read by `load`, or else when they are first merged.

        Args:
            recipes: one recipe or several.
            device: where the merging is done, as torch names devices.
            memory_budget: bytes that may be used to keep the parents, in the device's memory first and then in the
                host's; what has no room is read again for every candidate. By default what is free.
            lazy_unpickle: whether torch pickles may be read, where a parent has no safetensors.
            trust_remote_code: whether Python code that comes with a model may be executed.
            allow_crimes: whether models of different architectures may be merged where their tensors fit.

        Raises:
            MergingError: a parent is missing, broken, or does not fit the others.
        """
        every = [recipes] if isinstance(recipes, Recipe) else list(recipes)
        first = every[0].base_model
        names = dict.fromkeys([*([first] if first else []), *(name for recipe in every for name in recipe.parents())])
        checkpoints = {
            name: Checkpoint.open(name, lazy_unpickle=lazy_unpickle, trust_remote_code=trust_remote_code)
            for name in names
        }
        where = torch.device(device)
        if not isinstance(memory_budget, Budget):
            largest = max(checkpoint.nbytes for checkpoint in checkpoints.values())
            memory_budget = Budget.of(where, largest, memory_budget)
        parents = cls(checkpoints, where, memory_budget)
        parents._check(allow_crimes)
        for recipe in every:
            parents._check_rows(recipe)
            _ = parents.checkpoints[recipe.donor].generation_config  # which the merge will have
        return parents

    @property
    def notes(self) -> tuple[str, ...]:
        """What is otherwise than the person who chose the parents and the device would hope, in sentences."""
        return (*self._differences, *self._residency.notes)

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
            self._residency.keep(stored)
            if progress:
                progress(name, done, len(wanted))
        self._residency.note_shortage({stored for _, stored in wanted})

    def tensor(self, parent: str, name: str) -> Tensor:
        """Return a parent's tensor on the device, in the dtype it was saved in; a tied head is its embedding.

        It is not to be written to. On a GPU, a tensor that has no room there is valid until two more steps have begun.
        """
        return self._residency.get(self.stored(parent, name))

    def expect(self, sources: Iterable[tuple[str, str]]) -> None:
        """Begin to bring tensors, given as (parent, name), to a GPU while it computes with others."""
        self._residency.expect([self.stored(parent, name) for parent, name in sources])

    def derive(self, parent: str, derived: StoredTensor) -> None:
        """Give a parent one more tensor, which is made of the parents' and kept like theirs."""
        self._derived.setdefault((parent, derived.name), derived)

    @property
    def trust_remote_code(self) -> bool:
        """Whether Python code that comes with the parents may be executed."""
        return any(checkpoint.trust_remote_code for checkpoint in self.checkpoints.values())

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
        self._residency.close()

    def __enter__(self) -> ParentSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own_stacks(self, checkpoint: Checkpoint) -> dict[str, Stack]:
        """Return a parent's layers; they may be of other kinds than the reference's, or more."""
        reference = self.checkpoints[self._reference]
        own = self.architecture.stacks
        if checkpoint.config.model_type != reference.config.model_type:  # a crime, judged by the reference's tensors
            depths = [self.architecture.count_layers(checkpoint.tensors, stack.head) for stack in own]
            own = tuple(stack.of_depth(depth) for stack, depth in zip(own, depths, strict=True))
        elif _content(checkpoint.config) != _content(reference.config):
            own = Architecture.of(_skeleton(checkpoint), self.architecture.layout).stacks
        return {stack.head: stack for stack in own}

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

    def _check(self, allow_crimes: bool) -> None:
        reference = self.checkpoints[self._reference]
        for checkpoint in self.checkpoints.values():
            if checkpoint.config.model_type != reference.config.model_type and not allow_crimes:
                raise MergingError(
                    f"model {checkpoint.reference}: is a {checkpoint.config.model_type} model, but "
                    f"{reference.reference} is a {reference.config.model_type} model; only models of one architecture "
                    "can be merged, unless --allow-crimes (allow_crimes=True) takes those whose tensors fit"
                )
            self._check_depth(checkpoint)
            for name in self.names(checkpoint.reference):
                if not self.has(checkpoint.reference, name):
                    raise MergingError(
                        f"model {checkpoint.reference}: has no tensor {name}, which the architecture of "
                        f"{reference.reference} needs"
                    )
        for checkpoint in self.checkpoints.values():
            self._check_shapes(checkpoint, reference)
            self._compare(checkpoint, reference, allow_crimes)

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

    def _note(self, difference: str) -> None:
        self._differences[difference] = None

    def _check_shapes(self, checkpoint: Checkpoint, reference: Checkpoint) -> None:
        of_reference: dict[str, list[torch.Size]] = {}
        for name in self.names(self._reference):
            of_reference.setdefault(pattern(name), []).append(self.shape(self._reference, name))
        for name in self.names(checkpoint.reference):
            found = self.shape(checkpoint.reference, name)
            if checkpoint is reference and found != self.architecture.shapes.get(name, found):
                raise MergingError(
                    f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but its config makes it "
                    f"{list(self.architecture.shapes[name])}; the files are not of one model"
                )
            free = 1 if name in self.architecture.by_token else 0
            # Layers of other kinds may have a tensor of the same name in another shape.
            fitting = of_reference.get(pattern(name)) or [found]
            if found[free:] not in [shape[free:] for shape in fitting]:
                raise MergingError(
                    f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but in "
                    f"{reference.reference} it has {list(fitting[0])}; only models of one shape can be merged"
                )


def _content(config: PreTrainedConfig) -> str:
    """Return what of a config may matter for the tensors that its model has."""
    return repr({key: value for key, value in config.to_dict().items() if not key.endswith(_OF_NO_TENSOR)})


def _skeleton(checkpoint: Checkpoint) -> Any:
    return skeleton(checkpoint.config, checkpoint.reference, checkpoint.trust_remote_code)
