"""Genomes: a config of mergekit-evolve 0.1.5 as the config of a search.

Guarantees: every field becomes part of the config, is mentioned in the comment at its head, or is refused by its key
with the reason. The space has as many searched values as the genome, unless `Translation.notes` says otherwise. With
`slices`, and for a genome that is smooth or has one group of layers, a recipe of the space means the same as
mergekit-evolve's for the same values; otherwise the values of the groups of layers become the knots of a gradient.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from merging import YamlReader, split_reference, suggest
from merging.recipes.schema import ModelReference
from merging.recipes.yaml_file import Dumper
from search.errors import SearchError
from search.space.config import SearchConfig, located

Method: TypeAlias = Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]

_YAML = YamlReader("genome", SearchError)
_SEARCHED = {"ties": ("weight", "density"), "dare_ties": ("weight", "density"), "slerp": ("t",)}
# These methods merge changes to a base model, which has no weight of its own.
_OF_CHANGES = ("task_arithmetic", "ties", "dare_ties")
_NORMALIZED = ("linear", "ties", "dare_ties")
# The dtype that mergekit-evolve sets in each recipe, and its default of --max-fevals.
_DTYPE, _TRIALS = "bfloat16", 100
# The tasks of lm-evaluation-harness that merge-search has, too.
_TASKS = {
    "humaneval": "humaneval",
    "humaneval_instruct": "humaneval",
    "humaneval_plus": "humaneval+",
    "mbpp": "mbpp",
    "mbpp_instruct": "mbpp",
    "mbpp_plus": "mbpp+",
    "mbpp_plus_instruct": "mbpp+",
}
_INSTRUCT = "_instruct"
_DEFAULT_METRIC, _PASS_AT_1 = "acc,none", ("pass@1", "pass_at_1")
_WIDTH = 118


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvolveTask(_Keys):
    """One task of lm-evaluation-harness, and its weight in the score."""

    name: str
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    metric: str = _DEFAULT_METRIC

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @field_validator("metric")
    @classmethod
    def _is_pass_at_1(cls, metric: str) -> str:
        if metric != _DEFAULT_METRIC and metric.partition(",")[0] not in _PASS_AT_1:
            raise ValueError(f"{metric}: a search compares models by pass@1; leave it out, or give pass@1")
        return metric


class Definition(_Keys):
    """The section `genome`: the models to merge, and how."""

    models: tuple[ModelReference, ...] = Field(min_length=2)
    merge_method: Method
    base_model: ModelReference | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: tuple[str, ...] = ()
    smooth: bool = False

    @field_validator("filters", mode="before")
    @classmethod
    def _read_filters(cls, data: object) -> object:
        return () if data is None else data

    @model_validator(mode="after")
    def _is_mergeable(self) -> Definition:
        method, base = self.merge_method, self.base_model
        if method in _OF_CHANGES and base is None:
            raise ValueError(f"base_model: is missing; {method} merges changes to one")
        if method not in _OF_CHANGES and base is not None and base not in self.models:
            raise ValueError(f"base_model: {method} merges only the models, but {base} is not one; leave it out")
        if method == "slerp" and len(self.models) != 2:
            raise ValueError(
                f"models: slerp takes two, got {len(self.models)}; mergekit-evolve merges the two with the largest "
                "values in each group of layers, and merge-search has no such choice: give two, or take linear"
            )
        if method == "slerp" and (self.smooth or self.filters):
            raise ValueError("smooth and filters: mergekit-evolve refuses both for slerp; leave them out")
        return self

    @property
    def mergeable(self) -> Sequence[str]:
        """The models that have values of their own: all but the base of a method that merges changes to it."""
        return [model for model in self.models if self.merge_method not in _OF_CHANGES or model != self.base_model]


class Genome(_Keys):
    """A whole file."""

    genome: Definition
    tasks: tuple[EvolveTask, ...]
    limit: int | None = Field(default=None, gt=0)
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True

    @model_validator(mode="after")
    def _can_be_scored(self) -> Genome:
        if self.num_fewshot:
            raise ValueError(
                f"num_fewshot: {self.num_fewshot}: the prompts of merge-search show no solved examples; leave it out"
            )
        if self.limit is not None and self.shuffle:
            raise ValueError(
                "shuffle: with limit, mergekit-evolve scores other problems in each worker, so that no two scores "
                "compare; leave out one of the two"
            )
        return self

    @classmethod
    def load(cls, path: Path) -> Genome:
        """Read a file. Raises SearchError that names the file, the key and the reason."""
        return _YAML.validate(cls, _YAML.parse(_YAML.text(path), str(path)), str(path))


@dataclass(frozen=True)
class Translation:
    """The config that a genome becomes.

    Attributes:
        text: the text of the config.
        notes: the differences from mergekit-evolve, in words for users; the comment in the config repeats them.
        config: the config read from that text.
    """

    text: str
    notes: Sequence[str]
    config: SearchConfig = field(repr=False)


def translated(
    path: Path, to: Path, problems: Sequence[str] = (), slices: bool = False, trust_remote_code: bool = False
) -> Translation:
    """Translate a genome into a config.

    Args:
        path: the file of the genome.
        to: the file that the config is meant for.
        problems: sources of problems to score instead of its tasks.
        slices: whether each group of layers has its own slice, as in mergekit-evolve, instead of a knot.
        trust_remote_code: whether code that comes with a model's config may run to find its number of layers.

    Raises:
        SearchError, MergingError: a field is refused; the message names it.
    """
    genome = Genome.load(path)
    groups = _Groups.of(genome.genome, path, slices, trust_remote_code)
    places = [Path(), path.parent]
    start = located(_recipe(genome.genome, groups, groups.start), places)
    made: dict[str, Any] = {
        "recipe": located(_recipe(genome.genome, groups, groups.searched), places),
        "evaluation": {
            "problems": list(problems) or [_problems(genome, index, path) for index in range(len(genome.tasks))],
            "prompt": {"format": "chat" if genome.apply_chat_template else "completion"},
        },
        "search": {"trials": _TRIALS, **({} if genome.random_init else {"enqueue": [start]})},
    }
    if trust_remote_code:
        made["merging"] = {"trust_remote_code": True}
    notes = list(_notes(genome, groups, bool(problems)))
    body = yaml.dump(made, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120, Dumper=Dumper)
    text = _comment(path, notes) + body
    return Translation(text, notes, SearchConfig.parse(text, str(to), to.parent))


@dataclass(frozen=True)
class _Groups:
    """The groups of layers that share values, and the ranges in each.

    Attributes:
        count: the number of groups.
        layers: the number of layers in each; 0 if there is one group, for which the number is not needed.
        slices: whether each group is a slice of the recipe.
        definition: the genome.
    """

    count: int
    layers: int
    slices: bool
    definition: Definition

    @classmethod
    def of(cls, definition: Definition, path: Path, slices: bool, trust_remote_code: bool) -> _Groups:
        layers = definition.layer_granularity
        if layers < 1:
            return cls(1, 0, False, definition)
        key, depth = f"{path}: genome.layer_granularity", _depth(definition.models[0], path, trust_remote_code)
        if depth % layers:
            raise SearchError(f"{key}: {layers} does not divide the {depth} layers of {definition.models[0]}")
        return cls(depth // layers, layers, slices and not definition.smooth and depth > layers, definition)

    @property
    def is_exact(self) -> bool:
        """Whether the values mean the same as in mergekit-evolve."""
        return self.slices or self.definition.smooth or self.count == 1

    def searched(self, parameter: str) -> object:
        """Return the range of a parameter."""
        low = -1.0 if parameter == "weight" and self.definition.allow_negative_weights else 0.0
        knots = {} if self.slices or self.count == 1 else {"knots": self.count}
        return {"low": low, "high": 1.0, **knots}

    def start(self, parameter: str) -> object:
        """Return the value of a parameter at which mergekit-evolve starts."""
        starts = {"density": 1.0, "t": 0.5}
        return starts.get(parameter, 1 / len(self.definition.models))


def _recipe(genome: Definition, groups: _Groups, value: Callable[[str], object]) -> dict[str, Any]:
    """Return the recipe of a genome, as plain data.

    Args:
        genome: the models to merge, and how.
        groups: the groups of layers.
        value: returns the value or range of a parameter.
    """
    method = genome.merge_method
    searched = _SEARCHED.get(method, ("weight",))
    own = {name: _filtered(value(name), genome.filters) for name in searched}
    recipe: dict[str, Any] = {"merge_method": method}
    if base := genome.base_model or (genome.models[0] if method == "slerp" else None):
        recipe["base_model"] = base
    models = list(dict.fromkeys([*genome.models, *([base] if base and groups.slices else [])]))
    of_model = [
        {"model": model, **({"parameters": own} if model in genome.mergeable and method != "slerp" else {})}
        for model in models
    ]
    shared = {"parameters": own} if method == "slerp" else {}
    if groups.slices:
        recipe["slices"] = [
            {"sources": [{**each, "layer_range": [first, first + groups.layers]} for each in of_model], **shared}
            for first in range(0, groups.count * groups.layers, groups.layers)
        ]
    else:
        recipe |= {"models": of_model, **shared}
    if method != "slerp":
        normalize = method in _NORMALIZED if genome.normalize is None else genome.normalize
        recipe["parameters"] = {"normalize": normalize} | ({"int8_mask": True} if method in _OF_CHANGES else {})
    if genome.tokenizer_source is not None:
        recipe["tokenizer_source"] = genome.tokenizer_source
    return {**recipe, "dtype": _DTYPE}


def _filtered(value: object, filters: Sequence[str]) -> object:
    if not filters:
        return value
    return [*({"filter": each, "value": value} for each in filters), {"value": value}]


def _problems(genome: Genome, index: int, path: Path) -> dict[str, Any]:
    """Return the problem set of a task. Raises SearchError if merge-search has none."""
    task, key = genome.tasks[index], f"{path}: tasks[{index}]"
    source = _TASKS.get(task.name)
    if source is None:
        raise SearchError(
            f"{key}.name: {task.name}: is not a task that merge-search scores{suggest(task.name, list(_TASKS))} (it "
            f"scores programs: {', '.join(_TASKS)}); give --problems SOURCE, which takes the place of all tasks"
        )
    before = [place for place, other in enumerate(genome.tasks[:index]) if _TASKS.get(other.name) == source]
    if before:
        raise SearchError(f"{key}.name: {task.name}: has the problems of tasks[{before[0]}]; leave out one of the two")
    entry: dict[str, Any] = {"source": source}
    if task.weight != 1:
        entry["weight"] = task.weight
    if task.name.endswith(_INSTRUCT) and not genome.apply_chat_template:
        entry["prompt"] = "chat"
    if genome.limit is not None:
        from evaluation import load_problems  # on demand: they may have to be fetched

        if without := load_problems(source).task_ids[genome.limit :]:
            entry["without"] = list(without)
    return entry


def _notes(genome: Genome, groups: _Groups, has_problems: bool) -> Iterator[str]:
    """Yield the differences between the config and mergekit-evolve."""
    own = genome.genome
    if not groups.is_exact:
        yield (
            f"genome.layer_granularity: {own.layer_granularity}: mergekit-evolve gives each of the {groups.count} "
            f"groups of layers a value of its own. Here these are the {groups.count} knots of a gradient, which is "
            "interpolated from layer to layer. import-evolve --slices keeps the groups."
        )
    elif groups.slices:
        yield f"genome.layer_granularity: {own.layer_granularity}: each group of layers is a slice with its own values."
    if own.merge_method == "slerp":
        yield (
            "genome.merge_method: slerp: mergekit-evolve searches a value per model, and takes t from the softmax of "
            "the two. Here t itself is searched, from the first model (0) to the second (1)."
        )
    elif own.merge_method in _OF_CHANGES and own.base_model in own.models:
        yield f"genome.models: the base model {own.base_model} has no values here: {own.merge_method} reads none."
    if own.merge_method != "slerp":
        yield (
            f"The weights are searched from {-1 if own.allow_negative_weights else 0} to 1; mergekit-evolve sets no "
            "bound. Widen the ranges if the best trials lie at an end."
        )
    elif own.normalize is not None or own.allow_negative_weights:
        yield "genome.normalize and allow_negative_weights: slerp reads neither, so they are left out."
    if has_problems:
        yield f"tasks: {', '.join(task.name for task in genome.tasks)}: --problems takes their place."
    if genome.limit is not None and not has_problems:
        yield f"limit: {genome.limit}: the problems after the first {genome.limit} of a task are listed under without."
    elif genome.limit is not None:
        yield f"limit: {genome.limit}: is left out, as it is of the tasks."
    if genome.shuffle:
        yield "shuffle: is left out: it changes no score where all problems are scored."
    if "fewshot_as_multiturn" in genome.model_fields_set:
        yield "fewshot_as_multiturn: is left out: the prompts of merge-search show no solved examples."
    if genome.random_init:
        yield "random_init: true: no recipe is tried first."
    else:
        yield "search.enqueue is where mergekit-evolve starts."
    yield (
        "search: mergekit-evolve searches with CMA-ES (here ascent: off, sampler: cmaes) on all problems; here half of "
        "them are kept for the report (evaluation.report_fraction). --max-fevals, --timeout and --random-seed are "
        "search.trials, timeout and seed."
    )


def _comment(path: Path, notes: Sequence[str]) -> str:
    head = f"# Made by merge-search import-evolve {path.name}. How it differs from mergekit-evolve:\n"
    wrapped = (textwrap.wrap(note, _WIDTH, initial_indent="# - ", subsequent_indent="#   ") for note in notes)
    return head + "".join(f"{line}\n" for lines in wrapped for line in lines)


def _depth(reference: str, path: Path, trust_remote_code: bool) -> int:
    """Return the number of layers that a model's config gives, without its weights. Raises SearchError."""
    from transformers import AutoConfig  # on demand: it takes a second

    model, _ = split_reference(reference)
    folder = next((each for each in (Path(model).expanduser(), path.parent / model) if each.is_dir()), None)
    name, _, revision = (str(folder), "", "") if folder else model.partition("@")
    try:
        config = AutoConfig.from_pretrained(
            name, revision=revision or None, trust_remote_code=trust_remote_code
        ).get_text_config()
        return int(config.num_hidden_layers)
    except Exception as error:  # a model's own config class may raise anything
        reason = str(error).partition("\n")[0].rstrip(".")
        raise SearchError(
            f"{path}: genome.layer_granularity: the number of layers of {reference} is not known: {reason}; give a "
            "folder that is here, or a hub id that can be reached"
        ) from None
