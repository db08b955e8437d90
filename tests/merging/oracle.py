"""mergekit 0.1.5 as an oracle: the same recipe, run by its own planner and executor, in memory."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from mergekit.architecture import get_architecture_info  # type: ignore[import-untyped]
from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
from mergekit.graph import Executor  # type: ignore[import-untyped]
from mergekit.io.tasks import LoaderCache  # type: ignore[import-untyped]
from mergekit.merge import _model_out_config, run_merge  # type: ignore[import-untyped]
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask  # type: ignore[import-untyped]
from mergekit.options import MergeOptions  # type: ignore[import-untyped]
from mergekit.plan import MergePlanner  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast


def mergekit_tasks(recipe_yaml: str) -> dict[str, ExecuteMergeMethodTask]:
    """Return what mergekit plans to do for each tensor, by name."""
    return _plan(MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml)))


def mergekit_merge(recipe_yaml: str, stable_sort: bool = False) -> dict[str, torch.Tensor]:
    """Return the tensors that mergekit makes of a recipe, by name.

    With `stable_sort` the sorts in it keep equals in their order, so that trimming keeps the first of equal magnitudes;
    without, which of them it keeps is up to torch.
    """
    with patch.object(torch, "argsort", partial(torch.argsort, stable=True)) if stable_sort else nullcontext():
        return _merge(recipe_yaml)


def mergekit_folder(recipe_yaml: str, folder: Path) -> Path:
    """Let mergekit write a merge as `mergekit-yaml` does: weights, configs, tokenizer.

    In mergekit the order of a union's new tokens, and of the models, is that of hash tables, another in every run; here
    tokens come by their id, and models as the recipe names them, the base first.
    """
    logging.getLogger("mergekit").setLevel(logging.CRITICAL)
    options = MergeOptions(cuda=False, lazy_unpickle=False, quiet=True)
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml))
    places = {model: re.search(rf"{re.escape(str(model))}(?!\w)", recipe_yaml) for model in config.referenced_models()}
    by_place = sorted(places, key=lambda model: places[model].start())
    base_first = sorted(by_place, key=lambda model: model != config.base_model)
    unordered = PreTrainedTokenizerFast.get_vocab
    with (
        patch.object(MergeConfiguration, "referenced_models", lambda _: base_first),
        patch.object(
            PreTrainedTokenizerFast,
            "get_vocab",
            lambda tokenizer: dict(sorted(unordered(tokenizer).items(), key=lambda item: item[1])),
        ),
    ):
        run_merge(config, str(folder), options)
    return folder


def _merge(recipe_yaml: str) -> dict[str, torch.Tensor]:
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml))
    tasks = _plan(config)
    executor = Executor(targets=list(tasks.values()), math_device="cpu", storage_device="cpu")
    by_task = {id(task): name for name, task in tasks.items()}
    out_dtype = getattr(torch, config.out_dtype) if config.out_dtype else None
    merged = {}
    for task, value in executor.run(quiet=True):
        name = by_task.get(id(task)) or next(n for n, t in tasks.items() if t == task)
        if value is not None:
            merged[name] = value.to(out_dtype) if out_dtype else value
    return merged


def _plan(config: MergeConfiguration) -> dict[str, ExecuteMergeMethodTask]:
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    options = MergeOptions(cuda=False, lazy_unpickle=False)
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    planner = MergePlanner(config, architecture, options, _model_out_config(config, architecture))
    planner._plan()
    return {weight.name: task for weight, task in planner._tensors}
