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
    from merging.checkpoints.contents import Contents, contents_of
    from merging.checkpoints.references import (
        missing_part,
        parts_named,
        parts_of,
        renamed,
        short_names,
        split_reference,
    )
    from merging.compiling import choose_kernels
    from merging.errors import MachineError, MergingError, NonFiniteTensor, OutOfMemory, shown, suggest
    from merging.export.export import ExportOptions, ScoredMerge, export_model
    from merging.export.model_card import model_card
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

# Imported on first use, so that a command that needs no tensors does not wait for torch.
_HOMES = {
    "Contents": "merging.checkpoints.contents",
    "FileChanged": "merging.statistics.digests",
    "FileDigests": "merging.statistics.digests",
    "METHODS": "merging.methods",
    "Merger": "merging.merger",
    "MachineError": "merging.errors",
    "OutOfMemory": "merging.errors",
    "MergingError": "merging.errors",
    "NonFiniteTensor": "merging.errors",
    "ParentSet": "merging.parents",
    "Plan": "merging.planning.plan",
    "Recipe": "merging.recipes.recipe",
    "YamlReader": "merging.recipes.yaml_file",
    "choose_kernels": "merging.compiling",
    "compute_in_float32": "merging.live_model",
    "contents_of": "merging.checkpoints.contents",
    "ExportOptions": "merging.export.export",
    "LoadOptions": "merging.options",
    "MergeOptions": "merging.options",
    "ScoredMerge": "merging.export.export",
    "export_model": "merging.export.export",
    "load_model": "merging.loading",
    "load_tokenizer": "merging.tokenization.tokenizers",
    "missing_part": "merging.checkpoints.references",
    "model_card": "merging.export.model_card",
    "parts_of": "merging.checkpoints.references",
    "short_names": "merging.checkpoints.references",
    "parts_named": "merging.checkpoints.references",
    "renamed": "merging.checkpoints.references",
    "shown": "merging.errors",
    "split_reference": "merging.checkpoints.references",
    "suggest": "merging.errors",
}

__all__ = [
    "METHODS",
    "Contents",
    "ExportOptions",
    "FileChanged",
    "FileDigests",
    "LoadOptions",
    "MachineError",
    "MergeOptions",
    "Merger",
    "MergingError",
    "NonFiniteTensor",
    "OutOfMemory",
    "ParentSet",
    "Plan",
    "Recipe",
    "ScoredMerge",
    "YamlReader",
    "choose_kernels",
    "compute_in_float32",
    "contents_of",
    "export_model",
    "load_model",
    "load_tokenizer",
    "missing_part",
    "model_card",
    "parts_named",
    "parts_of",
    "renamed",
    "short_names",
    "shown",
    "split_reference",
    "suggest",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'merging' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
