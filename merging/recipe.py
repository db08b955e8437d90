"""A recipe: mergekit's YAML, read strictly.

Guarantees: what is read here means what mergekit 0.1.5 makes of it (precedence of parameters, gradients,
filters; see `resolve`); an unknown key, a wrong type or a number outside its legal range is an error that names the
file and the key. Does not open checkpoints: whether a recipe fits its parents is the plan's business.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from merging.errors import MergingError, suggest
from merging.methods import METHODS
from merging.methods.registry import Method, Parameter, Scope

Scalar: TypeAlias = bool | int | float | str
Gradient: TypeAlias = tuple[Scalar, ...]

DTYPES = ("float32", "bfloat16", "float16", "float64")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conditional(_Strict):
    """A value for the tensors whose name contains `filter`; no filter (or ``*``) fits every tensor."""

    value: Scalar | Gradient
    filter: str | None = None

    def fits(self, tensor_name: str) -> bool:
        """Whether the tensor's name contains the filter."""
        return self.filter is None or self.filter == "*" or self.filter in tensor_name


Setting: TypeAlias = Scalar | Gradient | tuple[Conditional, ...]


def _setting_error(at: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{reason}", {"at": at, "reason": reason})


def _parse_scalar_or_gradient(raw: object, at: str) -> Scalar | Gradient:
    if isinstance(raw, bool | int | float | str):
        return raw
    if isinstance(raw, list | tuple):
        if not raw:
            raise _setting_error(at, "an empty list is no gradient; give at least one number")
        for index, item in enumerate(raw):
            if not isinstance(item, bool | int | float | str):
                raise _setting_error(f"{at}[{index}]", f"expected a number, got {_shown(item)}")
        return tuple(raw)
    raise _setting_error(at, f"expected a number, a list of numbers (a gradient) or filters, got {_shown(raw)}")


def _parse_conditional(raw: object, at: str) -> Conditional:
    if isinstance(raw, Conditional):
        return raw
    if not isinstance(raw, Mapping):
        raise _setting_error(at, f"expected {{filter, value}}, got {_shown(raw)}")
    for key in raw:
        if key not in ("filter", "value"):
            hint = suggest(str(key), ("filter", "value"))
            raise _setting_error(f"{at}.{key}", f"unknown key (a filter has 'filter' and 'value'){hint}")
    if "value" not in raw:
        raise _setting_error(at, "a filter needs a 'value'")
    name = raw.get("filter")
    if name is not None and not isinstance(name, str):
        raise _setting_error(f"{at}.filter", f"expected a part of a tensor's name, got {_shown(name)}")
    return Conditional(value=_parse_scalar_or_gradient(raw["value"], f"{at}.value"), filter=name)


def _parse_setting(raw: object) -> Setting:
    if isinstance(raw, Mapping | Conditional):
        return (_parse_conditional(raw, ""),)
    if isinstance(raw, list | tuple) and any(isinstance(item, Mapping | Conditional) for item in raw):
        return tuple(_parse_conditional(item, f"[{index}]") for index, item in enumerate(raw))
    return _parse_scalar_or_gradient(raw, "")


def _parse_reference(raw: object) -> str:
    if isinstance(raw, str) and raw.strip():
        return raw
    if isinstance(raw, Mapping):  # mergekit's long form: {model: {path, revision}, lora: ...}
        return "+".join(_reference_part(raw[key]) for key in ("model", "lora") if raw.get(key) is not None)
    raise PydanticCustomError(
        "reference", "{reason}", {"reason": f"expected a model (a folder or a hub id), got {_shown(raw)}"}
    )


def _reference_part(raw: object) -> str:
    if isinstance(raw, Mapping) and isinstance(raw.get("path"), str):
        revision = raw.get("revision")
        return f"{raw['path']}@{revision}" if revision else str(raw["path"])
    if isinstance(raw, str):
        return raw
    raise PydanticCustomError("reference", "{reason}", {"reason": f"expected a path, got {_shown(raw)}"})


ModelReference: TypeAlias = Annotated[str, BeforeValidator(_parse_reference)]
Parameters: TypeAlias = dict[str, Annotated[Any, BeforeValidator(_parse_setting)]]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]


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


class TokenEmbedding(_Strict):
    """Where the embedding of one token comes from (mergekit's `tokenizer.tokens`)."""

    source: Union[ModelReference, dict[str, Any], None] = None  # noqa: UP007 - a validator sits in the union
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
            raise MergingError(_explain(error.errors()[0], source, key)) from None
        for path, reason in _complaints(recipe):
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


def resolve(setting: Setting, tensor_name: str, t: float) -> Scalar | None:
    """Return the one value that a setting has for a tensor, or None where no filter fits.

    A gradient is interpolated linearly at `t` in [0, 1]; the first fitting filter wins; words and booleans in a
    gradient are picked, not interpolated (mergekit 0.1.5, docs/merge_methods.md and config.py's behaviour).
    """
    if not isinstance(setting, tuple):
        return setting
    if setting and isinstance(setting[0], Conditional):
        for conditional in setting:
            assert isinstance(conditional, Conditional)
            if conditional.fits(tensor_name):
                return resolve(conditional.value, tensor_name, t)
        return None
    return _interpolate([knot for knot in setting if not isinstance(knot, Conditional)], t)


def _interpolate(knots: Sequence[Scalar], t: float) -> Scalar:
    position = t * (len(knots) - 1)
    left = int(position)
    numbers = [knot for knot in knots if isinstance(knot, int | float) and not isinstance(knot, bool)]
    if len(numbers) != len(knots):
        return knots[left]
    fraction = position - left
    return (1 - fraction) * numbers[left] + fraction * numbers[min(left + 1, len(knots) - 1)]


# --- what a recipe must satisfy beyond its schema --------------------------------------------------------------------


def _complaints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    method = METHODS.get(recipe.merge_method)
    if method is None:
        known = ", ".join(METHODS)
        hint = suggest(recipe.merge_method, METHODS)
        yield "merge_method", f"unknown method {recipe.merge_method!r}{hint} (known: {known})"
        return
    for path, parameters in _parameter_blocks(recipe):
        for name, setting in parameters.items():
            yield from _setting_complaints(method, f"{path}.{name}", name, setting)
    for path, inputs, base in _input_groups(recipe):
        yield from _input_complaints(recipe, method, path, inputs, base)


def _parameter_blocks(recipe: Recipe) -> Iterator[tuple[str, Parameters]]:
    yield "parameters", recipe.parameters
    for index, model in enumerate(recipe.models or ()):
        yield f"models[{index}].parameters", model.parameters
    modules = recipe.modules or {}
    for name, module in modules.items():
        yield f"modules.{name}.parameters", module.parameters
        for index, model in enumerate(module.models or ()):
            yield f"modules.{name}.models[{index}].parameters", model.parameters
    for path, output_slice in _slice_paths(recipe):
        yield f"{path}.parameters", output_slice.parameters
        for index, source in enumerate(output_slice.sources):
            yield f"{path}.sources[{index}].parameters", source.parameters


def _slice_paths(recipe: Recipe) -> Iterator[tuple[str, OutputSlice]]:
    for index, output_slice in enumerate(recipe.slices or ()):
        yield f"slices[{index}]", output_slice
    for name, module in (recipe.modules or {}).items():
        for index, output_slice in enumerate(module.slices or ()):
            yield f"modules.{name}.slices[{index}]", output_slice


def _setting_complaints(method: Method, path: str, name: str, setting: Setting) -> Iterator[tuple[str, str]]:
    # A parameter of another method is tolerated, as mergekit does: a search may choose among methods.
    parameter = method.parameter(name) or next((p for m in METHODS.values() if (p := m.parameter(name))), None)
    if parameter is None:
        known = sorted({p.key for m in METHODS.values() for p in m.parameters})
        yield (
            path,
            f"unknown parameter; {method.name} has {', '.join(p.key for p in method.parameters)}{suggest(name, known)}",
        )
        return
    for suffix, value in _leaves(setting):
        if reason := parameter.refuses(value):
            yield path + suffix, reason


def _leaves(setting: Setting) -> Iterator[tuple[str, Scalar]]:
    if not isinstance(setting, tuple):
        yield "", setting
        return
    for index, item in enumerate(setting):
        if isinstance(item, Conditional):
            for suffix, value in _leaves(item.value):
                yield f"[{index}].value{suffix}", value
        else:
            yield f"[{index}]", item


_Inputs: TypeAlias = list[tuple[str, str, list[Parameters]]]  # (path, model, parameter blocks by precedence)


def _input_groups(recipe: Recipe) -> Iterator[tuple[str, _Inputs, str | None]]:
    def of_models(path: str, models: Sequence[InputModel], outer: list[Parameters]) -> _Inputs:
        return [(f"{path}[{i}]", m.model, [m.parameters, *outer]) for i, m in enumerate(models)]

    if recipe.models:
        yield "models", of_models("models", recipe.models, [recipe.parameters]), recipe.base_model
    for name, module in (recipe.modules or {}).items():
        if module.models:
            path = f"modules.{name}.models"
            yield (
                path,
                of_models(path, module.models, [module.parameters, recipe.parameters]),
                recipe.base_model,
            )
    for path, output_slice in _slice_paths(recipe):
        module = (recipe.modules or {}).get(path.split(".")[1]) if path.startswith("modules.") else None
        outer = [output_slice.parameters, *([module.parameters] if module else []), recipe.parameters]
        inputs = [
            (f"{path}.sources[{i}]", source.model, [source.parameters, *outer])
            for i, source in enumerate(output_slice.sources)
        ]
        yield f"{path}.sources", inputs, output_slice.base_model or recipe.base_model


def _input_complaints(
    recipe: Recipe, method: Method, path: str, inputs: _Inputs, base: str | None
) -> Iterator[tuple[str, str]]:
    models = [model for _, model, _ in inputs]
    for index, model in enumerate(models):
        if model in models[:index]:
            yield f"{path}[{index}].model", f"{model} is given twice"
    if method.base == "required" and base is None:
        yield (
            "base_model",
            f"{method.name} needs a base_model; name the model that the others were fine-tuned from",
        )
    if base is not None and base not in models and path.endswith(".sources"):
        yield path, f"the base model {base} must be one of the sources of the slice"
    count = len(models) + (base is not None and base not in models and method.base != "ignored")
    if reason := method.refuses_count(count):
        yield path, reason
    for parameter in method.parameters:
        if parameter.required:
            yield from _missing(method, parameter, inputs, base, recipe)


def _missing(
    method: Method, parameter: Parameter, inputs: _Inputs, base: str | None, recipe: Recipe
) -> Iterator[tuple[str, str]]:
    what = f"{method.name} needs the parameter {parameter.key!r}"
    if parameter.scope is Scope.SHARED:
        # A shared parameter is never read from an input's own block.
        for _, _, blocks in inputs[:1]:
            if not any(parameter.key in block for block in blocks[1:]):
                yield f"parameters.{parameter.key}", f"{what}; give it here"
        return
    for path, model, blocks in inputs:
        if parameter.scope is Scope.NON_BASE and model == base:
            continue
        if not any(parameter.key in block for block in blocks):
            yield (
                f"{path}.parameters.{parameter.key}",
                f"{what}; give it here, or for all models under 'parameters'",
            )
    if parameter.scope is Scope.INPUT and base is not None and base not in [m for _, m, _ in inputs]:
        if method.base != "ignored" and parameter.key not in recipe.parameters:
            yield f"parameters.{parameter.key}", f"{what} for the base model too"


# --- wording ---------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes gradients on one line, as people write them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the same weight twice is no alias
        return True


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(item, bool | int | float | str) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)


def _explain(error: ErrorDetails, source: str, key: str) -> str:
    context = error.get("ctx") or {}
    path = _join(key, _path(error["loc"]) + str(context.get("at", "")))
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        known = _known_keys(error["loc"][:-1])
        return f"{_place(source, path)}: unknown key{suggest(name, known)} (known: {', '.join(known)})"
    if error["type"] == "missing":
        return f"{_place(source, path)}: is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("setting", "reference", "value_error"):
        return f"{_place(source, path)}: {message}"
    return f"{_place(source, path)}: {_lower(message)}, got {_shown(error['input'])}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    names = [part for part in location if isinstance(part, str)]
    last = names[-1] if names else ""
    models: dict[str, type[BaseModel]] = {
        "models": InputModel, "slices": OutputSlice, "sources": InputSlice, "tokenizer": TokenizerSection,
    }  # fmt: skip
    if "tokens" in names:
        return list(TokenEmbedding.model_fields)
    if len(names) == 2 and names[0] == "modules":
        return list(OutputModule.model_fields)
    return list(models.get(last, Recipe).model_fields)


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
