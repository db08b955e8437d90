"""The layout: how tensors in a model's files become tensors of the live model, and their names in a merge.

transformers arranges some models differently than their files: it stacks the experts of a layer in one tensor
(Mixtral), or renames a tensor (GPT-NeoX's head). Its conversion mapping says how; nothing here knows a model family.

Guarantees: a merge works on the tensors that mergekit 0.1.5 merges. Where files hold a tensor in pieces, these are the
live model's, by the live model's names; else they are the files', by the files' names. Files of either layout can be
read. Does not read files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from transformers.core_model_loading import WeightConverter, WeightRenaming

Pieces: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The two layouts of a model's tensors.

    Attributes:
        build: builds the model on the meta device; called only when the model is needed.
        known: whether files hold some tensor in pieces; None if only the model tells.
    """

    build: Callable[[], Any] = field(repr=False)
    known: bool | None = None

    @cached_property
    def model(self) -> Any:
        """The model, on the meta device."""
        return self.build()

    @cached_property
    def in_pieces(self) -> bool:
        """Whether files hold some tensor in pieces."""
        if self.known is not None:
            return self.known
        return any(_convert_name(name, self._saving[1])[1] is not None for name in self.model.state_dict())

    @property
    def rules(self) -> str:
        """Text that identifies this layout in every process."""
        config: str = self.model.config.to_json_string()
        return f"transformers {version('transformers')} {sha256(config.encode()).hexdigest()}"

    def name_of(self, live: str) -> str:
        """Return the merge's name for a tensor of the live model."""
        return live if self.in_pieces else _rename(live, self._saving[0])

    def pieces(self, stored: Iterable[str]) -> dict[str, Pieces]:
        """Return the merge's names for stored tensors, each with the names of its pieces in order."""
        from transformers.core_model_loading import dot_natural_key

        found: dict[str, Pieces] = {}
        for piece in sorted(stored, key=dot_natural_key):
            live, converter, _ = self._goes_into(piece)
            names = [self.name_of(live)]
            if converter is not None:
                names = [live.replace(converter.target_patterns[0], target) for target in converter.target_patterns]
            for name in names:
                found[name] = (*found.get(name, ()), piece)
        return found

    def assemble(self, name: str, pieces: Mapping[str, Tensor]) -> Tensor:
        """Return a tensor from its pieces, which are given in order by their names in files."""
        first = next(iter(pieces))
        live, converter, _ = self._goes_into(first)
        if converter is None:
            return pieces[first]
        collector: Any = copy.deepcopy(converter)  # typed for loading files
        for piece, tensor in pieces.items():
            collector.add_tensor(live, piece, self._goes_into(piece)[2], tensor)
        made: Tensor | list[Tensor] = collector.convert(live, model=self.model, config=self.model.config)[name]
        return made[0] if isinstance(made, list) else made

    def disassemble(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return the pieces of a tensor as files hold them, or the whole tensor if it cannot be split by itself."""
        if not self.in_pieces:
            return {name: tensor}
        from transformers.core_model_loading import revert_weight_conversion

        pieces: dict[str, Tensor] = revert_weight_conversion(self.model, {name: tensor})
        if list(self.pieces(pieces)) != [name]:
            return {name: tensor}
        return {piece: part.contiguous() for piece, part in pieces.items()}

    def _goes_into(self, piece: str) -> tuple[str, WeightConverter | None, str | None]:
        """Return the (first) live tensor that a stored one goes into, its converter, and the matching pattern."""
        renamings, converters = self._loading
        live, pattern = _convert_name(_rename(piece, renamings), converters)
        return live, next((each for each in converters if pattern in each.source_patterns), None), pattern

    @cached_property
    def _loading(self) -> tuple[list[WeightRenaming], list[WeightConverter]]:
        """The renamings and converters from the files' tensors to the live model's."""
        from transformers.conversion_mapping import get_model_conversion_mapping

        return _by_kind(get_model_conversion_mapping(self.model))

    @cached_property
    def _saving(self) -> tuple[list[WeightRenaming], list[WeightConverter]]:
        """The renamings and converters from the live model's tensors to the files'."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange

        mapping = reversed(get_model_conversion_mapping(self.model, add_legacy=False))
        return _by_kind([each.reverse_transform() for each in mapping if not isinstance(each, PrefixChange)])


def _by_kind(transforms: Sequence[object]) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    return renamings, [each for each in transforms if isinstance(each, WeightConverter)]


def _rename(name: str, renamings: Iterable[WeightRenaming]) -> str:
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def _convert_name(name: str, converters: Iterable[WeightConverter]) -> tuple[str, str | None]:
    for converter in converters:
        converted, pattern = converter.rename_source_key(name)
        if pattern is not None:
            return converted, pattern
    return name, None
