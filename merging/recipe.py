"""A recipe: mergekit's YAML, read strictly.

Guarantees: what is read here means what mergekit 0.1.5 makes of it, and can be written as YAML that mergekit reads
(unless it uses a method that mergekit does not have: compatible.py); an unknown key, a wrong type or a number outside
its legal range is an error that names the file and the key. Does not open checkpoints: whether a recipe fits its
parents is the plan's business.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from merging.contract import complaints
from merging.errors import MergingError, shown, suggest
from merging.methods import METHODS, Method
from merging.schema import (
    Dtype,
    InputModel,
    InputSlice,
    ModelToken,
    OutputModule,
    OutputSlice,
    RecipeFields,
    TokenEmbedding,
    TokenizerSection,
    ZeroEmbedding,
)


class Recipe(RecipeFields):
    """A merge recipe: mergekit's schema, frozen, comparable by content.

    Read one with `load`, `parse` or `from_dict`; all of them raise `MergingError` with the file and the key.
    """

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file. Raises MergingError that names the file, the key and the remedy."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise MergingError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise MergingError(f"{path}: is no UTF-8 text; a recipe is a YAML file") from None
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, source: str = "<recipe>") -> Recipe:
        """Read a recipe from YAML text; `source` is what errors call it."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{source}:{mark.line + 1}" if mark else source
            raise MergingError(f"{where}: is no valid YAML: {getattr(error, 'problem', None) or error}") from None
        return cls.from_dict(data, source=source)

    @classmethod
    def from_dict(cls, data: object, source: str, key: str = "") -> Recipe:
        """Read a recipe from plain data; `key` is where it stands in `source`, e.g. ``recipe``."""
        if not isinstance(data, Mapping):
            raise MergingError(
                f"{_place(source, key)}: expected a recipe (a mapping with 'merge_method'), got {shown(data)}"
            )
        try:
            recipe = cls.model_validate(copy.deepcopy(dict(data)))
        except ValidationError as error:
            raise MergingError(_explain(_first(error.errors()), source, key)) from None
        for path, reason in complaints(recipe):
            raise MergingError(f"{_place(source, _join(key, path))}: {reason}")
        return recipe

    @classmethod
    def single(cls, model: str, dtype: Dtype | None = None) -> Recipe:
        """One model alone, as a recipe."""
        return cls(merge_method="passthrough", models=(InputModel(model=model),), dtype=dtype)

    @classmethod
    def average(cls, models: Sequence[str], dtype: Dtype | None = None) -> Recipe:
        """The equal average of some models, as a recipe."""
        inputs = tuple(InputModel(model=model, parameters={"weight": 1.0}) for model in models)
        return cls(merge_method="linear", models=inputs, dtype=dtype)

    def parents(self) -> tuple[str, ...]:
        """Every model that the recipe reads, as written: inputs in order, base models after them."""
        found = [source.model for source in self._sources()]
        found += [s.base_model for s in self._slices() if s.base_model] + ([self.base_model] if self.base_model else [])
        return tuple(dict.fromkeys(found))

    @property
    def donor(self) -> str:
        """The model whose config, generation config and (unless the recipe says otherwise) tokenizer the merge has."""
        return self.base_model or self.parents()[0]

    @cached_property
    def method(self) -> Method:
        """The merge method. Raises KeyError for a name that `from_dict` would have refused."""
        return METHODS[self.merge_method]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as mergekit reads it."""
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude_defaults=True))
        return plain

    def to_yaml(self) -> str:
        """The recipe as YAML that mergekit reads."""
        return yaml.dump(self.to_dict(), sort_keys=False, Dumper=_Dumper, allow_unicode=True)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def _slices(self) -> Iterator[OutputSlice]:
        yield from self.slices or ()
        for module in (self.modules or {}).values():
            yield from module.slices or ()

    def _sources(self) -> Iterator[InputModel | InputSlice]:
        yield from self.models or ()
        for module in (self.modules or {}).values():
            yield from module.models or ()
        for output_slice in self._slices():
            yield from output_slice.sources


# --- wording ---------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes gradients on one line, as people write them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the same weight twice is no alias
        return True


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(item, bool | int | float | str) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)


# What pydantic calls "a valid tuple" and "a valid dictionary" is no word of YAML.
_EXPECTED = {
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}
_WITHOUT_INPUT = ("setting", "reference", "value_error")


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    # A misspelt key is two errors to pydantic, and the one that says "missing" comes first.
    return min(errors, key=lambda error: error["type"] != "extra_forbidden")


def _explain(error: ErrorDetails, source: str, key: str) -> str:
    context = error.get("ctx") or {}
    location = tuple(part for part in error["loc"] if part not in ("model_token", "zero", "model_reference"))
    path = _join(key, _path(location) + str(context.get("at", "")))
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        return f"{_place(source, path)}: unknown key{suggest(str(location[-1]), known)} (known: {', '.join(known)})"
    if error["type"] == "missing":
        return f"{_place(source, path)}: is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in _WITHOUT_INPUT:
        return f"{_place(source, path)}: {message}"
    message = _EXPECTED.get(error["type"], message[:1].lower() + message[1:])
    return f"{_place(source, path)}: {message}, got {shown(error['input'])}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "models": InputModel,
    "slices": OutputSlice,
    "sources": InputSlice,
    "tokenizer": TokenizerSection,
    "modules": OutputModule,
    "tokens": TokenEmbedding,
    "model_token": ModelToken,
    "zero": ZeroEmbedding,
}


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section = next((_SECTIONS[part] for part in reversed(location) if part in _SECTIONS), Recipe)
    return list(section.model_fields)


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    return path


def _join(path: str, rest: str) -> str:
    if not path or not rest or rest.startswith("["):
        return path + rest
    return f"{path}.{rest}"


def _place(source: str, key: str) -> str:
    return f"{source}: {key}" if key else source
