"""The parents: opened once, checked against each other, and kept resident for as long as candidates are made of them.

Guarantees: every parent has the tensors, shapes and architecture of the first, or opening fails with the name of what
differs (only the rows of an embedding may differ, where every recipe says what becomes of them); a tensor is read from
disk at most once. Does not merge.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from merging.architecture import Architecture
from merging.checkpoint import Checkpoint
from merging.errors import MergingError
from merging.recipe import Recipe
from merging.statistics import Statistics

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor that is made of the parents' and then kept like theirs; `read` makes it, on the CPU."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class ParentSet:
    """The parents of one recipe, or of all the recipes of a search, resident on a device.

    Use as a context manager; on leaving, their memory is given back.
    """

    def __init__(self, checkpoints: dict[str, Checkpoint], device: torch.device) -> None:
        self.checkpoints = checkpoints
        self.device = device
        self.architecture = Architecture.of(next(iter(checkpoints.values())))
        self.statistics = Statistics()
        self._resident: dict[tuple[str, str], Tensor] = {}
        self._derived: dict[tuple[str, str], Derived] = {}
        self._deriving = threading.Lock()

    @classmethod
    def open(
        cls,
        recipes: Recipe | Iterable[Recipe],
        device: str = "cpu",
        progress: Progress | None = None,
        *,
        trust_remote_code: bool = False,
        allow_crimes: bool = False,
    ) -> ParentSet:
        """Open and load every parent of the recipes.

        Args:
            recipes: one recipe or several; the base of the first gives the architecture.
            device: where the parents live and the merging is done, as torch names devices.
            progress: called with (parent, tensors read, tensors in all).
            trust_remote_code: whether Python code that comes with a model may be executed.
            allow_crimes: whether models of different architectures may be merged where their tensors fit.

        Raises:
            MergingError: a parent is missing, broken, or does not fit the others.
        """
        every = [recipes] if isinstance(recipes, Recipe) else list(recipes)
        first = every[0].base_model
        names = dict.fromkeys([*([first] if first else []), *(name for recipe in every for name in recipe.parents())])
        checkpoints = {name: Checkpoint.open(name, trust_remote_code) for name in names}
        parents = cls(checkpoints, torch.device(device))
        parents._check(allow_crimes)
        for recipe in every:
            parents._check_rows(recipe)
        parents._load(progress)
        return parents

    def tensor(self, parent: str, name: str) -> Tensor:
        """Return a parent's tensor on the device, in the dtype it was saved in; a tied head is its embedding."""
        if (parent, name) in self._derived:
            return self._made(parent, name)
        return self._resident[parent, self._stored_name(parent, name)]

    def derive(self, parent: str, name: str, derived: Derived) -> None:
        """Give a parent one more tensor, which is made when it is first asked for."""
        self._derived.setdefault((parent, name), derived)

    def shape(self, parent: str, name: str) -> tuple[int, ...]:
        """Return the shape of a parent's tensor."""
        derived = self._derived.get((parent, name))
        return derived.shape if derived else self._shape(self.checkpoints[parent], name)

    @property
    def trust_remote_code(self) -> bool:
        """Whether Python code that comes with the parents may be executed."""
        return any(checkpoint.trust_remote_code for checkpoint in self.checkpoints.values())

    def has(self, parent: str, name: str) -> bool:
        """Whether a parent has a tensor of that name, or one that it is tied to."""
        return self._stored_name(parent, name) in self.checkpoints[parent].tensors

    def dtype(self, parent: str, name: str) -> torch.dtype:
        """Return the dtype a parent's tensor is saved in."""
        if derived := self._derived.get((parent, name)):
            return derived.dtype
        return self.checkpoints[parent].tensors[self._stored_name(parent, name)].dtype

    def layers(self, parent: str) -> int:
        """Return a parent's number of layers."""
        return self.architecture.count_layers(self.checkpoints[parent].tensors)

    def close(self) -> None:
        """Give the parents' memory back."""
        self._resident.clear()
        self._derived.clear()

    def __enter__(self) -> ParentSet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored_name(self, parent: str, name: str) -> str:
        tensors = self.checkpoints[parent].tensors
        return name if name in tensors else self.architecture.stand_ins.get(name, name)

    def _made(self, parent: str, name: str) -> Tensor:
        with self._deriving:
            if (parent, name) not in self._resident:
                self._resident[parent, name] = self._derived[parent, name].read().to(self.device)
            return self._resident[parent, name]

    def _check_rows(self, recipe: Recipe) -> None:
        if recipe.vocabulary_source:
            return
        for tensor in self.architecture.names(0):
            rows = {name: self.shape(name, tensor)[0] for name in recipe.parents()}
            for name, found in rows.items():
                if found != rows[recipe.donor]:
                    raise MergingError(
                        f"model {name}: tensor {tensor} has {found} rows, but in {recipe.donor} it has "
                        f"{rows[recipe.donor]}; set tokenizer_source in the recipe (union keeps the tokens of all "
                        "models, base those of the base), which brings the rows of each token together"
                    )

    def _check(self, allow_crimes: bool) -> None:
        reference = next(iter(self.checkpoints.values()))
        for checkpoint in self.checkpoints.values():
            if checkpoint.config.model_type != reference.config.model_type and not allow_crimes:
                raise MergingError(
                    f"model {checkpoint.reference}: is a {checkpoint.config.model_type} model, but "
                    f"{reference.reference} is a {reference.config.model_type} model; only models of one architecture "
                    "can be merged, unless --allow-crimes (allow_crimes=True) takes those whose tensors fit"
                )
            for name in self.architecture.names(self.layers(checkpoint.reference)):
                if not self.has(checkpoint.reference, name):
                    raise MergingError(
                        f"model {checkpoint.reference}: has no tensor {name}, which the architecture of "
                        f"{reference.reference} needs"
                    )
            depth = checkpoint.config.get_text_config().num_hidden_layers
            if (found := self.layers(checkpoint.reference)) != depth:
                raise MergingError(
                    f"model {checkpoint.reference}: its files hold {found} layers, but its config makes it {depth}; "
                    "the files are not of one model, or some are missing"
                )
            self._check_shapes(checkpoint, reference)

    def _check_shapes(self, checkpoint: Checkpoint, reference: Checkpoint) -> None:
        for name in self.architecture.names(self.layers(checkpoint.reference)):
            found = self._shape(checkpoint, name)
            if checkpoint is reference and found != self.architecture.shapes.get(name, found):
                raise MergingError(
                    f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but its config makes it "
                    f"{list(self.architecture.shapes[name])}; the files are not of one model"
                )
            of_first = self._shape(reference, name) if self.has(reference.reference, name) else found
            free = 1 if name in self.architecture.by_token else 0
            if found[free:] != of_first[free:]:
                raise MergingError(
                    f"model {checkpoint.reference}: tensor {name} has shape {list(found)}, but in "
                    f"{reference.reference} it has {list(of_first)}; only models of one shape can be merged"
                )

    def _shape(self, checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
        return checkpoint.tensors[self._stored_name(checkpoint.reference, name)].shape

    def _load(self, progress: Progress | None) -> None:
        wanted = [
            (checkpoint, name)
            for checkpoint in self.checkpoints.values()
            for name in self.architecture.names(self.layers(checkpoint.reference))
        ]
        for done, (checkpoint, name) in enumerate(wanted, start=1):
            stored = self._stored_name(checkpoint.reference, name)
            if (checkpoint.reference, stored) not in self._resident:
                self._resident[checkpoint.reference, stored] = self._read(checkpoint, stored)
            if progress:
                progress(checkpoint.reference, done, len(wanted))

    def _read(self, checkpoint: Checkpoint, name: str) -> Tensor:
        try:
            return checkpoint.read(name, self.device)
        except torch.OutOfMemoryError:
            raise MergingError(
                f"model {checkpoint.reference}: {self.device} has no room for the parents; choose another device "
                "(device: cpu) or fewer parents"
            ) from None
