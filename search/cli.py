"""The command line. Heavy imports stay inside the commands; what a person must act on is one line, exit code 2."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search import options
from search.display import (
    bar,
    print_isolation,
    print_leaderboard,
    print_report,
    print_scored,
    show_plan,
    tell,
    tell_isolation,
    tell_of_mergekit,
)

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

    loaded = load_recipe(recipe)  # a mistake in it is told before torch is waited for
    from merging import Merger, ParentSet, export_model
    from search.devices import choose_device

    device = choose_device(device)
    if dry_run:
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
@click.option("--problems", default="humaneval", show_default=True, help="humaneval, or a .jsonl file of its schema.")
@click.option("--prompt", type=click.Choice(["completion", "chat"]), default="completion", show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts at once; found by itself if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.LAZY_UNPICKLE
@options.TRUST
@options.SEED
@options.DEVICE
@options.CONSENT
def evaluate(
    model: str,
    problems: str,
    prompt: str,
    max_new_tokens: int,
    batch_size: int | None,
    as_json: bool,
    lazy_unpickle: bool,
    trust_remote_code: bool,
    random_seed: int,
    device: str,
    allow_code_execution: bool,
) -> None:
    """Score a model (a folder or a hub id) or a recipe (a .yaml file) on a problem set.

    \b
    Example:
      merge-search evaluate ./model --problems humaneval --allow-code-execution
    """
    from evaluation import ConsentError, load_problems
    from search.recipes import load_recipe

    if not allow_code_execution:
        raise ConsentError
    chosen = load_problems(problems)
    reference = load_recipe(model) if model.endswith((".yaml", ".yml")) else model
    from evaluation import Evaluator  # only now: it waits for torch
    from search.devices import choose_device

    settings: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    with (
        Evaluator(chosen, allow_code_execution=allow_code_execution, **settings) as evaluator,
        bar() as progress,
        _model(reference, choose_device(device), random_seed, lazy_unpickle, trust_remote_code, progress) as loaded,
    ):
        tell_isolation(evaluator.sandbox.isolation)
        report = evaluator.evaluate(*loaded, progress=lambda done, total: progress("scoring", done, total))
    print_report(report, as_json)


@main.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--problems", default="humaneval", show_default=True, help="humaneval, or a .jsonl file of its schema.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.CONSENT
def score(samples: Path, problems: str, as_json: bool, allow_code_execution: bool) -> None:
    """Score completions that came from anywhere: lines of {"task_id": ..., "completion": ...}.

    \b
    Example:
      merge-search score samples.jsonl --allow-code-execution
    """
    from evaluation import load_problems, score_samples

    with bar() as progress:
        scored = score_samples(
            samples,
            load_problems(problems),
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


@contextlib.contextmanager
def _model(
    reference: str | Recipe,
    device: str,
    random_seed: int,
    lazy_unpickle: bool,
    trusted: bool,
    progress: Callable[[str, int, int], None],
) -> Iterator[tuple[Any, Any]]:
    """Yield the live model and the tokenizer of a checkpoint or of a recipe."""
    from merging import Merger, ParentSet, load_model, load_tokenizer

    if isinstance(reference, str):
        plain = load_model(reference, device, lazy_unpickle=lazy_unpickle, trust_remote_code=trusted)
        yield plain, load_tokenizer(reference, trusted)
        return
    with ParentSet.open(
        reference, device, memory_budget=0, lazy_unpickle=lazy_unpickle, trust_remote_code=trusted
    ) as parents:
        tell(*parents.notes)
        merger = Merger(parents, random_seed)
        model = merger.apply(reference, lambda done, total: progress("merging", done, total))
        yield model, merger.tokenizer(reference)
