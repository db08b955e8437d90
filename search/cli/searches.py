"""The commands about a search and its results: run, confirm, leaderboard, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluation.problems import SOURCES
from evaluation.scoring import MOST_SAMPLES
from search.cli import shared_options
from search.cli.compared import COMPARED
from search.cli.given_config import given_config
from search.cli.given_values import GivenPath, GivenText
from search.cli.printing import print_comparison, print_leaderboard, show_search, tell
from search.shell import shell_command as _command
from search.startup import without_collector
from search.views.json_csv import FORMATS

if TYPE_CHECKING:
    from search.board.leaderboard import Leaderboard

_SUGGESTED_SAMPLES = 4


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Read a duration such as 8h or 1h30m as seconds."""
    from search.space.sections import parse_duration

    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("config", type=shared_options.CONFIG)
@shared_options.OUT
@click.option("--trials", type=click.IntRange(min=1), help="Trials in all, instead of the config's number.")
@click.option(
    "--timeout",
    callback=_seconds,
    metavar="TIME",
    help="Start no trial after this time: 8h, 1h30m, 90m. Parents and the report split are scored in any case.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the sampler and the split.")
@shared_options.AROUND
@click.option("--fresh", is_flag=True, help="Start over; existing results are moved aside.")
@click.option("--retry-failed", is_flag=True, help="Run again what has failed so far.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the search space, a plan and what memory it takes; run nothing. Exits with 1 if it cannot run here.",
)
@shared_options.DEVICE_OF_SEARCH
@shared_options.COMPILE
@shared_options.TRACK
@shared_options.CONSENT
@shared_options.LOG_JSON
@shared_options.QUIET
def run(
    config: Path,
    out: Path | None,
    trials: int | None,
    timeout: float | None,
    seed: int | None,
    around: float | None,
    fresh: bool,
    retry_failed: bool,
    dry_run: bool,
    device: str | None,
    compile: bool | None,
    track: tuple[str, ...],
    allow_code_execution: bool,
    log_json: bool,
    quiet: bool,
) -> None:
    """Run a search, or continue it where it stopped.

    \b
    Example:
      merge-search run configs/quickstart.yaml --trials 40 --out results/first
      merge-search run ties.yaml --around 0.2 --allow-code-execution
      merge-search run configs/ds-trinity-7b.yaml --device cuda:3 --allow-code-execution
    """
    from search.views.terminal import display

    if fresh and retry_failed:
        raise click.UsageError("--fresh starts over, so nothing has failed yet; give it or --retry-failed")
    _require_one(log_json=log_json, quiet=quiet, dry_run=dry_run)
    given = {"--out": out, "--trials": trials, "--seed": seed, "--around": around, "--device": device}
    words = [word for option, value in given.items() if value is not None for word in (option, value)]
    words += ["--allow-code-execution"] * allow_code_execution
    words += [] if compile is None else ["--compile" if compile else "--no-compile"]
    words += [word for name in track for word in ("--track", name)]
    again = _command("run", config, *words)
    with display(log_json, quiet) as progress:
        # PyTorch and transformers take seconds to import: this line says why nothing happens yet.
        progress.begin("starting", 1)
        loaded = given_config(config, around, allow_code_execution, device, partial(click.echo, err=log_json))
        if compile is not None:
            loaded = loaded.updated("merging", compile=compile)
        if dry_run:
            sys.exit(0 if show_search(loaded, progress) else 1)
        from search.callbacks.trackers import trackers
        from search.run.worker import default_folder, run_search

        folder = out or default_folder(loaded)
        with _continued_by(again):
            found = run_search(
                loaded, folder, trials=trials, timeout=timeout, seed=seed, fresh=fresh, retry_failed=retry_failed,
                progress=progress, callbacks=trackers(track),
            )  # fmt: skip
        progress.end(found, str(folder))
    if log_json:
        return
    _print_end(found, again)
    if found.is_promising and not found.unfinished:
        more = ["--problems", "mbpp+"] if loaded.evaluation.more_with_mbpp else []
        more += ["--allow-code-execution"] * allow_code_execution
        confirming = _command("confirm", folder, "--samples", _SUGGESTED_SAMPLES, *more)
        click.echo(f"\nTo gather more evidence for the finalists:\n  {confirming}")
    _print_report(found, folder)
    _print_export(found, folder)


@click.command()
@shared_options.RESULTS
@click.option(
    "--problems",
    type=shared_options.SOURCE,
    multiple=True,
    help=f"Further problems: {SOURCES}. Those that the search has seen are left out. The option may be repeated.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, MOST_SAMPLES),
    help="Completions per problem, one in each round; 1 by default. Fixed when the confirmation begins.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="Sampling temperature; by default the search's, or 0.2 if it is greedy and there are several samples.",
)
@click.option("--timeout", callback=_seconds, metavar="TIME", help="Start no round after this time: 8h, 1h30m, 90m.")
@shared_options.DEVICE_OF_SEARCH
@shared_options.TRACK
@shared_options.CONSENT
@shared_options.LOG_JSON
@shared_options.QUIET
def confirm(
    results: Path,
    problems: tuple[str, ...],
    samples: int | None,
    temperature: float | None,
    timeout: float | None,
    device: str | None,
    track: tuple[str, ...],
    allow_code_execution: bool,
    log_json: bool,
    quiet: bool,
) -> None:
    """Gather more evidence for the finalists of a search that is over, until one is proven or refuted.

    \b
    Example:
      merge-search confirm results/quickstart --samples 4
      merge-search confirm results/first --problems mbpp+ --samples 4 --timeout 2h
    """
    from search.views.terminal import display

    _require_one(log_json=log_json, quiet=quiet)
    given = [word for source in problems for word in ("--problems", source)]
    for option, value in {"--samples": samples, "--temperature": temperature, "--device": device}.items():
        given += [] if value is None else [option, str(value)]
    given += [word for name in track for word in ("--track", name)]
    again = _command("confirm", results, *given, *["--allow-code-execution"] * allow_code_execution)
    with display(log_json, quiet) as progress:
        progress.begin("starting", 1)
        from search.callbacks.trackers import trackers
        from search.run.confirm import confirm_search

        with _continued_by(again):
            found = confirm_search(
                results, problems, samples=samples, temperature=temperature, timeout=timeout, device=device,
                allow_code_execution=allow_code_execution, progress=progress, callbacks=trackers(track),
            )  # fmt: skip
        progress.end(found, str(results))
    if log_json:
        return
    _print_end(found, again)
    _print_report(found, results)
    _print_export(found, results)


def _require_one(**options: bool) -> None:
    """Raise UsageError if more than one of some options is given."""
    given = [f"--{name.replace('_', '-')}" for name, is_given in options.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"give {given[0]} or {given[1]}, not both")


@contextmanager
def _continued_by(again: str) -> Iterator[None]:
    """Print the command that continues what runs inside, if a signal ends it."""
    try:
        yield
    except SystemExit:
        tell(f"To continue:\n  {again}")
        raise


def _print_end(found: Leaderboard, again: str) -> None:
    """Print the leaderboard of a search or a confirmation, why it has ended, and the command that continues it."""
    print_leaderboard(found, 10)
    if found.ended:
        click.echo(f"ended: {found.ended}")
    if found.unfinished:
        click.echo(f"\n{found.unfinished} To continue:\n  {again}")


def _print_export(found: Leaderboard, folder: Path) -> None:
    if found.best is None:
        return
    target = Path(f"{folder.resolve().name}-merged")
    no_better = found.verdict.ruling == "no better"
    next_step = "To export the best merge all the same" if no_better else "Next, export the best merge as a model"
    words = _command("export", folder, "--to", target, *["--anyway"] * no_better)
    click.echo(f"\n{next_step}:\n  {words}")


def _print_report(found: Leaderboard, folder: Path) -> None:
    if found.records:
        click.echo(f"\nTo see it in a browser: {_command('report', folder)}")


def _formats(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each of `FORMATS`."""
    for name in reversed(FORMATS):
        command = click.option(f"--{name}", is_flag=True, help=f"Print {name.upper()}.")(command)
    return command


@click.command()
@shared_options.RESULTS
@click.option("--top", type=click.IntRange(min=0), help="Show this many trials; reference models are always shown.")
@_formats
@click.option(
    "--optuna",
    type=GivenPath("a file"),
    help="Also write the trials to this SQLite file, as an Optuna study; optuna-dashboard shows it.",
)
def leaderboard(results: Path, top: int | None, optuna: Path | None, **formats: bool) -> None:
    """Show the trials and reference models of a search, best first; also while it runs.

    \b
    Example:
      merge-search leaderboard results/quickstart --top 10
    """
    chosen = [name for name, is_given in formats.items() if is_given]
    _require_one(**formats)
    with without_collector():  # several objects for each of many trials
        from search.board.leaderboard import Leaderboard

        found = Leaderboard.open(results)
    if optuna:
        _write_study(results, optuna)
    if chosen:
        click.echo(FORMATS[chosen[0]](found, top), nl=False)
    else:
        print_leaderboard(found, top)
        _print_report(found, results)


@click.command()
@click.argument("first", type=GivenText(COMPARED))
@click.argument("second", type=GivenText(COMPARED))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=GivenPath("a file"), help="Also write a page with both answers to each problem.")
@click.option(
    "--problems",
    type=shared_options.SOURCE,
    multiple=True,
    help=f"Where the page of two reports takes its prompts from: {SOURCES}.",
)
def compare(first: str, second: str, as_json: bool, html: Path | None, problems: tuple[str, ...]) -> None:
    """Compare two models problem by problem: reports (of evaluate --json), or trials and parents of a search.

    \b
    Example:
      merge-search compare results/quickstart:33 results/quickstart:text
      merge-search compare results/quickstart:33 results/quickstart:text --html compared.html
      merge-search compare merged.json parent.json --html compared.html --problems humaneval
    """
    from search.board.compare import compare as compare_scored
    from search.cli.compared import scored, write_page

    found = compare_scored(scored(first), scored(second))
    if html:
        write_page(html, found, problems)
    print_comparison(found, as_json)
    if html:
        tell(f"{html}: open it in a browser")


def _write_study(results: Path, file: Path) -> None:
    from search.board.search_verdict import objectives
    from search.results import ResultsFolder
    from search.space.space import SearchSpace
    from search.study.projection import write_study

    folder = ResultsFolder.open(results)
    name, records, *_ = folder.read()
    space = SearchSpace.read(folder.identity["recipe"], str(results))
    folder.require_parameters(records, space)
    write_study(file, name, records, space.distributions(), objectives(records))
