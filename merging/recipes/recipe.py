"""A recipe: mergekit's YAML, read strictly.

Guarantees: a recipe means the same here and in mergekit 0.1.5, and can be written as YAML that mergekit reads (unless
it uses a method that mergekit lacks: export/mergekit_equivalent.py). An unknown key, a wrong type or a number out of
range is an error that names the file and the key. Does not open checkpoints: the plan checks whether a recipe fits its
parents.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import PrivateAttr

from merging.checkpoints.named import FILES, references_in, require_files, require_models
from merging.checkpoints.references import renamed
from merging.errors import MergingError, shown
from merging.options import LoadOptions
from merging.recipes.schema import Dtype, InputModel, OutputModule, RecipeFields
from merging.recipes.yaml_file import Dumper, YamlReader, join, place

_YAML = YamlReader("recipe", MergingError)


class Recipe(RecipeFields):
    """A merge recipe: mergekit's schema, frozen, comparable by content.

    Read one with `load`, `parse` or `from_dict`; all of them raise `MergingError` with the file and the key.
    """

    # Where it was read: the file, and the key above it.
    _source: str = PrivateAttr(default="")
    _key: str = PrivateAttr(default="")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file. Raises MergingError that names the file, the key and the remedy."""
        return cls.parse(_YAML.text(path), source=str(path))

    @classmethod
    def parse(cls, text: str, source: str = "<recipe>") -> Recipe:
        """Read a recipe from YAML text; `source` is what errors call it."""
        return cls.from_dict(_YAML.parse(text, source), source=source)

    @classmethod
    def from_dict(cls, data: object, source: str, key: str = "") -> Recipe:
        """Read a recipe from plain data; `key` is its place in `source`, e.g. ``recipe``."""
        if not isinstance(data, Mapping):
            raise MergingError(
                f"{place(source, key)}: expected a recipe (a mapping with 'merge_method'), got "
                f"{'nothing' if data is None else shown(data)}"
            )
        recipe = _YAML.validate(cls, copy.deepcopy(dict(data)), source, key)
        # The methods import torch, which takes seconds. The schema refuses recipes without waiting for that.
        from merging.recipes.contract import complaints

        for path, reason in complaints(recipe):
            raise MergingError(f"{place(source, join(key, path))}: {reason}")
        recipe._source, recipe._key = source, key
        return recipe

    @classmethod
    def single(cls, model: str, dtype: Dtype | None = None) -> Recipe:
        """Return a single model as a recipe."""
        return cls(merge_method="passthrough", models=(InputModel(model=model),), dtype=dtype)

    @classmethod
    def average(cls, models: Sequence[str], dtype: Dtype | None = None, tokenizer_source: str | None = None) -> Recipe:
        """Return the equal average of some models as a recipe."""
        inputs = tuple(InputModel(model=model, parameters={"weight": 1.0}) for model in models)
        return cls(merge_method="linear", models=inputs, dtype=dtype, tokenizer_source=tokenizer_source)

    def at(self, key: str) -> str:
        """Return the beginning of an error about a key: the file that the recipe was read from, if any, and the key."""
        return place(self._source, join(self._key, key)) if self._source else key

    def require(self, options: LoadOptions) -> None:
        """Raise MergingError, with the file and the key, if a model or file that it names is missing."""
        if self._source:
            plain = self.to_dict()
            require_files((self.at(key), file) for key, file in references_in(plain, FILES))
            # An error about a token's source lists the parents, so it is raised elsewhere.
            named = [(key, name) for key, name in references_in(plain) if not key.startswith("tokenizer.tokens.")]
            models = [(self.at(key), name) for key, name in named]
            require_models(models, options)

    def parents(self) -> tuple[str, ...]:
        """Every model that the recipe names: inputs in order, base models after them."""
        holders: list[RecipeFields | OutputModule] = [self, *(self.modules or {}).values()]
        slices = [part for holder in holders for part in holder.slices or ()]
        inputs = [each.model for holder in holders for each in holder.models or ()]
        sources = [source.model for part in slices for source in part.sources]
        bases = [*(part.base_model for part in slices), self.base_model]
        return tuple(dict.fromkeys(filter(None, [*inputs, *sources, *bases])))

    @property
    def config_source(self) -> str:
        """The model that gives the merge its config, generation config and (by default) tokenizer."""
        return self.base_model or self.parents()[0]

    @property
    def vocabulary_source(self) -> str | None:
        """The vocabulary of the merge: ``union`` or that of a model; None if all embeddings stay as they are."""
        source = self.tokenizer.source if self.tokenizer else self.tokenizer_source
        return self.config_source if source == "base" else source

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as mergekit reads it."""
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude_defaults=True))
        return plain

    def to_yaml(self, names: Mapping[str, str] = MappingProxyType({})) -> str:
        """The recipe as YAML that mergekit reads; `names` renames models and files, by their references."""
        plain = renamed(self.to_dict(), names)
        return yaml.dump(plain, sort_keys=False, Dumper=Dumper, allow_unicode=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
