"""mergekit 0.1.5 as an oracle: the same recipe, run by its own planner and executor, in memory."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from mergekit.architecture import get_architecture_info  # type: ignore[import-untyped]
from mergekit.common import ModelReference  # type: ignore[import-untyped]
from mergekit.config import MergeConfiguration  # type: ignore[import-untyped]
from mergekit.graph import Executor  # type: ignore[import-untyped]
from mergekit.io.tasks import LoaderCache  # type: ignore[import-untyped]
from mergekit.merge import _model_out_config, run_merge  # type: ignore[import-untyped]
from mergekit.merge_methods import registry  # type: ignore[import-untyped]
from mergekit.merge_methods.base import TensorGroup  # type: ignore[import-untyped]
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask  # type: ignore[import-untyped]
from mergekit.options import MergeOptions  # type: ignore[import-untyped]
from mergekit.plan import MergePlanner  # type: ignore[import-untyped]
from transformers import PreTrainedTokenizerFast


def mergekit_tasks(recipe_yaml: str) -> dict[str, ExecuteMergeMethodTask]:
    """Return what mergekit plans to do for each tensor, by name."""
    return _plan(MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml)))


def mergekit_layers(recipe_yaml: str) -> int:
    """Return how many layers the config has that mergekit writes for a recipe."""
    config = MergeConfiguration.model_validate(yaml.safe_load(recipe_yaml))
    architecture = get_architecture_info(config, MergeOptions(cuda=False, lazy_unpickle=False))
    return int(_model_out_config(config, architecture).num_hidden_layers)


def mergekit_merge(recipe_yaml: str, stable_sort: bool = False) -> dict[str, torch.Tensor]:
    """Return the tensors that mergekit makes of a recipe, by name.

    With `stable_sort` the sorts in it keep equals in their order, so that trimming keeps the first of equal magnitudes;
    without, which of them it keeps is up to torch.
    """
    with configs_read_once(), stable_sorts() if stable_sort else nullcontext():
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
        configs_read_once(),
        patch.object(MergeConfiguration, "referenced_models", lambda _: base_first),
        patch.object(
            PreTrainedTokenizerFast,
            "get_vocab",
            lambda tokenizer: dict(sorted(unordered(tokenizer).items(), key=lambda item: item[1])),
        ),
    ):
        run_merge(config, str(folder), options)
    return folder


@contextmanager
def configs_read_once() -> Iterator[None]:
    """Let mergekit read each config once for a merge, which it does three or four times, and give it copies."""
    read, found = ModelReference.config, {}

    def config(model: Any, trust_remote_code: bool = False) -> Any:
        if model not in found:
            found[model] = read(model, trust_remote_code)
        return copy.deepcopy(found[model])

    with patch.object(ModelReference, "config", config):
        yield


@contextmanager
def stable_sorts() -> Iterator[None]:
    """Let torch's sorts keep equals in their order; topk takes the first of them."""
    sort = partial(torch.sort, stable=True)

    def topk(values: torch.Tensor, k: int, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
        ordered, indices = sort(values, descending=largest)
        return ordered[:k], indices[:k]

    with (
        patch.object(torch, "argsort", partial(torch.argsort, stable=True)),
        patch.object(torch, "sort", sort),
        patch.object(torch, "topk", topk),
    ):
        yield


def mergekit_method(
    name: str,
    base: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    shared: Mapping[str, object] | None = None,
    per_input: Mapping[str, Sequence[object]] | None = None,
) -> torch.Tensor:
    """Return what a method of mergekit makes of tensors of one dtype; its sorts keep equals in their order."""
    tensors = [*([] if base is None else [base]), *inputs]
    group = TensorGroup.from_tensors(tensors, base_index=None if base is None else 0)
    first = len(tensors) - len(inputs)
    by_id = {key: dict(enumerate(values, first)) for key, values in (per_input or {}).items()}
    with stable_sorts():
        (merged,) = registry.get(name)((group,), parameters={**(shared or {}), **by_id}, dtype=tensors[0].dtype)
    return merged


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


# Buffers that GPT-NeoX had once. Checkpoints that transformers 5 writes do without; mergekit 0.1.5 does not.
_GONE = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")


def _plan_tensor(plan_tensor: Callable[..., None], weight: Any, *args: Any, **options: Any) -> None:
    gone = weight.name.endswith(_GONE)
    plan_tensor(weight.model_copy(update={"optional": True}) if gone else weight, *args, **options)


def _plan(config: MergeConfiguration) -> dict[str, ExecuteMergeMethodTask]:
    logging.getLogger("mergekit").setLevel(logging.ERROR)
    options = MergeOptions(cuda=False, lazy_unpickle=False)
    architecture = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    planner = MergePlanner(config, architecture, options, _model_out_config(config, architecture))
    planner.plan_tensor = partial(_plan_tensor, planner.plan_tensor)
    planner._plan()
    return {weight.name: task for weight, task in planner._tensors}
