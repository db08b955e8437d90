"""A recipe: mergekit's YAML, read strictly.

Guarantees: what is read here means what mergekit 0.1.5 makes of it, and can be written as YAML that mergekit reads; an
unknown key, a wrong type or a number outside its legal range is an error that names the file and the key. Does not open
checkpoints: whether a recipe fits its parents is the plan's business.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from merging.contract import complaints
from merging.errors import MergingError, suggest
from merging.methods import METHODS, Method
from merging.settings import parse_setting


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _parse_reference(raw: object) -> str:
    if isinstance(raw, str) and raw.strip():
        return raw
    if isinstance(raw, Mapping):  # mergekit's long form: {model: {path, revision}, lora: ...}
        _refuse_unknown(raw, ("model", "lora", "override_architecture"))
        if raw.get("override_architecture"):
            raise _reference_error("override_architecture: is not possible here; change the model's config.json")
        if raw.get("model") is None:
            raise _reference_error("model: is missing")
        return "+".join(_reference_part(raw[key]) for key in ("model", "lora") if raw.get(key) is not None)
    raise _reference_error(f"expected a model (a folder or a hub id), got {_shown(raw)}")


def _reference_part(raw: object) -> str:
    if isinstance(raw, Mapping) and isinstance(raw.get("path"), str):
        _refuse_unknown(raw, ("path", "revision"))
        revision = raw.get("revision")
        return f"{raw['path']}@{revision}" if revision else str(raw["path"])
    if isinstance(raw, str):
        return raw
    raise _reference_error(f"expected a path, got {_shown(raw)}")


def _refuse_unknown(raw: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in raw:
        if key not in known:
            raise _reference_error(f"{key}: unknown key{suggest(str(key), known)} (known: {', '.join(known)})")


def _reference_error(reason: str) -> PydanticCustomError:
    return PydanticCustomError("reference", "{reason}", {"reason": reason})


def _write_reference(reference: str) -> object:
    # mergekit takes "+" for an adapter and "@" for a revision, unless the path is spelled out.
    if ("+" in reference or "@" in reference) and Path(reference).exists():
        return {"model": {"path": reference}}
    return reference


ModelReference: TypeAlias = Annotated[str, BeforeValidator(_parse_reference), PlainSerializer(_write_reference)]
Parameters: TypeAlias = Annotated[
    dict[str, Annotated[Any, BeforeValidator(parse_setting)]],
    BeforeValidator(lambda raw: {} if raw is None else raw),
]
Dtype: TypeAlias = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"],
    BeforeValidator(lambda raw: raw.removeprefix("torch.") if isinstance(raw, str) else raw),
]


class InputModel(_Strict):
    """One entry of `models`."""

    model: ModelReference
    parameters: Parameters = Field(default_factory=dict)


class InputSlice(_Strict):
    """One entry of a slice's `sources`: the layers [start, end) of a model."""

    model: ModelReference
    layer_range: tuple[int, int]
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> InputSlice:
        start, end = self.layer_range
        if not 0 <= start < end:
            raise ValueError(f"layer_range [{start}, {end}] holds no layers; it is [first, one past the last]")
        return self


class OutputSlice(_Strict):
    """A run of output layers, merged from the same number of layers of each source."""

    sources: tuple[InputSlice, ...] = Field(min_length=1)
    base_model: ModelReference | None = None
    residual_weight: float | None = None
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_length(self) -> OutputSlice:
        lengths = {source.layer_range[1] - source.layer_range[0] for source in self.sources}
        if len(lengths) > 1:
            raise ValueError(f"the sources of a slice must have the same number of layers, got {sorted(lengths)}")
        return self


class OutputModule(_Strict):
    """One entry of `modules`."""

    slices: tuple[OutputSlice, ...] | None = None
    models: tuple[InputModel, ...] | None = None
    parameters: Parameters = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> OutputModule:
        if bool(self.slices) == bool(self.models):
            raise ValueError("give either 'models' or 'slices'")
        return self


class ModelToken(_Strict):
    """The embedding that a model has of a token, given by its id or its text."""

    kind: Literal["model_token"]
    model: ModelReference
    token_id: int | None = None
    token: str | None = None

    @model_validator(mode="after")
    def _one_token(self) -> ModelToken:
        if (self.token_id is None) == (self.token is None):
            raise ValueError("give either 'token_id' or 'token'")
        return self


class ZeroEmbedding(_Strict):
    """An embedding of zeros."""

    kind: Literal["zero"]


def _kind_of_source(raw: object) -> str:
    kind = raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)
    return str(kind) if kind in ("model_token", "zero") else "model"


class TokenEmbedding(_Strict):
    """Where the embedding of one token comes from (mergekit's `tokenizer.tokens`)."""

    source: (
        Annotated[
            Annotated[ModelToken, Tag("model_token")]
            | Annotated[ZeroEmbedding, Tag("zero")]
            | Annotated[ModelReference, Tag("model")],
            Discriminator(_kind_of_source),
        ]
        | None
    ) = None
    force: bool = False


class TokenizerSection(_Strict):
    """mergekit's `tokenizer:` block."""

    source: ModelReference = "union"
    tokens: dict[str, TokenEmbedding] | None = None
    pad_to_multiple_of: int | None = Field(default=None, gt=0)


class Recipe(_Strict):
    """A merge recipe: mergekit's schema, frozen, comparable by content.

    Read one with `load`, `parse` or `from_dict`; all of them raise `MergingError` with the file and the key.
    """

    merge_method: str
    base_model: ModelReference | None = None
    models: tuple[InputModel, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    modules: dict[str, OutputModule] | None = None
    parameters: Parameters = Field(default_factory=dict)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: ModelReference | None = None
    tokenizer: TokenizerSection | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> Recipe:
        if sum(map(bool, (self.models, self.slices, self.modules))) != 1:
            raise ValueError("give exactly one of 'models', 'slices' and 'modules'")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("give either 'tokenizer_source' or 'tokenizer', not both")
        return self

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
                f"{_place(source, key)}: expected a recipe (a mapping with 'merge_method'), got {_shown(data)}"
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
    return f"{_place(source, path)}: {message}, got {_shown(error['input'])}"


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


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
