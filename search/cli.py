"""The command line. Heavy imports stay inside the commands; what a person must act on is one line, exit code 2."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from search import options
from search.display import (
    bar,
    print_comparison,
    print_isolation,
    print_leaderboard,
    print_report,
    print_scored,
    print_tried,
    show_plan,
    tell,
    tell_isolation,
    tell_of_mergekit,
)
from search.startup import quick_imports

if TYPE_CHECKING:
    from merging import Recipe


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Read a duration such as 8h or 1h30m as seconds."""
    from search.config import parse_duration

    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _Commands(click.Group):
    """Prints errors that a person can act on as a line, and leaves bugs their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
                # Of stdout: what is written elsewhere names its file.
                click.echo(f"merge-search: the output cannot be written: {error.strerror}", err=True)
                # At its end Python would fail to write it once more.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(2)
            if not _is_for_people(error):
                raise
            click.echo(f"merge-search: {error}", err=True)
            ctx.exit(2)


def _is_for_people(error: Exception) -> bool:
    from evaluation.errors import EvaluationError
    from merging.errors import MergingError
    from search.errors import SearchError

    return isinstance(error, SearchError | MergingError | EvaluationError)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="merge-search")
def main() -> None:
    """Search for the merge of your models that writes the best code.

    \b
    Example:
      merge-search run configs/quickstart.yaml
      merge-search leaderboard results/quickstart
      merge-search export results/quickstart --to merged
    """


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Results folder; by default results/ and the config's name."
)
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all, instead of the config's number.")
@click.option(
    "--timeout",
    callback=_seconds,
    metavar="TIME",
    help="Take no further trial after this time: 8h, 1h30m, 90m. Parents and the report split are scored all the same.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the sampler and of the split.")
@click.option("--fresh", is_flag=True, help="Begin anew; results that are there are moved aside.")
@click.option("--dry-run", is_flag=True, help="Show the searched numbers and one plan, and run nothing.")
@options.COMPILE
@options.CONSENT
def run(
    config: Path,
    out: Path | None,
    trials: int | None,
    timeout: float | None,
    seed: int | None,
    fresh: bool,
    dry_run: bool,
    compile: bool | None,
    allow_code_execution: bool,
) -> None:
    """Run a search, or go on with it where it stopped.

    \b
    Example:
      merge-search run configs/quickstart.yaml --trials 40 --out results/first
    """
    from search.progress import Terminal

    with Terminal() as progress:
        # PyTorch and transformers take seconds to import: a person sees why.
        progress.begin("starting", 1)
        from search.config import SearchConfig

        loaded = SearchConfig.load(config)
        if allow_code_execution:
            loaded = loaded.with_consent()
        if compile is not None:
            loaded = loaded.with_compile(compile)
        if dry_run:
            show_plan(loaded)
            return
        with quick_imports():
            from search.worker import default_folder, run_search

        folder = out or default_folder(loaded)
        found = run_search(loaded, folder, trials=trials, timeout=timeout, seed=seed, fresh=fresh, progress=progress)
    print_leaderboard(found, 10)
    if found.unfinished:
        given = {"--out": out, "--trials": trials, "--seed": seed}
        again = [str(word) for option, value in given.items() if value is not None for word in (option, value)]
        switches = ["--allow-code-execution"] * allow_code_execution
        switches += [] if compile is None else ["--compile" if compile else "--no-compile"]
        click.echo(f"\n{found.unfinished} To go on:")
        click.echo(f"  {shlex.join(['merge-search', 'run', str(config), *again, *switches])}")
    if found.best is not None:
        click.echo(f"\nNext, write the best merge as a model:\n  {_export_command(folder)}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=0), help="Show this many trials; parents are always shown.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def leaderboard(results: Path, top: int | None, as_json: bool, as_csv: bool) -> None:
    """Show the trials and the parents of a search, best first; also while it runs.

    \b
    Example:
      merge-search leaderboard results/quickstart --top 10
    """
    with quick_imports():
        from search.leaderboard import Leaderboard
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    found = Leaderboard.open(results)
    if as_json:
        click.echo(found.to_json(top))
    elif as_csv:
        click.echo(found.to_csv(top), nl=False)
    else:
        print_leaderboard(found, top)


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number; by default the best.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@options.SHARD_SIZE
@options.COMPATIBLE
def export(results: Path, trial: int | None, to: Path, max_shard_size: str, mergekit_compatible: bool) -> None:
    """Write the model of a trial, by default the best, as a folder that transformers loads.

    \b
    Example:
      merge-search export results/quickstart --to merged
    """
    with quick_imports():
        from search.export import export_trial
    with bar() as progress:
        row = export_trial(
            results, to, trial=trial, max_shard_size=max_shard_size, mergekit_compatible=mergekit_compatible,
            progress=progress,
        )  # fmt: skip
    click.echo(f"{to}: {row.name}, {row.search_score or 0:.1%} on the search split")
    tell_of_mergekit(to, row.recipe["merge_method"], mergekit_compatible)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@options.SHARD_SIZE
@click.option("--dry-run", is_flag=True, help="Show what would be merged, tensor by tensor, and merge nothing.")
@options.COMPATIBLE
@options.LOW_MEMORY
@options.LAZY_UNPICKLE
@options.TOKENIZER
@options.CARD
@options.CRIMES
@options.TRUST
@options.COMPILE
@options.SEED
@options.DEVICE
def merge(
    recipe: Path,
    folder: Path,
    max_shard_size: str,
    dry_run: bool,
    mergekit_compatible: bool,
    low_cpu_memory: bool,  # noqa: ARG001 - nothing is left for it to change
    lazy_unpickle: bool,
    copy_tokenizer: bool,
    write_model_card: bool,
    allow_crimes: bool,
    trust_remote_code: bool,
    compile: bool | None,
    random_seed: int,
    device: str,
) -> None:
    """Merge a mergekit recipe into a folder; no search.

    \b
    Example:
      merge-search merge ties.yaml merged
    """
    from search.recipes import load_recipe

    with quick_imports():
        loaded = load_recipe(recipe)  # a mistake in it is told before torch is waited for
    from search.devices import choose_device

    device = choose_device(device)
    if dry_run:
        from merging import Merger, ParentSet

        with ParentSet.open(
            loaded,
            device,
            lazy_unpickle=lazy_unpickle,
            trust_remote_code=trust_remote_code,
            allow_crimes=allow_crimes,
        ) as parents:
            tell(*parents.notes)
            click.echo(Merger(parents, random_seed).plan(loaded).describe())
        return
    from merging import export_model

    with bar() as progress:
        export_model(
            loaded, folder, random_seed=random_seed, device=device, max_shard_size=max_shard_size,
            mergekit_compatible=mergekit_compatible, lazy_unpickle=lazy_unpickle, copy_tokenizer=copy_tokenizer,
            write_model_card=write_model_card, allow_crimes=allow_crimes, trust_remote_code=trust_remote_code,
            compile=compile, progress=progress, note=tell,
        )  # fmt: skip
    click.echo(f"{folder}: {loaded.merge_method} of {len(loaded.parents())} models")
    tell_of_mergekit(folder, loaded.merge_method, mergekit_compatible)


@main.command()
@click.argument("model")
@options.PROBLEMS
@click.option("--prompt", type=click.Choice(["completion", "chat"]), default="completion", show_default=True)
@click.option(
    "--prompt-formats",
    type=click.Choice(["all"]),
    help="Compare every prompt format under the tokenizer and chat template of each parent, instead of --prompt.",
)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Completions a problem.")
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="Draw tokens; 0 takes the likeliest each time."
)
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw of the likeliest that have this part.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts at once; found by itself if not given.")
@options.BACKEND
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.LAZY_UNPICKLE
@options.TRUST
@options.SEED
@options.DEVICE
@options.DEVICE_MAP
@options.CONSENT
def evaluate(
    model: str,
    problems: tuple[str, ...],
    prompt: str,
    prompt_formats: str | None,
    samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int | None,
    backend: str,
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
    chosen = load_problem_sets(problems)
    reference = load_recipe(model) if model.endswith((".yaml", ".yml")) else model
    with quick_imports():
        from evaluation import Evaluator  # only now: it waits for torch
    from search.devices import choose_device

    settings: dict[str, Any] = {
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "backend": backend,
        "sampling": sampling,
    }
    with (
        Evaluator(chosen, allow_code_execution=allow_code_execution, **settings) as evaluator,
        bar() as progress,
        _model(
            reference, choose_device(device), device_map, random_seed, lazy_unpickle, trust_remote_code, progress
        ) as loaded,
    ):
        tell_isolation(evaluator.sandbox.isolation)
        if prompt_formats:
            from search.prompt_formats import try_prompt_formats

            tokenizers = _tokenizers(reference, loaded[1], trust_remote_code)
            tried = try_prompt_formats(evaluator, loaded[0], tokenizers, progress)
        else:
            report = evaluator.evaluate(*loaded, progress=lambda done, total: progress("scoring", done, total))
    if prompt_formats:
        print_tried(tried, as_json)
    else:
        print_report(report, as_json)


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: str, second: str, as_json: bool) -> None:
    """Compare two models problem by problem: reports (of evaluate --json), or trials of a search.

    \b
    Example:
      merge-search compare results/quickstart:37 results/quickstart:0
      merge-search compare merged.json parent.json
    """
    with quick_imports():
        from search.compare import compare as compare_scored
        from search.compare import load_scored
    print_comparison(compare_scored(load_scored(first), load_scored(second)), as_json)


@main.command()
@click.argument("samples", type=click.Path(path_type=Path))
@options.PROBLEMS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.CONSENT
def score(samples: Path, problems: tuple[str, ...], as_json: bool, allow_code_execution: bool) -> None:
    """Score completions that came from anywhere: lines of {"task_id": ..., "completion": ...}.

    \b
    Example:
      merge-search score samples.jsonl --allow-code-execution
    """
    from evaluation import load_problem_sets, score_samples

    with bar() as progress:
        scored = score_samples(
            samples,
            load_problem_sets(problems),
            allow_code_execution=allow_code_execution,
            progress=lambda done, total: progress("scoring", done, total),
        )
    tell_isolation(scored.isolation)
    print_scored(scored, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(as_json: bool) -> None:
    """Try to break out of the sandbox, and show its layers; exit code 2 if they are too few to score models.

    \b
    Example:
      merge-search check --json
    """
    from evaluation.sandbox.errors import ConfinementError
    from evaluation.sandbox.pool import SandboxPool

    with SandboxPool(workers=1) as pool:
        refusal = None
        try:
            isolation = pool.isolation
        except ConfinementError as error:
            isolation, refusal = error.isolation, error
    print_isolation(isolation, as_json)
    if refusal is not None:
        raise refusal


def _export_command(folder: Path) -> str:
    name = folder.resolve().name
    return shlex.join(["merge-search", "export", str(folder), "--to", f"{name}-merged"])


def _tokenizers(reference: str | Recipe, own: Any, trusted: bool) -> dict[str, Any]:
    """Return the tokenizer of a model, or that of a merge and those of its parents, by whose they are."""
    from merging import load_tokenizer

    if isinstance(reference, str):
        return {reference: own}
    return {"the merge": own} | {parent: load_tokenizer(parent, trusted) for parent in reference.parents()}


@contextlib.contextmanager
def _model(
    reference: str | Recipe,
    device: str,
    device_map: Literal["auto"] | None,
    random_seed: int,
    lazy_unpickle: bool,
    trusted: bool,
    progress: Callable[[str, int, int], None],
) -> Iterator[tuple[Any, Any]]:
    """Yield the live model and the tokenizer of a checkpoint or of a recipe."""
    from merging import Merger, ParentSet, Recipe, load_model, load_tokenizer

    if isinstance(reference, str) and device_map:
        reference = Recipe.single(reference)  # what merges tensor by tensor also loads them onto their devices
    if isinstance(reference, str):
        plain = load_model(reference, device, lazy_unpickle=lazy_unpickle, trust_remote_code=trusted)
        yield plain, load_tokenizer(reference, trusted)
        return
    with ParentSet.open(
        reference,
        device,
        device_map=device_map,
        memory_budget=0,
        lazy_unpickle=lazy_unpickle,
        trust_remote_code=trusted,
    ) as parents:
        tell(*parents.notes)
        merger = Merger(parents, random_seed)
        model = merger.apply(reference, lambda done, total: progress("merging", done, total))
        yield model, merger.tokenizer(reference)
