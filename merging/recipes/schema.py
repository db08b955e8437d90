"""The schema of a recipe: mergekit's YAML, key by key, as frozen pydantic models.

Guarantees: an unknown key, a wrong type or two keys that exclude each other are errors. What a method
requires beyond that is checked by contract.py; yaml_file.py words the errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from merging.checkpoints.references import split_reference
from merging.errors import shown, suggest
from merging.recipes.settings import parse_setting


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _parse_reference(raw: object) -> str:
    if isinstance(raw, str) and raw.strip():
        return raw
    if isinstance(raw, Mapping):  # mergekit's long form: {model: {path, revision}, lora: ...}
        _refuse_unknown(raw, ("model", "lora", "override_architecture"))
        if raw.get("override_architecture"):
            raise _reference_error("override_architecture: is not supported; change the model's config.json instead")
        if raw.get("model") is None:
            raise _reference_error("model: is missing")
        return "+".join(_reference_part(raw[key]) for key in ("model", "lora") if raw.get(key) is not None)
    raise _reference_error(f"expected a model (a folder or a hub id), got {shown(raw)}")


def _reference_part(raw: object) -> str:
    if isinstance(raw, Mapping) and isinstance(raw.get("path"), str):
        _refuse_unknown(raw, ("path", "revision"))
        revision = raw.get("revision")
        return f"{raw['path']}@{revision}" if revision else str(raw["path"])
    if isinstance(raw, str):
        return raw
    raise _reference_error(f"expected a path, got {shown(raw)}")


def _refuse_unknown(raw: Mapping[object, object], known: Sequence[str]) -> None:
    for key in raw:
        if key not in known:
            raise _reference_error(f"{key}: unknown key{suggest(str(key), known)} (known: {', '.join(known)})")


def _reference_error(reason: str) -> PydanticCustomError:
    return PydanticCustomError("reference", "{reason}", {"reason": reason})


def _write_reference(reference: str) -> object:
    # mergekit reads every "+" as an adapter and "@" as a revision, unless the path is spelled out.
    model, adapter = split_reference(reference)
    parts = {"model": model} | ({"lora": adapter} if adapter is not None else {})
    spelled = {key: {"path": part} for key, part in parts.items() if set(part) & set("+@") and Path(part).exists()}
    return parts | spelled if spelled else reference


ModelReference: TypeAlias = Annotated[str, BeforeValidator(_parse_reference), PlainSerializer(_write_reference)]
ParameterBlock: TypeAlias = Annotated[
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
    parameters: ParameterBlock = Field(default_factory=dict)


class InputSlice(_Strict):
    """One entry of a slice's `sources`: the layers [start, end) of a model."""

    model: ModelReference
    layer_range: tuple[int, int]
    parameters: ParameterBlock = Field(default_factory=dict)

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> InputSlice:
        start, end = self.layer_range
        if not 0 <= start < end:
            raise ValueError(f"layer_range [{start}, {end}] holds no layers; it is [first, one past the last]")
        return self


class OutputSlice(_Strict):
    """A run of output layers, merged from the same number of layers of each source.

    `residual_weight` is read but has no effect, as in mergekit 0.1.5.
    """

    sources: tuple[InputSlice, ...] = Field(min_length=1)
    base_model: ModelReference | None = None
    residual_weight: float | None = None
    parameters: ParameterBlock = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_length(self) -> OutputSlice:
        lengths = {source.layer_range[1] - source.layer_range[0] for source in self.sources}
        if len(lengths) > 1:
            raise ValueError(f"the sources of a slice must have the same number of layers, got {sorted(lengths)}")
        return self


def last_sources(slices: Sequence[OutputSlice]) -> OutputSlice:
    """Return the slice for the tensors after the layers: the last one, with at most as many sources as the first.

    (mergekit 0.1.5 pairs the tensors of the first slice's sources with the models of the last one's.)
    """
    return slices[-1].model_copy(update={"sources": slices[-1].sources[: len(slices[0].sources)]})


class OutputModule(_Strict):
    """One entry of `modules`."""

    slices: tuple[OutputSlice, ...] | None = None
    models: tuple[InputModel, ...] | None = None
    parameters: ParameterBlock = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> OutputModule:
        if bool(self.slices) == bool(self.models):
            raise ValueError("give either 'models' or 'slices'")
        return self


class ModelToken(_Strict):
    """A model's embedding of a token, which is given by its id or its text."""

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


class RecipeFields(_Strict):
    """The keys of a recipe's file."""

    merge_method: str
    base_model: ModelReference | None = None
    models: tuple[InputModel, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    modules: dict[str, OutputModule] | None = None
    parameters: ParameterBlock = Field(default_factory=dict)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: ModelReference | None = None
    tokenizer: TokenizerSection | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> RecipeFields:
        if sum(map(bool, (self.models, self.slices, self.modules))) != 1:
            raise ValueError("give exactly one of 'models', 'slices' and 'modules'")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("give either 'tokenizer_source' or 'tokenizer', not both")
        return self
