"""The command line. Heavy imports stay inside the commands; what a person must act on is one line, exit code 2."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from evaluation import Report
    from merging import Recipe
    from search.config import SearchConfig
    from search.leaderboard import Leaderboard

# Of a table that goes to no terminal.
_PIPED_WIDTH = 160

_CONSENT = click.option(
    "--allow-code-execution", is_flag=True, help="Agree to execute the code that the models write, in a sandbox."
)
_DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to work, as torch names devices; auto: a GPU if there is one.",
)
_COMPATIBLE = click.option(
    "--mergekit-compatible",
    is_flag=True,
    help="Of a method that mergekit does not have, export an equal that it can read.",
)
# The switches of mergekit-yaml, by its names.
_SHARD_SIZE = click.option(
    "--out-shard-size",
    "--max-shard-size",
    "max_shard_size",
    default="5GB",
    show_default=True,
    help="The most that one file of weights may hold; 5B is 5GB, as in mergekit.",
)
_LOW_MEMORY = click.option(
    "--low-cpu-memory/--no-low-cpu-memory", help="As in mergekit; merges are always made so, tensor by tensor."
)
_LAZY_UNPICKLE = click.option(
    "--lazy-unpickle/--no-lazy-unpickle", help="Read torch pickles (pytorch_model.bin), without running code in them."
)
_TRUST = click.option(
    "--trust-remote-code/--no-trust-remote-code",
    help="Execute Python code that comes with a model, tokenizer or config.",
)
_CRIMES = click.option(
    "--allow-crimes/--no-allow-crimes", help="Merge models of different architectures where their tensors fit."
)
_TOKENIZER = click.option(
    "--copy-tokenizer/--no-copy-tokenizer",
    default=True,
    show_default=True,
    help="Give a merge whose recipe names no tokenizer that of its base.",
)
_CARD = click.option(
    "--write-model-card/--no-write-model-card", default=True, show_default=True, help="Write a README.md."
)
_COMPILE = click.option(
    "--compile/--no-compile",
    default=None,
    help="Merge with compiled kernels on a CPU; by default where that saves more time than it takes. Same bits.",
)
_SEED = click.option("--random-seed", default=0, show_default=True, help="Seed of methods that draw random numbers.")


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
@_COMPILE
@_CONSENT
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
            _show_plan(loaded)
            return
        from search.worker import default_folder, run_search

        folder = out or default_folder(loaded)
        found = run_search(loaded, folder, trials=trials, timeout=timeout, seed=seed, fresh=fresh, progress=progress)
    _print_leaderboard(found, 10)
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
        _print_leaderboard(found, top)


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--trial", type=click.IntRange(min=0), help="The trial's number; by default the best.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@_SHARD_SIZE
@_COMPATIBLE
def export(results: Path, trial: int | None, to: Path, max_shard_size: str, mergekit_compatible: bool) -> None:
    """Write the model of a trial, by default the best, as a folder that transformers loads.

    \b
    Example:
      merge-search export results/quickstart --to merged
    """
    from search.export import export_trial

    with _bar() as progress:
        row = export_trial(
            results, to, trial=trial, max_shard_size=max_shard_size, mergekit_compatible=mergekit_compatible,
            progress=progress,
        )  # fmt: skip
    click.echo(f"{to}: {row.name}, {row.search_score or 0:.1%} on the search split")
    _tell_of_mergekit(to, row.recipe["merge_method"], mergekit_compatible)


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@_SHARD_SIZE
@click.option("--dry-run", is_flag=True, help="Show what would be merged, tensor by tensor, and merge nothing.")
@_COMPATIBLE
@_LOW_MEMORY
@_LAZY_UNPICKLE
@_TOKENIZER
@_CARD
@_CRIMES
@_TRUST
@_COMPILE
@_SEED
@_DEVICE
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
            _tell(*parents.notes)
            click.echo(Merger(parents, random_seed).plan(loaded).describe())
        return
    with _bar() as progress:
        export_model(
            loaded, folder, random_seed=random_seed, device=device, max_shard_size=max_shard_size,
            mergekit_compatible=mergekit_compatible, lazy_unpickle=lazy_unpickle, copy_tokenizer=copy_tokenizer,
            write_model_card=write_model_card, allow_crimes=allow_crimes, trust_remote_code=trust_remote_code,
            compile=compile, progress=progress, note=_tell,
        )  # fmt: skip
    click.echo(f"{folder}: {loaded.merge_method} of {len(loaded.parents())} models")
    _tell_of_mergekit(folder, loaded.merge_method, mergekit_compatible)


@main.command()
@click.argument("model")
@click.option("--problems", default="humaneval", show_default=True, help="humaneval, or a .jsonl file of its schema.")
@click.option("--prompt", type=click.Choice(["completion", "chat"]), default="completion", show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Prompts at once; found by itself if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_LAZY_UNPICKLE
@_TRUST
@_SEED
@_DEVICE
@_CONSENT
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
        _bar() as progress,
        _model(reference, choose_device(device), random_seed, lazy_unpickle, trust_remote_code, progress) as loaded,
    ):
        _tell(*filter(None, [evaluator.sandbox.isolation.note]))
        report = evaluator.evaluate(*loaded, progress=lambda done, total: progress("scoring", done, total))
    _print_report(report, as_json)


@main.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--problems", default="humaneval", show_default=True, help="humaneval, or a .jsonl file of its schema.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_CONSENT
def score(samples: Path, problems: str, as_json: bool, allow_code_execution: bool) -> None:
    """Score completions that came from anywhere: lines of {"task_id": ..., "completion": ...}.

    \b
    Example:
      merge-search score samples.jsonl --allow-code-execution
    """
    from evaluation import load_problems, score_samples

    with _bar() as progress:
        scored = score_samples(
            samples,
            load_problems(problems),
            allow_code_execution=allow_code_execution,
            progress=lambda done, total: progress("scoring", done, total),
        )
    _tell(*filter(None, [scored.isolation.note]))
    if as_json:
        verdicts = [
            {"task_id": task, "passed": verdict.passed, "status": verdict.status, "detail": verdict.detail}
            for task, verdict in zip(scored.task_ids, scored.verdicts, strict=True)
        ]
        click.echo(json.dumps({"pass@1": scored.pass_at_1, "verdicts": verdicts}))
        return
    for task, verdict in zip(scored.task_ids, scored.verdicts, strict=True):
        click.echo(f"{task:<24} {verdict.status:<8} {verdict.detail}".rstrip())
    click.echo(f"pass@1 {scored.pass_at_1:.1%} over {len(set(scored.task_ids))} problems")


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
    from search.check import described, tables

    with SandboxPool(workers=1) as pool:
        refusal = None
        try:
            isolation = pool.isolation
        except ConfinementError as error:
            isolation, refusal = error.isolation, error
    if as_json:
        click.echo(json.dumps(described(isolation)))
    else:
        for table in tables(isolation):
            _print_table(table)
            click.echo()
    if refusal is not None:
        raise refusal
    if not as_json:
        click.echo(f"Enough to score models; {len(isolation.refused)} attempts to break out were refused.")


def _tell_of_mergekit(folder: Path, merge_method: str, compatible: bool) -> None:
    from merging.compatible import DELTA, notice

    if line := notice(merge_method):
        click.echo(f"mergekit reads {folder / 'recipe.yaml'}; the model is {folder / DELTA}" if compatible else line)


def _tell(*notes: str) -> None:
    for note in notes:
        click.echo(note, err=True)


def _export_command(folder: Path) -> str:
    name = folder.resolve().name
    return shlex.join(["merge-search", "export", str(folder), "--to", f"{name}-merged"])


def _show_plan(config: SearchConfig) -> None:
    from merging import Merger, ParentSet

    config.require_files()
    for found in config.space.ranges:
        knots = f", a gradient of {found.knots} knots" if found.knots else ""
        whole = ", whole numbers" if found.whole else ""
        interval = f"one of {list(found.choices)}" if found.choices else f"{found.low:g} to {found.high:g}{whole}"
        click.echo(f"{found.path}: {interval}{knots}")
    example = config.space.recipe_at(config.warm_starts[0]) if config.warm_starts else config.space.example()
    with ParentSet.open(config.space.corners(), "cpu", **config.merging.switches) as parents:
        _tell(*parents.notes)
        if warning := config.space.fitting_corners(Merger(parents).plan).warning:
            click.echo(f"\n{warning}")
        click.echo(f"\n{'The first warm start' if config.warm_starts else 'For example'}:\n")
        click.echo(Merger(parents).plan(example).describe())


def _print_leaderboard(found: Leaderboard, top: int | None) -> None:
    from rich.console import Console

    if not found.rows:
        click.echo(f"{found.study}: no trial is over yet")
        return
    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    _print_table(found.table(top, console.width))
    if sys.stdout.isatty():
        for line in found.numbers_below(console.width):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(row.compared_on == "search" for row in found.top(top)):
        console.print("* on the search split, which the search has seen; no test is made of it", style="dim")
    failed = [row for row in found.rows if row.state == "failed"]
    if failed:
        last = failed[-1]
        console.print(f"{len(failed)} failed; the last, {last.name}: {last.error}", style="red", markup=False)


def _print_table(table: Table) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_PIPED_WIDTH)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        problems: Mapping[str, Any] = {
            task: {
                "passed": outcome.passed,
                "status": outcome.status,
                "detail": outcome.detail,
                "completion": outcome.completion,
                "completion_tokens": outcome.completion_tokens,
            }
            for task, outcome in report.outcomes.items()
        }
        low, high = report.interval
        click.echo(
            json.dumps(
                {
                    "pass@1": report.pass_at_1,
                    "interval": [low, high],
                    "prompt": report.prompt,
                    "seconds": report.seconds,
                    "problems": problems,
                }
            )
        )
        return
    for task, outcome in report.outcomes.items():
        click.echo(f"{task:<24} {outcome.status:<8} {outcome.detail}".rstrip())
    low, high = report.interval
    click.echo(
        f"pass@1 {report.pass_at_1:.1%} (95% interval {low:.1%} to {high:.1%}), {len(report.passed)} of "
        f"{len(report.outcomes)}, {report.seconds:.1f} s"
    )


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
        _tell(*parents.notes)
        merger = Merger(parents, random_seed)
        model = merger.apply(reference, lambda done, total: progress("merging", done, total))
        yield model, merger.tokenizer(reference)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows (phase, done, in all) on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total)
