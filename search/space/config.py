"""The config of a search: one YAML file, validated as a whole before anything is loaded.

Guarantees: every error names the file and the path of the key, and says what was read and what to do. Paths of models
and problems are looked up beside the config first, then in the current folder; anything else stays as it is (a hub id).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evaluation.problems import SETS, SOURCES, is_there
from merging import MergingError, missing_part, renamed, shown, split_reference
from merging.checkpoints.named import FILES, REFERENCES, kind_of, references_in, require_files, require_models
from search.errors import SearchError
from search.identity import Identity
from search.space.layers import depth_of, with_layers
from search.space.sections import (
    YAML,
    EarlierSection,
    EvaluationSection,
    MergingSection,
    SearchSection,
    Sections,
    WarmStart,
)
from search.space.space import SearchSpace
from search.study.record import Parameters

# A missing path with another ending is taken for a results folder, which a search that has begun no longer needs.
_RECIPE_ENDINGS = (".yaml", ".yml")
_NO_NAMES: Mapping[str, str] = {}


@dataclass(frozen=True)
class SearchConfig:
    """A validated config.

    Attributes:
        source: the file that it was read from; errors begin with it.
        text: the text of the file.
        space: the recipe with its ranges.
        warm_starts: the parameters to try first: those of the recipes in `search.enqueue`.
        earlier: the results folders in `search.enqueue`, by the key that names each.
        folder: the folder in which relative paths are looked up first.
    """

    source: str
    text: str = field(repr=False)
    space: SearchSpace
    evaluation: EvaluationSection
    search: SearchSection
    merging: MergingSection
    warm_starts: tuple[Parameters, ...]
    earlier: Mapping[str, EarlierSection]
    folder: Path = Path()

    @classmethod
    def load(cls, path: str | Path) -> SearchConfig:
        """Read a config file. Raises SearchError, or MergingError for its recipe; both name file, key and remedy."""
        return cls.parse(YAML.text(path), source=str(path), folder=Path(path).parent)

    @classmethod
    def parse(
        cls, text: str, source: str = "<config>", folder: Path = Path(), names: Mapping[str, str] = _NO_NAMES
    ) -> SearchConfig:
        """Read a config from text.

        Args:
            text: the text.
            source: the file that errors name.
            folder: the folder in which relative paths are looked up first.
            names: other names for models and files in the recipes, by the paths where they are found.
        """
        sections = Sections.parse(text, source)
        places = [folder, Path()]
        recipe = with_layers(
            located(sections.recipe, places), source, partial(depth_of, options=sections.merging.load_options)
        )
        space = SearchSpace.read(renamed(recipe, names), source)
        evaluation = located_evaluation(sections.evaluation, places)
        enqueued = {f"search.enqueue[{index}]": entry for index, entry in enumerate(sections.search.enqueue)}
        found = {key: _warm_start(entry, places, f"{source}: {key}") for key, entry in enqueued.items()}
        starts = tuple(
            space.parameters_of(renamed(start, names), key) for key, start in found.items() if isinstance(start, dict)
        )
        earlier = {key: start for key, start in found.items() if isinstance(start, EarlierSection)}
        return cls(source, text, space, evaluation, sections.search, sections.merging, starts, earlier, folder)

    def updated(self, section: Literal["evaluation", "search", "merging"], **values: object) -> SearchConfig:
        """Return the same config with other values in a section: ``updated("search", seed=3)``."""
        return replace(self, **{section: getattr(self, section).model_copy(update=values)})

    def with_names(self, names: Mapping[str, str]) -> SearchConfig:
        """Return the same config with other names for models and files in its recipes; see `parse`."""
        again = SearchConfig.parse(self.text, self.source, self.folder, names)
        return replace(self, space=again.space, warm_starts=again.warm_starts)

    def named(self) -> Iterator[tuple[str, bool]]:
        """Yield the models and files that the recipe names, and whether each is a model."""
        yield from ((reference, True) for _, reference in references_in(self.space.template))
        yield from ((reference, False) for _, reference in references_in(self.space.template, FILES))

    def require_files(self) -> None:
        """Raise SearchError or MergingError, with the key, if a model or file that the config names is missing."""
        for error in self.missing():
            raise error
        require_models([(f"{self.source}: {key}", name) for key, name in self._models()], self.merging.load_options)

    def require_backend(self) -> None:
        """Raise SearchError, with the key, if the backend is not installed."""
        require_backend(self.evaluation, self.source, ", or set it to transformers")

    def missing(self) -> Iterator[SearchError | MergingError]:
        """Yield an error, with the key, for each missing model or file that the config names."""
        for key, reference in self._models():
            if missing := missing_part(reference):
                yield SearchError(
                    f"{self.source}: {key}: model {missing}: no such folder, here or beside the config; give one, or "
                    "a hub id (owner/name)"
                )
        for entry in self.evaluation.problems:
            if not is_there(entry.source):
                yield SearchError(
                    f"{self.source}: evaluation.problems: {entry.source}: no such file, here or beside the config; "
                    f"give {SOURCES}"
                )
        for key, file in references_in(self.space.template, FILES):
            try:
                require_files([(f"{self.source}: recipe.{key}", file)])
            except MergingError as error:
                yield error

    def _models(self) -> Sequence[tuple[str, str]]:
        """Return the models that the config names, each after its key."""
        found = [(f"recipe.{key}", reference) for key, reference in references_in(self.space.template)]
        tokenizer = self.evaluation.prompt.tokenizer
        return [*found, *([("evaluation.prompt.tokenizer", tokenizer)] if tokenizer else [])]

    @property
    def objectives(self) -> int:
        """The number of objectives: one, or one per problem set."""
        return len(self.evaluation.problems) if self.search.objectives == "separate" else 1

    @property
    def identity(self) -> Identity:
        """The settings that results must share to belong together, as plain data; the search's length may change."""
        return {
            "recipe": self.space.template,
            "evaluation": self.evaluation.model_dump(exclude={"allow_code_execution", "workers"}),
            "search": self.search.model_dump(include={"sampler", "sampler_options", "seed", "objectives"}),
            "merging": self.merging.model_dump(include={"random_seed"}),
        }


def require_backend(section: EvaluationSection, source: str, or_else: str = "") -> None:
    """Raise SearchError, with the key in the config `source`, if a section's backend is not installed."""
    from evaluation import EvaluationError
    from evaluation.generation import backends

    try:
        backends.require_backend(section.backend)
    except EvaluationError as error:
        raise SearchError(f"{source}: evaluation.backend: {error}{or_else}") from None


def located_evaluation(section: EvaluationSection, places: Sequence[Path]) -> EvaluationSection:
    """Return the section with absolute paths for the files and models that one of the places has."""
    sets = [
        entry.model_copy(update={"source": entry.source if entry.source in SETS else _locate(entry.source, places)})
        for entry in section.problems
    ]
    tokenizer = section.prompt.tokenizer and _locate(section.prompt.tokenizer, places)
    prompt = section.prompt.model_copy(update={"tokenizer": tokenizer})
    return section.model_copy(update={"problems": tuple(sets), "prompt": prompt})


def located_enqueue(entry: WarmStart, places: Sequence[Path]) -> Any:
    """Return an entry of `search.enqueue`, as plain data, with absolute paths."""
    if isinstance(entry, EarlierSection):
        return {**entry.model_dump(exclude_unset=True), "results": _locate(entry.results, places)}
    return located(entry, places) if isinstance(entry, dict) else _locate(entry, places)


def _warm_start(entry: WarmStart, places: Sequence[Path], where: str) -> EarlierSection | dict[str, Any]:
    if isinstance(entry, dict):
        return dict(located(entry, places))
    if isinstance(entry, EarlierSection):  # a search that has begun continues without it
        return entry.model_copy(update={"results": _locate(entry.results, places)})
    file = Path(_locate(entry, places))
    if file.is_dir() or not (file.exists() or file.suffix in _RECIPE_ENDINGS):
        return EarlierSection(results=str(file))
    if not file.is_file():
        raise SearchError(f"{where}: no recipe file or results folder {entry}; give one, or the recipe itself")
    recipe = YAML.parse(YAML.text(file), str(file))
    if not isinstance(recipe, dict):
        raise SearchError(f"{file}: expected a recipe (a mapping with 'merge_method'), got {shown(recipe)}")
    return dict(located(recipe, [file.parent, *places]))


def located(node: object, places: Sequence[Path], key: str = "") -> Any:
    """Return a recipe's plain data with absolute paths for the models and files that one of the places has."""
    if isinstance(node, dict):
        return {name: located(value, places, kind_of(str(name), key)) for name, value in node.items()}
    if isinstance(node, list):
        return [located(item, places, key) for item in node]
    if isinstance(node, str) and key in REFERENCES and node not in REFERENCES[key]:
        return _locate(node, places)
    return node


def _locate(reference: str, places: Sequence[Path]) -> str:
    if path := _found(reference, places):
        return path
    model, adapter = split_reference(reference, lambda part: _found(part, places) is not None)
    return f"{_locate(model, places)}+{_locate(adapter, places)}" if model and adapter else reference


def _found(reference: str, places: Sequence[Path]) -> str | None:
    paths = ((place / Path(reference).expanduser()).resolve() for place in places if reference)
    return next((str(path) for path in paths if path.exists()), None)
