"""The sections of a config file, key by key, before anything that it names is looked up.

Guarantees: unknown keys, wrong types and values out of range are errors that name the file, the key and the remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from evaluation import (
    BackendName,
    ComputeDtype,
    EvaluationError,
    ProblemSet,
    PromptFormat,
    Sampling,
    load_problems,
)
from evaluation.scoring import MOST_SAMPLES
from merging import LoadOptions, YamlReader, shown, suggest
from merging.sizes import parse_size
from search.errors import SearchError

Objectives: TypeAlias = Literal["weighted", "separate"]

YAML = YamlReader("config", SearchError)
"""Reads config files, and the recipes in them."""

# How many problems MBPP+ v0.2.0 has.
_MBPP_PLUS = 378
_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")


def parse_duration(value: object) -> float:
    """Return the seconds of ``8h``, ``1h30m``, ``90m``, ``45s`` or a plain number of seconds. Raises ValueError."""
    match = _DURATION.fullmatch(str(value).strip())
    seconds = sum(float(match[unit] or 0) * scale for unit, scale in (("h", 3600), ("m", 60), ("s", 1))) if match else 0
    if seconds <= 0:
        raise ValueError(f"{value!r} is not a duration; write it like 8h, 1h30m, 90m or 45s")
    return seconds


Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration)]
Size: TypeAlias = Annotated[int, BeforeValidator(parse_size)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSection(_Section):
    """The format of the prompts, and the tokenizer that renders them."""

    format: PromptFormat = "completion"
    """With completion the problem is code to complete, with chat a message to a chat model."""
    tokenizer: str | None = None
    """The model whose tokenizer and chat template render the prompts; by default the merge's own."""

    @model_validator(mode="before")
    @classmethod
    def _read_format(cls, data: object) -> object:
        return {"format": data} if isinstance(data, str) else data


class ProblemsEntry(_Section):
    """One problem set that candidates are scored on."""

    source: str
    """A set's name, a file, a folder, or a hub id (owner/name)."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The weight of the set's score in the objective."""
    prompt: PromptFormat | None = None
    """The set's own prompt format, instead of evaluation.prompt."""
    timeout: Duration | None = None
    """The time limit for all tests of a completion; by default the set's own. evaluation.timeout overrides it."""
    without: tuple[str, ...] = ()
    """The ids of problems to leave out."""

    def load(self, where: str) -> ProblemSet:
        """Load its problems; errors begin with `where`. Raises SearchError."""
        try:
            return load_problems(
                self.source, without=self.without, prompt_format=self.prompt, timeout_seconds=self.timeout
            )
        except EvaluationError as error:
            raise SearchError(f"{where}: {error}") from None


def _entries(value: object) -> object:
    """Return problem sets as a list of mappings. A single set needs no list, a set without settings no mapping."""
    given = value if isinstance(value, list | tuple) else [value]
    return [{"source": entry} if isinstance(entry, str) else entry for entry in given]


class EvaluationSection(_Section):
    """How candidates are scored."""

    problems: Annotated[tuple[ProblemsEntry, ...], BeforeValidator(_entries)] = Field(
        default=(ProblemsEntry(source="humaneval"),), min_length=1
    )
    """The problems: one set or a list of sets; a set is a name, a path, a hub id, or a mapping with these keys."""
    prompt: PromptSection = PromptSection()
    """The prompt format (completion or chat), or a mapping with these keys."""
    backend: BackendName = "transformers"
    """The engine that runs the models; vllm comes with the extra `vllm` and needs a GPU."""
    compute_dtype: ComputeDtype = "auto"
    """The dtype that scoring computes in: the recipe's, float32, or on a CPU the faster of the two (auto)."""
    max_new_tokens: int = Field(default=512, gt=0)
    """The most tokens of a completion."""
    batch_size: int | None = Field(default=None, gt=0)
    """Prompts per batch; by default as many as the memory plan has room for."""
    report_fraction: float = Field(default=0.5, ge=0, lt=1)
    """The fraction of the problems that the search never sees."""
    timeout: Duration | None = None
    """The time limit for all tests of a completion, in all sets; by default each set's own."""
    samples: int = Field(default=1, gt=0, le=MOST_SAMPLES)
    """Completions per problem."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Samples come from the likeliest tokens up to this probability."""
    workers: int | None = Field(default=None, gt=0)
    """How many programs a worker checks at once; by default one per usable core, shared by the workers of a machine."""
    allow_code_execution: bool = False
    """Your consent to execute the code that the models generate, in a sandbox."""

    @model_validator(mode="after")
    def _settings_agree(self) -> EvaluationSection:
        if self.backend == "vllm" and self.compute_dtype == "float32":
            raise ValueError("compute_dtype: float32: vllm computes in the recipe's dtype; set auto or recipe")
        self.sampling(0)  # raises ValueError if it makes no sense
        return self

    def sampling(self, seed: int) -> Sampling:
        """Return how completions are sampled. Raises ValueError if the settings exclude each other."""
        return Sampling(self.samples, self.temperature, self.top_p, seed)

    @property
    def more_with_mbpp(self) -> int:
        """The number of problems that MBPP+ would add to the report split of a search on HumanEval; 0 for others."""
        sources = {entry.source for entry in self.problems}
        return round(_MBPP_PLUS * self.report_fraction) if sources & {"humaneval", "humaneval+"} == sources else 0

    def load_problems(self, source: str = "<config>") -> ProblemSet:
        """Load the problems of all sets, with the weights of the sets.

        Raises SearchError, which names the key in the config `source`.
        """
        key = f"{source}: evaluation.problems"
        sets = [entry.load(f"{key}[{index}]") for index, entry in enumerate(self.problems)]
        try:
            return ProblemSet.joined(sets, [entry.weight for entry in self.problems])
        except EvaluationError as error:
            raise SearchError(f"{key}: {error}") from None


def _known_sampler(name: str) -> str:
    from search.study.samplers import AUTO, SAMPLERS  # on demand: it is slow, and the default needs no check

    known = [AUTO, *SAMPLERS]
    if name not in known:
        raise ValueError(f"unknown sampler {name!r}{suggest(name, known)} (known: {', '.join(known)})")
    return name


class AscentSection(_Section):
    """How far the ascent goes."""

    proposals: int = Field(default=4, gt=0)
    """The most trials that the ascent proposes."""
    steps: int = Field(default=2, gt=0)
    """Gradient steps per trial."""
    step: float = Field(default=0.1, gt=0, le=1)
    """The most that a step may move a number, as a fraction of its range."""


def _ascent(value: object) -> object:
    """Read `auto` as the defaults and `off` as None. (YAML 1.1 takes off for false.)"""
    return {} if value in ("auto", True) else None if value in ("off", False) else value


class EarlierSection(_Section):
    """The results folder of an earlier search, and how many of its best trials are tried first."""

    results: str
    """The folder."""
    best: int = Field(default=5, gt=0)
    """The number of its best trials to try."""


def _kind_of_start(value: object) -> str:
    if isinstance(value, dict):
        return "earlier" if "results" in value else "dict[str,any]"
    return "earlier" if isinstance(value, EarlierSection) else "str"


WarmStart: TypeAlias = Annotated[
    Annotated[EarlierSection, Tag("earlier")]
    | Annotated[dict[str, object], Tag("dict[str,any]")]
    | Annotated[str, Tag("str")],
    Discriminator(_kind_of_start),
]
"""A warm start: a recipe, a recipe file, or the best trials of an earlier search (a mapping, or its folder's name)."""


class PatienceSection(_Section):
    """Ends a search after `trials` trials in a row that did not improve on the best one by at least `improvement`."""

    trials: int = Field(gt=0)
    """The number of trials in a row."""
    improvement: float = Field(default=0.0, ge=0, lt=1)
    """By how much a score must exceed the best to count as better."""

    @model_validator(mode="before")
    @classmethod
    def _read_trials(cls, data: object) -> object:
        return data if isinstance(data, dict) else {"trials": data}


class StopSection(_Section):
    """The rules that end a search, besides its trials and its time."""

    proven: bool = True
    """Whether a proven trial ends the search."""
    patience: PatienceSection | None = None
    """A number of trials without improvement that ends the search, or a mapping with these keys."""
    target: float | None = Field(default=None, gt=0, le=1)
    """The score on the search split that ends the search."""


class SearchSection(_Section):
    """How many candidates are proposed, and how."""

    ascent: Annotated[AscentSection | None, BeforeValidator(_ascent)] = AscentSection()
    """The first trials follow a gradient: auto, off, or a mapping with these keys."""
    sampler: Annotated[str, AfterValidator(_known_sampler)] = "auto"
    """The sampler that proposes the trials after the ascent."""
    sampler_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of the sampler's class in Optuna, by name."""
    trials: int = Field(default=100, gt=0)
    """Trials in all."""
    timeout: Duration | None = None
    """Start no trial after this time: 8h, 1h30m, 90m."""
    stop: StopSection = StopSection()
    """The other rules that end the search."""
    seed: int = Field(default=0, ge=0)
    """The seed of the sampler and of the split."""
    finalists: int = Field(default=3, ge=1)
    """How many of the best trials are scored on the report split."""
    objectives: Objectives = "weighted"
    """The weighted mean of the sets' pass@1, or one objective per set."""
    prune_margin: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Prune candidates that give the parents' passing completions a likelihood this far (nats/token) below the best."""
    enqueue: tuple[WarmStart, ...] = ()
    """Warm starts, which are tried first: recipes, their files, results folders, or mappings with these keys."""

    @model_validator(mode="after")
    def _sampler_has_many_objectives(self) -> SearchSection:
        if self.objectives == "separate" and self.sampler == "cmaes":
            raise ValueError("objectives: separate: cmaes takes a single objective; set another sampler, such as tpe")
        return self

    @model_validator(mode="after")
    def _sampler_has_options(self) -> SearchSection:
        if self.sampler_options:
            from search.study.samplers import check_options

            try:
                check_options(self.sampler, self.sampler_options)
            except ValueError as error:
                raise ValueError(f"sampler_options: {error}") from None
        return self

    @model_validator(mode="after")
    def _stop_has_one_objective(self) -> SearchSection:
        if self.objectives == "separate" and self.stop != StopSection(proven=self.stop.proven):
            raise ValueError("objectives: separate: only trials and timeout end it; leave out stop.patience and target")
        return self


DeviceMap: TypeAlias = Literal["auto"] | dict[str, int | str]


def _device_map(value: object) -> object:
    if value in ("auto", None) or isinstance(value, dict):
        return value
    raise ValueError(f"{value!r} is not a device map; give auto, or a device for each module, like {{model: cuda:0}}")


class MergingSection(_Section):
    """Where merging happens, what it may read, and its random seed."""

    device: str = "auto"
    """The device to merge and score on, as torch names it; auto is the first GPU, or the CPU."""
    device_map: Annotated[DeviceMap | None, BeforeValidator(_device_map)] = None
    """Spreads a model over several GPUs: auto, or a device per module."""
    memory_budget: Size | None = None
    """The most memory for the parents, in all; by default, the memory plan decides."""
    device_budget: Size | None = None
    """The most of that on the GPU."""
    lazy_unpickle: bool = False
    """Whether to read torch pickles (pytorch_model.bin); reading them never runs code."""
    random_seed: int = 0
    """The seed of the random masks of DARE and DELLA."""
    compile: bool | None = None
    """Whether compiled passes merge; by default only if they save time. The bits are the same."""
    trust_remote_code: bool = False
    """Whether to run Python code that comes with a model on the hub."""
    allow_crimes: bool = False
    """Whether to merge parents of different architectures, as in mergekit."""

    @model_validator(mode="after")
    def _one_of_device_and_map(self) -> MergingSection:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("device and device_map both say where to merge; give one of them")
        return self

    @property
    def load_options(self) -> LoadOptions:
        """How models are opened."""
        return LoadOptions(self.lazy_unpickle, self.trust_remote_code, self.allow_crimes)


class Sections(_Section):
    """A whole config file."""

    recipe: dict[str, object]
    """A mergekit recipe in which any value may be a range."""
    evaluation: EvaluationSection = EvaluationSection()
    """How candidates are scored."""
    search: SearchSection = SearchSection()
    """How many candidates are proposed, and how."""
    merging: MergingSection = MergingSection()
    """Where merging happens, and what it may read."""

    @model_validator(mode="after")
    def _vllm_has_one_card(self) -> Sections:
        if self.evaluation.backend == "vllm" and self.merging.device_map is not None:
            raise ValueError(
                "evaluation.backend: vllm runs a model on one card, and merging.device_map spreads it; leave out "
                "device_map, or set backend: transformers"
            )
        return self

    @model_validator(mode="after")
    def _objectives_have_sets(self) -> Sections:
        if self.search.objectives == "separate" and len(self.evaluation.problems) == 1:
            raise ValueError("search.objectives: separate needs several sets in evaluation.problems")
        return self

    @model_validator(mode="after")
    def _proof_has_problems(self) -> Sections:
        asked = self.search.stop.proven and "proven" in self.search.stop.model_fields_set
        if asked and self.evaluation.report_fraction == 0:
            raise ValueError("search.stop.proven needs a report split; set evaluation.report_fraction above 0")
        return self

    @classmethod
    def load(cls, path: Path) -> Sections:
        """Read a config file, as in a results folder, without looking up its models and files. Raises SearchError."""
        return cls.parse(YAML.text(path), str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Sections:
        """Read the text of a config; errors call it `source`. Raises SearchError."""
        return cls.of(YAML.parse(text, source), source)

    @classmethod
    def of(cls, data: object, source: str) -> Sections:
        """Read plain data as a config; errors call it `source`. Raises SearchError."""
        if isinstance(data, dict) and "merge_method" in data and "recipe" not in data:
            raise SearchError(
                f"{source}: is a recipe; run it with --around 0.2, which searches around its numbers, or put it under "
                "the key recipe and write {low: 0.0, high: 1.0} in place of a number"
            )
        if not isinstance(data, dict):
            got = "nothing" if data is None else shown(data)
            raise SearchError(f"{source}: expected a mapping with the keys recipe, evaluation, search; got {got}")
        return YAML.validate(cls, data, source)
