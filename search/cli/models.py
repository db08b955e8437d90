"""The commands that need no search: merge, evaluate, score."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from evaluation import PROMPT_FORMATS
from merging import LoadOptions, MergeOptions
from search.cli import shared_options
from search.cli.given_values import GivenPath, GivenText
from search.cli.printing import (
    names_of,
    print_report,
    print_scored,
    print_side_by_side,
    print_tried,
    show_plan,
    tell,
    tell_isolation,
    tell_of_mergekit,
)
from search.counts import counted
from search.startup import quick_imports
from search.views.bar import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from evaluation import BackendName, ComputeDtype, PromptFormat
    from merging import Recipe

_MODELS = "a folder, a hub id (owner/name) or a recipe (a .yaml file)"


@click.command()
@click.argument("recipe", type=GivenPath("a recipe (a .yaml file)"))
@click.argument("folder", type=GivenPath("a folder to create"))
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
        loaded = load_recipe(recipe)  # a mistake in it must not wait for torch
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
    click.echo(f"{folder}: {loaded.merge_method} of {counted(len(loaded.parents()), 'model')}")
    tell_of_mergekit(folder, loaded.merge_method, mergekit_compatible)


@click.command()
@click.argument("models", nargs=-1, required=True, type=GivenText(_MODELS))
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
    models: tuple[str, ...],
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
    """Score a model (a folder or a hub id) or a recipe (a .yaml file) on a problem set; several side by side.

    \b
    Example:
      merge-search evaluate ./model --problems humaneval --allow-code-execution
      merge-search evaluate ./one ./another ./third --allow-code-execution
    """
    from evaluation import ConsentError, EvaluationError, Sampling, load_problem_sets

    with quick_imports():
        references = _references(models)  # a missing model is reported before consent is asked for
    if not allow_code_execution:
        raise ConsentError
    try:
        sampling = Sampling(samples, temperature, top_p, random_seed)
    except ValueError as error:
        raise EvaluationError(f"--{str(error).replace('top_p', 'top-p', 1)}") from None
    if twice := next((name for name in models if models.count(name) > 1), None):
        raise click.UsageError(f"{twice} is given twice")
    if prompt_formats and len(models) > 1:
        raise click.UsageError("--prompt-formats compares the prompt formats of one model")
    if device_map and device != "auto":
        raise click.UsageError("--device and --device-map say where to work; give one of the two")
    if device_map and backend == "vllm":
        raise click.UsageError("--device-map: vllm runs a model on one card; give --device, or --backend transformers")
    if backend == "vllm" and compute_dtype == "float32":
        raise click.UsageError("--compute-dtype float32: vllm computes in the weights' dtype; take auto or recipe")
    with bar() as progress:  # from here on seconds may pass: torch and transformers are imported
        chosen = load_problem_sets(problems)
        with quick_imports():
            from evaluation import Evaluator, Room
            from search.candidates import ParentCandidate, score_each
            from search.devices import choose_device
            from search.planned_memory import Generation
        formats, load = PROMPT_FORMATS if prompt_formats else (prompt,), LoadOptions(lazy_unpickle, trust_remote_code)
        where = MergeOptions(choose_device(device, backend=backend), device_map, load=load)

        def generation(tokenizer: PreTrainedTokenizerBase) -> Generation:
            return Generation.of(backend, [chosen], tokenizer, formats, max_new_tokens, samples, batch_size)

        candidates = [
            ParentCandidate.planned(name, reference, where, compute_dtype, backend, generation)
            for name, reference in zip(models, references, strict=True)
        ]
        with Evaluator(
            chosen,
            allow_code_execution=allow_code_execution,
            prompt_format=prompt,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            backend=backend,
            sampling=sampling,
            tell=tell,
            room=reduce(Room.within, (candidate.room for candidate in candidates)),
        ) as evaluator:
            tell_isolation(evaluator.sandbox.isolation)
            if len(models) > 1:
                reports, failed = score_each(candidates, evaluator, random_seed, progress, tell)
            elif prompt_formats:
                from search.prompt_formats import try_prompt_formats

                with candidates[0].loaded(random_seed, progress, tell) as (model, tokenizer, _):
                    tried = try_prompt_formats(evaluator, model, candidates[0].tokenizers(tokenizer), progress)
            else:
                report = candidates[0].scored(evaluator, random_seed, progress, tell)
    if len(models) > 1:
        print_side_by_side(reports, failed, as_json)
        sys.exit(2 if failed else 0)
    elif prompt_formats:
        print_tried(tried, as_json)
    else:
        print_report(report, as_json)


def _references(models: Sequence[str]) -> list[str | Recipe]:
    """Return the models that are given, recipes read. Raises SearchError or MergingError if one is not here."""
    from merging import missing_part
    from search.errors import SearchError
    from search.recipes import load_recipe

    found = [load_recipe(each) if each.endswith((".yaml", ".yml")) else each for each in models]
    parents = (name for each in found for name in ([each] if isinstance(each, str) else each.parents()))
    if missing := [part for part in map(missing_part, parents) if part is not None]:
        what = "model" if len(missing) == 1 else "models"
        raise SearchError(f"{what} {', '.join(dict.fromkeys(missing))}: no such folder; give {_MODELS}")
    return found


@click.command()
@click.argument("samples", type=GivenPath("a file of completions (.jsonl)"))
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
