"""Merging: recipes and weights in, weights out. Usable without the other packages.

from merging import Merger, ParentSet, Recipe
recipe = Recipe.load("ties.yaml")
with ParentSet.open(recipe) as parents:
    model = Merger(parents).apply(recipe)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merging.checkpoints.content_digests import Contents, contents_of
    from merging.checkpoints.references import (
        missing_part,
        parts_named,
        parts_of,
        renamed,
        short_names,
        split_reference,
    )
    from merging.errors import MachineError, MergingError, NonFiniteTensor, OutOfMemory, shown, suggest
    from merging.export.export import ExportOptions, ScoredMerge, export_model
    from merging.export.model_card import model_card
    from merging.kernels.choose import choose_kernels
    from merging.live_model import compute_in_float32
    from merging.loading import load_model
    from merging.merger import Merger
    from merging.methods import METHODS
    from merging.options import LoadOptions, MergeOptions
    from merging.parents import ParentSet
    from merging.planning.plan import Plan
    from merging.recipes.recipe import Recipe
    from merging.recipes.yaml_file import YamlReader
    from merging.statistics.digests import FileChanged, FileDigests
    from merging.tokenization.tokenizers import load_tokenizer

# What each module gives, imported on first use (PEP 562): a command that needs no tensors does not wait for torch.
_NAMES = {
    "checkpoints.content_digests": "Contents contents_of",
    "checkpoints.references": "missing_part parts_named parts_of renamed short_names split_reference",
    "kernels.choose": "choose_kernels",
    "errors": "MachineError MergingError NonFiniteTensor OutOfMemory shown suggest",
    "export.export": "ExportOptions ScoredMerge export_model",
    "export.model_card": "model_card",
    "live_model": "compute_in_float32",
    "loading": "load_model",
    "merger": "Merger",
    "methods": "METHODS",
    "options": "LoadOptions MergeOptions",
    "parents": "ParentSet",
    "planning.plan": "Plan",
    "recipes.recipe": "Recipe",
    "recipes.yaml_file": "YamlReader",
    "statistics.digests": "FileChanged FileDigests",
    "tokenization.tokenizers": "load_tokenizer",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'merging' has no attribute {name!r}")
    return getattr(import_module(f"merging.{_HOMES[name]}"), name)
