"""The commands that need no search: merge, evaluate, score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from evaluation import PROMPT_FORMATS
from merging import LoadOptions, MergeOptions
from search.cli import shared_options
from search.cli.printing import (
    names_of,
    print_report,
    print_scored,
    print_tried,
    show_plan,
    tell,
    tell_isolation,
    tell_of_mergekit,
)
from search.startup import quick_imports
from search.views.bar import bar

if TYPE_CHECKING:
    import torch

    from evaluation import BackendName, ComputeDtype, PromptFormat
    from merging import Recipe
    from search.compute import Compute


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@shared_options.SHARD_SIZE
@click.option("--dry-run", is_flag=True, help="Show the plan of the merge, layer by layer, without merging.")
@shared_options.COMPATIBLE
@shared_options.LOW_MEMORY
@shared_options.LAZY_UNPICKLE
@shared_options.TOKENIZER
@shared_options.CARD
@shared_options.CRIMES
@shared_options.TRUST
@shared_options.COMPILE
@shared_options.SEED
@shared_options.DEVICE
def merge(
    recipe: Path,
    folder: Path,
    max_shard_size: str,
    dry_run: bool,
    mergekit_compatible: bool,
    low_cpu_memory: bool,  # noqa: ARG001 - merges always use little memory
    lazy_unpickle: bool,
    copy_tokenizer: bool,
    write_model_card: bool,
    allow_crimes: bool,
    trust_remote_code: bool,
    compile: bool | None,
    random_seed: int,
    device: str,
) -> None:
    """Merge a mergekit recipe into a folder, without a search.

    \b
    Example:
      merge-search merge ties.yaml merged
    """
    from search.recipes import load_recipe

    with quick_imports():
        loaded = load_recipe(recipe)  # a mistake in it is told before torch is waited for
    from search.devices import choose_device

    device = choose_device(device)
    load = LoadOptions(lazy_unpickle, trust_remote_code, allow_crimes)
    merging = MergeOptions(device, random_seed=random_seed, compile=compile, load=load)
    if dry_run:
        from merging import Merger, ParentSet
        from merging.notes import notes_of

        with ParentSet.open(loaded, replace(merging, memory_budget=0)) as parents:
            plan = Merger(parents, random_seed).plan(loaded)
            tell(*notes_of(loaded, plan, parents, written=True))
            show_plan(plan.at(loaded), names_of([loaded]), loaded.dtype)
        return
    from merging import ExportOptions, export_model

    with bar() as progress:
        export_model(
            loaded,
            folder,
            merging,
            ExportOptions(
                max_shard_size,
                write_model_card,
                copy_tokenizer=copy_tokenizer,
                mergekit_compatible=mergekit_compatible,
            ),
            progress=progress,
            note=tell,
        )
    click.echo(f"{folder}: {loaded.merge_method} of {len(loaded.parents())} models")
    tell_of_mergekit(folder, loaded.merge_method, mergekit_compatible)


@click.command()
@click.argument("model")
@shared_options.PROBLEMS
@click.option(
    "--prompt",
    type=click.Choice(PROMPT_FORMATS),
    default="completion",
    show_default=True,
    help="Give the problem as code to be completed, or as a message to a chat model.",
)
@click.option(
    "--prompt-formats",
    type=click.Choice(["all"]),
    help="Compare every prompt format under the tokenizer and chat template of each parent, instead of --prompt.",
)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Completions per problem.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="Sampling temperature; 0 is greedy.")
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Sample from the likeliest tokens up to this probability.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="The most tokens of a completion.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts per batch; chosen automatically if not given.")
@shared_options.BACKEND
@shared_options.COMPUTE_DTYPE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@shared_options.LAZY_UNPICKLE
@shared_options.TRUST
@shared_options.SEED
@shared_options.DEVICE
@shared_options.DEVICE_MAP
@shared_options.CONSENT
def evaluate(
    model: str,
    problems: tuple[str, ...],
    prompt: PromptFormat,
    prompt_formats: str | None,
    samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int | None,
    backend: BackendName,
    compute_dtype: ComputeDtype,
    as_json: bool,
    lazy_unpickle: bool,
    trust_remote_code: bool,
    random_seed: int,
    device: str,
    device_map: Literal["auto"] | None,
    allow_code_execution: bool,
) -> None:
    """Score a model (a folder or a hub id) or a recipe (a .yaml file) on a problem set.

    \b
    Example:
      merge-search evaluate ./model --problems humaneval --allow-code-execution
    """
    from evaluation import ConsentError, EvaluationError, Sampling, load_problem_sets
    from search.recipes import load_recipe

    if not allow_code_execution:
        raise ConsentError
    try:
        sampling = Sampling(samples, temperature, top_p, random_seed)
    except ValueError as error:
        raise EvaluationError(f"--{str(error).replace('top_p', 'top-p', 1)}") from None
    if device_map and device != "auto":
        raise click.UsageError("--device and --device-map say where to work; give one of the two")
    if device_map and backend == "vllm":
        raise click.UsageError("--device-map: vllm runs a model on one card; give --device, or --backend transformers")
    if backend == "vllm" and compute_dtype == "float32":
        raise click.UsageError("--compute-dtype float32: vllm computes in the weights' dtype; take auto or recipe")
    with bar() as progress:  # from here on seconds may pass: torch and transformers are imported
        chosen = load_problem_sets(problems)
        with quick_imports():
            reference = load_recipe(model) if model.endswith((".yaml", ".yml")) else model
            from evaluation import Evaluator, OutcomeCounter, prompt_notes
            from evaluation.generation.text import configured_ends
            from search.compute import Compute
            from search.devices import choose_device
            from search.errors import SearchError
            from search.planned_memory import Generation, is_enough, plans_of_evaluation
        formats, load = PROMPT_FORMATS if prompt_formats else (prompt,), LoadOptions(lazy_unpickle, trust_remote_code)
        where = MergeOptions(choose_device(device, backend=backend), device_map, load=load)
        own, wide = plans_of_evaluation(
            _spread(reference, device_map),
            where,
            lambda tokenizer: Generation.of(backend, [chosen], tokenizer, formats, max_new_tokens, samples, batch_size),
        )
        fits = is_enough(wide, own)
        may_widen = compute_dtype == "auto" and fits and backend == "transformers" and where.device.startswith("cpu")
        plan = wide if compute_dtype == "float32" or may_widen else own
        if plan.refusal:
            raise SearchError(f"{model}: has no room here: {plan.refusal}")
        settings: dict[str, Any] = {
            "prompt_format": prompt,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "backend": backend,
            "sampling": sampling,
            "tell": tell,
            "room": plan.room,
        }
        with (
            Evaluator(chosen, allow_code_execution=allow_code_execution, **settings) as evaluator,
            _model(
                reference,
                where,
                random_seed,
                partial(Compute.choose, compute_dtype, backend=backend, fits=lambda: fits),
                progress,
            ) as (loaded, tokenizer, generation),
        ):
            tell_isolation(evaluator.sandbox.isolation)
            if prompt_formats:
                from search.prompt_formats import try_prompt_formats

                tokenizers = _tokenizers(reference, tokenizer, LoadOptions(trust_remote_code=trust_remote_code))
                tried = try_prompt_formats(evaluator, loaded, tokenizers, progress)
            else:
                tell(*prompt_notes(chosen, evaluator.prompt_format, tokenizer, configured_ends(generation, tokenizer)))
                counter = OutcomeCounter(partial(progress, "scoring"))
                report = evaluator.evaluate(loaded, tokenizer, observers=[counter])
    if prompt_formats:
        print_tried(tried, as_json)
    else:
        print_report(report, as_json)


@click.command()
@click.argument("samples", type=click.Path(path_type=Path))
@shared_options.PROBLEMS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@shared_options.CONSENT
def score(samples: Path, problems: tuple[str, ...], as_json: bool, allow_code_execution: bool) -> None:
    """Score completions from any source: lines of {"task_id": ..., "completion": ...}.

    \b
    Example:
      merge-search score samples.jsonl --allow-code-execution
    """
    from evaluation import load_problem_sets, score_samples

    with bar() as progress:
        wanted = load_problem_sets(problems)
        scored = score_samples(
            samples,
            wanted,
            allow_code_execution=allow_code_execution,
            progress=lambda done, total: progress("scoring", done, total),
        )
    tell_isolation(scored.isolation)
    given = set(scored.task_ids)
    if missing := [problem.task_id for problem in wanted if problem.task_id not in given]:
        tell(
            f"{samples}: {len(missing)} of {len(wanted)} problems have no completion and do not count: {missing[0]} ..."
        )
    print_scored(scored, as_json)


def _tokenizers(reference: str | Recipe, own: Any, options: LoadOptions) -> dict[str, Any]:
    """Return the tokenizer of a model, or those of a merge and its parents, by their owners' names."""
    from merging import load_tokenizer

    if isinstance(reference, str):
        return {reference: own}
    return {"the merge": own} | {parent: load_tokenizer(parent, options) for parent in reference.parents()}


@contextlib.contextmanager
def _model(
    reference: str | Recipe,
    where: MergeOptions,
    random_seed: int,
    compute: Callable[[torch.dtype, Sequence[Sequence[int]], str], Compute],
    progress: Callable[[str, int, int], None],
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the live model of a checkpoint or a recipe, its tokenizer and its generation config."""
    from merging import Merger, ParentSet, compute_in_float32, load_model, load_tokenizer
    from merging.notes import notes_of

    reference, load = _spread(reference, where.device_map), where.load
    if isinstance(reference, str):
        plain = load_model(reference, where.device, options=load, note=tell)
        if compute(plain.dtype, [each.shape for each in plain.parameters()], where.device).torch_dtype:
            compute_in_float32(plain)
        yield plain, load_tokenizer(reference, load), plain.generation_config
        return
    with ParentSet.open(reference, replace(where, memory_budget=0)) as parents:
        merger = Merger(parents, random_seed)
        plan = merger.plan(reference)
        tell(*notes_of(reference, plan, parents))
        chosen = compute(plan.model_dtype, [entry.shape for entry in plan.entries], str(parents.device))
        merger.compute_dtype = chosen.torch_dtype
        model = merger.apply(reference, lambda done, total: progress("merging", done, total))
        yield model, merger.tokenizer(reference), parents.checkpoints[reference.config_source].generation_config


def _spread(reference: str | Recipe, device_map: object) -> str | Recipe:
    """Return a model that is spread over devices as a merge of one, whose tensors a device map can place."""
    from merging import Recipe

    return Recipe.single(reference) if device_map and isinstance(reference, str) else reference
