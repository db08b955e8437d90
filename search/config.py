"""The config of a search: one YAML file, validated whole before anything is loaded.

Guarantees: every error names the file, the key's path, what was read and what to do. Paths of models and problems are
looked up beside the config first, then in the current folder; what is neither is left as it is (a hub id).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evaluation import PromptFormat
from merging.errors import suggest
from search.errors import SearchError
from search.space import SearchSpace

Sampler: TypeAlias = Literal["tpe", "cmaes", "gp", "nsgaii", "qmc", "random"]

_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")
# Keys of a recipe whose value names a model or a file, and the words that may stand there for something else.
_REFERENCES: Mapping[str, tuple[str, ...]] = {
    "model": (),
    "path": (),
    "base_model": (),
    "tokenizer_source": ("base", "union"),
    "source": ("base", "union"),
    "calibration": (),
}


def parse_duration(value: object) -> float:
    """Return the seconds of ``8h``, ``1h30m``, ``90m``, ``45s`` or a plain number of seconds. Raises ValueError."""
    match = _DURATION.fullmatch(str(value).strip())
    seconds = sum(float(match[unit] or 0) * scale for unit, scale in (("h", 3600), ("m", 60), ("s", 1))) if match else 0
    if seconds <= 0:
        raise ValueError(f"{value!r} is no duration; write it like 8h, 1h30m, 90m or 45s")
    return seconds


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSection(_Section):
    """How problems are put to the models."""

    format: PromptFormat = "completion"
    tokenizer: str | None = None


class EvaluationSection(_Section):
    """What candidates are scored on."""

    problems: str = "humaneval"
    prompt: PromptSection = PromptSection()
    max_new_tokens: int = Field(default=512, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    report_fraction: float = Field(default=0.5, ge=0, lt=1)
    timeout: Duration = 3.0
    workers: int | None = Field(default=None, gt=0)
    allow_code_execution: bool = False


class SearchSection(_Section):
    """How candidates are proposed, and how many."""

    sampler: Sampler = "tpe"
    trials: int = Field(default=100, gt=0)
    timeout: Duration | None = None
    seed: int = Field(default=0, ge=0)
    finalists: int = Field(default=3, ge=1)
    enqueue: tuple[str | dict[str, Any], ...] = ()


class MergingSection(_Section):
    """Where merges are made, and with which random numbers."""

    device: str = "auto"
    random_seed: int = 0


class _Sections(_Section):
    recipe: dict[str, Any]
    evaluation: EvaluationSection = EvaluationSection()
    search: SearchSection = SearchSection()
    merging: MergingSection = MergingSection()


@dataclass(frozen=True)
class SearchConfig:
    """A validated config.

    Attributes:
        source: the file that it was read from, as errors call it.
        text: the file's text.
        space: the recipe with its ranges.
        warm_starts: values of the searched numbers that are tried first, from `search.enqueue`.
    """

    source: str
    text: str = field(repr=False)
    space: SearchSpace
    evaluation: EvaluationSection
    search: SearchSection
    merging: MergingSection
    warm_starts: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, path: str | Path) -> SearchConfig:
        """Read a config file. Raises SearchError (or MergingError, of the recipe in it) naming file, key and remedy."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise SearchError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SearchError(f"{path}: is no UTF-8 text; a config is a YAML file") from None
        return cls.parse(text, source=str(path), folder=Path(path).parent)

    @classmethod
    def parse(cls, text: str, source: str = "<config>", folder: Path | None = None) -> SearchConfig:
        """Read a config from text; relative paths in it are looked up in `folder` first."""
        data = _read_yaml(text, source)
        try:
            sections = _Sections.model_validate(data)
        except ValidationError as error:
            raise SearchError(_explain(error, source)) from None
        places = [folder or Path(), Path()]
        space = SearchSpace.read(_located(sections.recipe, places), source)
        evaluation = sections.evaluation
        located = evaluation.model_copy(
            update={
                "problems": evaluation.problems
                if evaluation.problems == "humaneval"
                else _locate(evaluation.problems, places),
                "prompt": evaluation.prompt.model_copy(
                    update={"tokenizer": evaluation.prompt.tokenizer and _locate(evaluation.prompt.tokenizer, places)}
                ),
            }
        )
        starts = tuple(
            space.parameters_of(_warm_start(entry, places, source, index), f"search.enqueue[{index}]")
            for index, entry in enumerate(sections.search.enqueue)
        )
        return cls(source, text, space, located, sections.search, sections.merging, starts)

    def with_seed(self, seed: int) -> SearchConfig:
        """Return the same config with another seed."""
        return replace(self, search=self.search.model_copy(update={"seed": seed}))

    def with_consent(self) -> SearchConfig:
        """Return the same config with the consent to execute code."""
        return replace(self, evaluation=self.evaluation.model_copy(update={"allow_code_execution": True}))

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same for results to belong together, as plain data; how long to search may change."""
        return {
            "recipe": self.space.template,
            "evaluation": self.evaluation.model_dump(exclude={"allow_code_execution", "workers", "batch_size"}),
            "search": self.search.model_dump(include={"sampler", "seed"}),
            "merging": self.merging.model_dump(include={"random_seed"}),
        }


class _UniqueKeys(yaml.SafeLoader):
    """A loader to which a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise SearchError(f"{where}: is no valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        raise SearchError(
            f"{source}: expected a mapping with the keys recipe, evaluation, search; got {type(data).__name__}"
        )
    return data


def _explain(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    location = [part for part in first["loc"] if part not in ("str", "dict[str,any]")]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        return f"{source}: {path}: unknown key{suggest(str(location[-1]), known)} (known: {', '.join(known)})"
    if first["type"] == "missing":
        return f"{source}: {path}: is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{source}: {path}: {message}"
    return f"{source}: {path}: {message[:1].lower()}{message[1:]}, got {first['input']!r}"


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "evaluation": EvaluationSection,
    "search": SearchSection,
    "merging": MergingSection,
    "prompt": PromptSection,
}


def _known_keys(location: list[int | str]) -> list[str]:
    section: type[BaseModel] = _Sections
    for part in location:
        section = _SECTIONS.get(str(part), section)
    return list(section.model_fields)


def _warm_start(entry: str | dict[str, Any], places: list[Path], source: str, index: int) -> Any:
    if isinstance(entry, dict):
        return _located(entry, places)
    file = Path(_locate(entry, places))
    if not file.is_file():
        raise SearchError(f"{source}: search.enqueue[{index}]: no recipe file {entry}; give one, or the recipe itself")
    return _located(_read_yaml(file.read_text(encoding="utf-8"), str(file)), [file.parent, *places])


def _located(node: Any, places: list[Path], key: str = "") -> Any:
    """Return plain data in which references to models are paths that work from anywhere, where they are paths."""
    if isinstance(node, dict):
        return {name: _located(value, places, key if name == "choices" else str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [_located(item, places, key) for item in node]
    is_reference = isinstance(node, str) and key in _REFERENCES and node not in _REFERENCES[key]
    return _locate(node, places) if is_reference else node


def _locate(reference: str, places: list[Path]) -> str:
    for place in places:
        path = (place / Path(reference).expanduser()).resolve()
        if path.exists():
            return str(path)
    return reference
