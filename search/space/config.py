"""The config of a search: one YAML file, validated whole before anything is loaded.

Guarantees: every error names the file, the key's path, what was read and what to do. Paths of models and problems are
looked up beside the config first, then in the current folder; what is neither is left as it is (a hub id).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from evaluation import (
    BackendName,
    ComputeDtype,
    EvaluationError,
    ProblemSet,
    PromptFormat,
    Sampling,
    load_problems,
)
from evaluation.problems import SETS, SOURCES, is_there
from merging import LoadOptions, YamlReader, missing_part, renamed, shown, split_reference
from merging.checkpoints.named import FILES, REFERENCES, kind_of, references_in, require_files, require_models
from merging.sizes import parse_size
from search.errors import SearchError
from search.space.space import SearchSpace

Sampler: TypeAlias = Literal["tpe", "cmaes", "gp", "nsgaii", "qmc", "random"]
Objectives: TypeAlias = Literal["weighted", "separate"]

_YAML = YamlReader("config", SearchError)
_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")
_NO_NAMES: Mapping[str, str] = {}


def parse_duration(value: object) -> float:
    """Return the seconds of ``8h``, ``1h30m``, ``90m``, ``45s`` or a plain number of seconds. Raises ValueError."""
    match = _DURATION.fullmatch(str(value).strip())
    seconds = sum(float(match[unit] or 0) * scale for unit, scale in (("h", 3600), ("m", 60), ("s", 1))) if match else 0
    if seconds <= 0:
        raise ValueError(f"{value!r} is no duration; write it like 8h, 1h30m, 90m or 45s")
    return seconds


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration)]


Size: TypeAlias = Annotated[int, BeforeValidator(parse_size)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSection(_Section):
    """How problems are put to the models."""

    format: PromptFormat = "completion"
    tokenizer: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _format_alone(cls, data: Any) -> Any:
        return {"format": data} if isinstance(data, str) else data


class ProblemsEntry(_Section):
    """One of the problem sets that candidates are scored on."""

    source: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    prompt: PromptFormat | None = None
    timeout: Duration | None = None
    without: tuple[str, ...] = ()

    def load(self, where: str) -> ProblemSet:
        """Return its problems; `where` is what errors call it. Raises SearchError."""
        try:
            return load_problems(
                self.source, without=self.without, prompt_format=self.prompt, timeout_seconds=self.timeout
            )
        except EvaluationError as error:
            raise SearchError(f"{where}: {error}") from None


def _entries(value: object) -> object:
    """Return problem sets as a list of mappings: one may be given alone, and one without settings by its source."""
    given = value if isinstance(value, list | tuple) else [value]
    return [{"source": entry} if isinstance(entry, str) else entry for entry in given]


class EvaluationSection(_Section):
    """What candidates are scored on."""

    problems: Annotated[tuple[ProblemsEntry, ...], BeforeValidator(_entries)] = Field(
        default=(ProblemsEntry(source="humaneval"),), min_length=1
    )
    prompt: PromptSection = PromptSection()
    backend: BackendName = "transformers"
    compute_dtype: ComputeDtype = "auto"
    max_new_tokens: int = Field(default=512, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    report_fraction: float = Field(default=0.5, ge=0, lt=1)
    timeout: Duration | None = None
    samples: int = Field(default=1, gt=0)
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    workers: int | None = Field(default=None, gt=0)
    allow_code_execution: bool = False

    @model_validator(mode="after")
    def _backend_computes_so(self) -> EvaluationSection:
        if self.backend == "vllm" and self.compute_dtype == "float32":
            raise ValueError("compute_dtype: float32: vllm computes in the recipe's dtype; take auto or recipe")
        return self

    @model_validator(mode="after")
    def _sampling_makes_sense(self) -> EvaluationSection:
        self.sampling(0)
        return self

    def sampling(self, seed: int) -> Sampling:
        """Return how problems are answered. Raises ValueError where that makes no sense."""
        return Sampling(self.samples, self.temperature, self.top_p, seed)

    def load_problems(self, source: str = "<config>") -> ProblemSet:
        """Return all problems, those of several sets with their weights.

        Raises SearchError, with the key; `source` is what it calls the config.
        """
        key = f"{source}: evaluation.problems"
        sets = [entry.load(f"{key}[{index}]") for index, entry in enumerate(self.problems)]
        try:
            return ProblemSet.joined(sets, [entry.weight for entry in self.problems])
        except EvaluationError as error:
            raise SearchError(f"{key}: {error}") from None

    def located(self, places: list[Path]) -> EvaluationSection:
        """Return the same with paths that work from anywhere."""
        sets = [
            entry.model_copy(update={"source": entry.source if entry.source in SETS else _locate(entry.source, places)})
            for entry in self.problems
        ]
        tokenizer = self.prompt.tokenizer and _locate(self.prompt.tokenizer, places)
        prompt = self.prompt.model_copy(update={"tokenizer": tokenizer})
        return self.model_copy(update={"problems": tuple(sets), "prompt": prompt})


class SearchSection(_Section):
    """How candidates are proposed, and how many."""

    sampler: Sampler = "tpe"
    trials: int = Field(default=100, gt=0)
    timeout: Duration | None = None
    seed: int = Field(default=0, ge=0)
    finalists: int = Field(default=3, ge=1)
    objectives: Objectives = "weighted"
    prune_margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    enqueue: tuple[str | dict[str, Any], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys_are_current(cls, data: Any) -> Any:
        if isinstance(data, dict) and "screen" in data:
            raise ValueError("screen is now called prune_margin")
        return data

    @model_validator(mode="after")
    def _sampler_has_many_objectives(self) -> SearchSection:
        if self.objectives == "separate" and self.sampler == "cmaes":
            raise ValueError("objectives: separate: cmaes has a single objective; take another sampler, such as tpe")
        return self


class MergingSection(_Section):
    """Where merges are made, of what, and with which random numbers."""

    device: str = "auto"
    device_map: Literal["auto"] | dict[str, int | str] | None = None
    memory_budget: Size | None = None
    lazy_unpickle: bool = False
    random_seed: int = 0
    compile: bool | None = None
    trust_remote_code: bool = False
    allow_crimes: bool = False

    @model_validator(mode="after")
    def _one_of_device_and_map(self) -> MergingSection:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("device and device_map say where to merge; give one of the two")
        return self

    @property
    def load_options(self) -> LoadOptions:
        """What opening a model may do."""
        return LoadOptions(self.lazy_unpickle, self.trust_remote_code, self.allow_crimes)


class Sections(_Section):
    """A config key by key, before anything that it names is looked up."""

    recipe: dict[str, Any]
    evaluation: EvaluationSection = EvaluationSection()
    search: SearchSection = SearchSection()
    merging: MergingSection = MergingSection()

    @model_validator(mode="after")
    def _objectives_are_several(self) -> Sections:
        if self.search.objectives == "separate" and len(self.evaluation.problems) == 1:
            raise ValueError("search.objectives: separate needs several sets in evaluation.problems")
        return self

    @classmethod
    def load(cls, path: Path) -> Sections:
        """Read the config in a results folder: the files beside the original may be elsewhere. Raises SearchError."""
        return cls.parse(_YAML.text(path), str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Sections:
        """Read a config's text; `source` is what errors call it. Raises SearchError."""
        data = _YAML.parse(text, source)
        if not isinstance(data, dict):
            got = "nothing" if data is None else shown(data)
            raise SearchError(f"{source}: expected a mapping with the keys recipe, evaluation, search; got {got}")
        return _YAML.validate(cls, data, source)


@dataclass(frozen=True)
class SearchConfig:
    """A validated config.

    Attributes:
        source: the file that it was read from, as errors call it.
        text: the file's text.
        space: the recipe with its ranges.
        warm_starts: values of the searched numbers that are tried first, from `search.enqueue`.
        folder: where relative paths in it are looked up first.
    """

    source: str
    text: str = field(repr=False)
    space: SearchSpace
    evaluation: EvaluationSection
    search: SearchSection
    merging: MergingSection
    warm_starts: tuple[dict[str, Any], ...]
    folder: Path = Path()

    @classmethod
    def load(cls, path: str | Path) -> SearchConfig:
        """Read a config file. Raises SearchError (or MergingError, of the recipe in it) naming file, key and remedy."""
        return cls.parse(_YAML.text(path), source=str(path), folder=Path(path).parent)

    @classmethod
    def parse(
        cls, text: str, source: str = "<config>", folder: Path = Path(), names: Mapping[str, str] = _NO_NAMES
    ) -> SearchConfig:
        """Read a config from text.

        Args:
            text: the config.
            source: what errors call it.
            folder: where relative paths in it are looked up first.
            names: how recipes shall call models and files, by where these are found.
        """
        sections = Sections.parse(text, source)
        places = [folder, Path()]
        space = SearchSpace.read(renamed(_located(sections.recipe, places), names), source)
        located = sections.evaluation.located(places)
        starts = tuple(
            space.parameters_of(renamed(_warm_start(entry, places, source, index), names), f"search.enqueue[{index}]")
            for index, entry in enumerate(sections.search.enqueue)
        )
        return cls(source, text, space, located, sections.search, sections.merging, starts, folder)

    def with_seed(self, seed: int) -> SearchConfig:
        """Return the same config with another seed."""
        return replace(self, search=self.search.model_copy(update={"seed": seed}))

    def with_names(self, names: Mapping[str, str]) -> SearchConfig:
        """Return the same config with recipes that call models and files otherwise, as `parse` takes it."""
        again = SearchConfig.parse(self.text, self.source, self.folder, names)
        return replace(self, space=again.space, warm_starts=again.warm_starts)

    def named(self) -> Iterator[tuple[str, bool]]:
        """Yield the models and files that the recipe names, each with whether it is a model."""
        yield from ((reference, True) for _, reference in references_in(self.space.template))
        yield from ((reference, False) for _, reference in references_in(self.space.template, FILES))

    def with_consent(self) -> SearchConfig:
        """Return the same config with the consent to execute code."""
        return replace(self, evaluation=self.evaluation.model_copy(update={"allow_code_execution": True}))

    def with_compile(self, compile: bool) -> SearchConfig:
        """Return the same config with compiled kernels, or without."""
        return replace(self, merging=self.merging.model_copy(update={"compile": compile}))

    def require_files(self) -> None:
        """Raise SearchError, or MergingError, with the key, where a model or file that is named is not to be had."""
        wanted = [(f"recipe.{key}", reference) for key, reference in references_in(self.space.template)]
        if self.evaluation.prompt.tokenizer:
            wanted.append(("evaluation.prompt.tokenizer", self.evaluation.prompt.tokenizer))
        for key, reference in wanted:
            if missing := missing_part(reference):
                raise SearchError(
                    f"{self.source}: {key}: model {missing}: no such folder, here or beside the config; give one, or "
                    "a hub id (owner/name)"
                )
        for entry in self.evaluation.problems:
            if not is_there(entry.source):
                raise SearchError(
                    f"{self.source}: evaluation.problems: {entry.source}: no such file, here or beside the config; "
                    f"give {SOURCES}"
                )
        files = references_in(self.space.template, FILES)
        require_files((f"{self.source}: recipe.{key}", file) for key, file in files)
        named = [(f"{self.source}: {key}", reference) for key, reference in wanted]
        require_models(named, self.merging.load_options)

    @property
    def objectives(self) -> int:
        """How many objectives the search has: one, or each problem set's score."""
        return len(self.evaluation.problems) if self.search.objectives == "separate" else 1

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same for results to belong together, as plain data; how long to search may change."""
        # What is as it always was is not named: results of before there was a choice stay usable.
        objectives = {"objectives"} if self.objectives > 1 else set()
        return {
            "recipe": self.space.template,
            "evaluation": self.evaluation.model_dump(exclude={"allow_code_execution", "workers"}),
            "search": self.search.model_dump(include={"sampler", "seed"} | objectives),
            "merging": self.merging.model_dump(include={"random_seed"}),
        }


def _warm_start(entry: str | dict[str, Any], places: list[Path], source: str, index: int) -> Any:
    if isinstance(entry, dict):
        return _located(entry, places)
    file = Path(_locate(entry, places))
    if not file.is_file():
        raise SearchError(f"{source}: search.enqueue[{index}]: no recipe file {entry}; give one, or the recipe itself")
    recipe = _YAML.parse(_YAML.text(file), str(file))
    if not isinstance(recipe, dict):
        raise SearchError(f"{file}: expected a recipe (a mapping with 'merge_method'), got {shown(recipe)}")
    return _located(recipe, [file.parent, *places])


def _located(node: Any, places: list[Path], key: str = "") -> Any:
    """Return plain data in which references to models are paths that work from anywhere, where they are paths."""
    if isinstance(node, dict):
        return {name: _located(value, places, kind_of(str(name), key)) for name, value in node.items()}
    if isinstance(node, list):
        return [_located(item, places, key) for item in node]
    is_reference = isinstance(node, str) and key in REFERENCES and node not in REFERENCES[key]
    return _locate(node, places) if is_reference else node


def _locate(reference: str, places: list[Path]) -> str:
    if path := _found(reference, places):
        return path
    model, adapter = split_reference(reference, lambda part: _found(part, places) is not None)
    return f"{_locate(model, places)}+{_locate(adapter, places)}" if model and adapter else reference


def _found(reference: str, places: list[Path]) -> str | None:
    paths = ((place / Path(reference).expanduser()).resolve() for place in places if reference)
    return next((str(path) for path in paths if path.exists()), None)
