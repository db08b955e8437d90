"""What the commands print.

Guarantees: results go to stdout and all else to stderr. Only a terminal gets colours.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from search.counts import counted
from search.errors import SearchError
from search.views.json_csv import comparison_json, report_data, scored_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

    from evaluation import Isolation, Report, ScoredSamples
    from merging import Recipe
    from merging.planning.plan import Step
    from search.board.compare import Comparison
    from search.board.leaderboard import Leaderboard
    from search.overview import SearchOverview
    from search.preflight.finding import Finding
    from search.preflight.subject import Subject
    from search.progress import Progress
    from search.prompt_formats import Tried
    from search.space.config import SearchConfig

# The width of tables that do not go to a terminal.
_PIPED_WIDTH = 160


def print_leaderboard(found: Leaderboard, top: int | None) -> None:
    """Print the best `top` trials, by default all, and the reference models, as wide as the terminal."""
    from rich.console import Console

    from search.board.leaderboard import shown_by_seed
    from search.board.names import record_name
    from search.views.table import best_parameters, leaderboard_table, parents_of

    if not found.records:
        click.echo(f"{found.study}: no trial is over yet")
        return
    console = Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
    console.print(found.verdict.sentence, style="bold", markup=False, highlight=False, soft_wrap=True)
    _print_table(leaderboard_table(found, top, console.width))
    if sys.stdout.isatty():
        for line in best_parameters(found, console.width):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if any(row.compared_on == "search" for row in found.top(top)):
        console.print("* on the search split, which the search has seen, so without a test", style="dim")
    if found.optimism is not None:
        ended = sum(record.search.state == "complete" for record in found.trials)
        more = "more" if found.optimism >= 0 else "less"
        console.print(
            f"optimism: the best of {counted(ended, 'trial')} scores {abs(found.optimism) * 100:.1f} points {more} on "
            "the search split, which it was chosen by, than on the report split",
            style="dim",
            highlight=False,
        )
    if found.confirmed_on:
        scores = {record_name(record): record.on("confirm").score for record in found.records}
        called = parents_of(found)
        each = [f"{called.get(name, name)} {score:.1%}" for name, score in scores.items() if score is not None]
        line = f"confirmed on {found.confirmed_on}: {', '.join(each)}"
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
    for record in found.trials:
        if by_seed := record.on("confirm").by_seed:
            line = f"{record_name(record)} draws random numbers: {shown_by_seed(by_seed)}"
            console.print(line, style="dim", highlight=False, soft_wrap=True)
    for row in found.top(top):
        if row.record.search.state == "complete" and row.record.search.error:
            console.print(f"{row.name}: {row.record.search.error}", style="red", markup=False)
    failed = [record for record in found.records if record.search.state == "failed"]
    if failed:
        last = failed[-1]
        console.print(
            f"{len(failed)} failed; the last, {record_name(last)}: {last.search.error}", style="red", markup=False
        )


def print_isolation(isolation: Isolation, as_json: bool) -> None:
    """Print the layers of a sandbox and the attempts to break out of it."""
    from search.views.sandbox_check import isolation_data, isolation_tables

    if as_json:
        click.echo(json.dumps(isolation_data(isolation)))
        return
    for table in isolation_tables(isolation):
        _print_table(table)
        click.echo()
    if not isolation.shortfall:
        click.echo(f"Enough to score models; {len(isolation.refused)} attempts to break out were refused.")


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPED_WIDTH


def _print_table(table: Table) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_PIPED_WIDTH)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_report(report: Report, as_json: bool) -> None:
    """Print what became of each problem, and pass@1 with its interval."""
    if as_json:
        click.echo(json.dumps(report_data(report)))
        return
    for outcome in report.completions:
        click.echo(f"{outcome.task_id:<24} {outcome.status:<8} {outcome.detail}".rstrip())
    for name, score in report.scores.items():
        click.echo(f"{name}: pass@1 {score:.1%}")
    if report.note:
        click.echo(f"the model is broken: {report.note}")
    low, high = report.interval
    passed, total = sum(outcome.passed for outcome in report.completions), len(list(report.completions))
    further = "".join(f", pass@{k} {report.pass_at(k):.1%}" for k in report.tries[1:])
    click.echo(
        f"pass@1 {report.pass_at_1:.1%} (95% interval {low:.1%} to {high:.1%}){further}, {passed} of {total}, "
        f"{report.seconds:.1f} s, computed in {report.compute_dtype}"
    )


def print_tried(rows: Sequence[Tried], as_json: bool) -> None:
    """Print the score of each prompt format under each tokenizer, the best first."""
    from search.views.table import prompt_formats_table

    if not as_json:
        _print_table(prompt_formats_table(rows))
        for dtype in {row.report.compute_dtype for row in rows if row.report}:
            click.echo(f"computed in {dtype}")
        return
    found = [
        {**(report_data(row.report) if row.report else {}), "prompt": row.prompt, "tokenizer": row.tokenizer}
        | {"note": row.note}
        for row in rows
    ]
    click.echo(json.dumps(found))


def print_comparison(found: Comparison, as_json: bool) -> None:
    """Print how two models did on the same problems."""
    test = found.test
    if as_json:
        click.echo(comparison_json(found))
        return
    width = max(map(len, found.names))
    for name, score, (low, high) in zip(found.names, found.scores, found.intervals, strict=True):
        click.echo(f"{name:<{width}}  pass@1 {score:.1%} (95% interval {low:.1%} to {high:.1%})")
    where = f" of the {found.split} split" if found.split else ""
    click.echo(f"over the {counted(found.problems, 'problem')}{where} that both were scored on")
    for what, tasks in (("won", test.won), ("lost", test.lost)):
        click.echo(f"\n{what} {len(tasks)}: {', '.join(tasks)}".rstrip(": "))
    click.echo(f"\nexact McNemar test: p = {test.p_value:.2g}")
    if found.split == "search":
        click.echo("the search chose by this split, so the test favours what it chose")


def print_side_by_side(reports: Mapping[str, Report], failed: Mapping[str, Exception], as_json: bool) -> None:
    """Print what several models solve, alone and in pairs."""
    from merging import Recipe
    from search.board.complements import complements
    from search.views.side_by_side import models_table, pairs_table, side_by_side_data, side_by_side_lines

    found = complements(reports) if reports else None
    if as_json:
        click.echo(json.dumps(side_by_side_data(reports, failed, found)))
    elif found:
        names = names_of(map(Recipe.single, reports))
        _print_table(models_table(reports, found, names))
        if found.pairs:
            click.echo()
            _print_table(pairs_table(found, names))
            for line in side_by_side_lines(found, names):
                few = textwrap.wrap(
                    line, _width(), max_lines=3, placeholder=" ... (all with --json)", break_on_hyphens=False
                )
                click.echo("\n" + "\n".join(few))


def print_overview(found: Sequence[SearchOverview], as_json: bool) -> None:
    """Print the states of searches."""
    from search.views.overview_table import overview_data, overview_table

    if as_json:
        click.echo(json.dumps([overview_data(each) for each in found]))
    else:
        _print_table(overview_table(found, _width()))


def print_scored(scored: ScoredSamples, as_json: bool) -> None:
    """Print the verdict on each sample, and pass@k."""
    if as_json:
        click.echo(scored_json(scored))
        return
    for task, verdict in zip(scored.task_ids, scored.verdicts, strict=True):
        click.echo(f"{task:<24} {verdict.status:<8} {verdict.detail}".rstrip())
    low, high = scored.interval
    further = "".join(f", pass@{k} {rate:.1%}" for k, rate in scored.pass_at.items() if k > 1)
    click.echo(
        f"pass@1 {scored.pass_at[1]:.1%} (95% interval {low:.1%} to {high:.1%}){further} over "
        f"{counted(len(set(scored.task_ids)), 'problem')}"
    )


def show_search(config: SearchConfig, progress: Progress) -> bool:
    """Print the search space of a config, one plan, and warnings; return whether it could run here.

    Raises MergingError.
    """
    from search.cli.plan_table import ranges_table
    from search.earlier import Start
    from search.preflight.finding import untoward
    from search.preflight.parent_findings import notes_on_parents
    from search.preflight.search_findings import unread_findings
    from search.preflight.subject import Subject

    config.require_files()
    space = config.space
    example = space.recipe_at(config.warm_starts[0]) if config.warm_starts else space.example()
    names = names_of(space.extreme_recipes)
    _print_table(ranges_table(space.ranges, example.to_dict(), names, _width()))
    with Subject(config, Path(), progress) as subject:
        recipes, steps = subject.candidates, subject.merger.steps(example)
        click.echo(f"\n{'The first warm start' if config.warm_starts else 'The low end of every range'}:\n")
        show_plan(steps, names, example.dtype)
        if subject.space_warning:
            click.echo(f"\n{subject.space_warning}")
        unread = unread_findings(space, subject.merger, recipes, progress)
        tell(*untoward([*notes_on_parents(subject.parents), *unread]))
        start = Start.of(subject.earlier, space, {})
        has_room = _show_memory(subject, names)
        tell(*start.notes)
        if subject.earlier:
            tell(
                "if the search finds at its start that an earlier search is the same, it takes that one's scores over "
                "instead"
            )
        _show_power(subject)
    return _has_backend(config) and has_room


def _has_backend(config: SearchConfig) -> bool:
    """Whether the backend of a search is installed; say how to install it if not."""
    try:
        config.require_backend()
    except SearchError as error:
        tell(str(error))
        return False
    return True


def _show_memory(subject: Subject, names: Mapping[str, str]) -> bool:
    """Print how much of this machine's memory the search would take; return False if that is too much or unknown.

    Args:
        subject: the search.
        names: the displayed names of the parents, by reference.
    """
    from merging import MergingError
    from search.cli.memory_table import memory_lines, memory_table

    try:
        plan = subject.memory
    except (SearchError, MergingError) as error:
        tell(f"how much memory it takes is not known: {error}")
        return False
    click.echo()
    _print_table(memory_table(plan))
    tiers = {} if plan.refusal else {names.get(name, name): places for name, places in subject.tiers.items()}
    for line in memory_lines(plan, tiers):
        click.echo(f"\n{textwrap.fill(line, _width())}")
    return not plan.refusal


def _show_power(subject: Subject) -> None:
    """Print what the search could prove."""
    from search.preflight.search_findings import evidence

    try:
        found = list(evidence(subject))
    except SearchError as error:
        tell(f"what it could prove is not known: {error}")
        return
    for finding in found:
        click.echo(f"\n{finding.sentence}")


def print_preflight(subject: Subject, findings: Sequence[Finding], command: str, as_json: bool) -> None:
    """Print what a preflight found, the memory plan if there is one, and what to do next."""
    from search.cli.memory_table import memory_table
    from search.views.preflight_table import findings_table, last_lines, preflight_data

    # Unless the check of the memory has passed, there may be no plan.
    plan = subject.memory if any(it.what == "memory" and it.level == "ok" for it in findings) else None
    is_ready = all(it.level != "problem" for it in findings)
    if as_json:
        ended = subject.ended.reason if is_ready and subject.ended else ""
        click.echo(json.dumps(preflight_data(findings, plan, command, ended)))
        return
    _print_table(findings_table(findings))
    if plan:
        click.echo()
        _print_table(memory_table(plan))
    click.echo(f"\n{last_lines(findings, command, subject)}")


def show_plan(steps: Sequence[Step], names: Mapping[str, str], dtype: str | None) -> None:
    """Print the steps of a merge, with one line for tensors that are made alike."""
    from search.cli.plan_table import plan_table

    line, table = plan_table(steps, names, dtype)
    click.echo(textwrap.fill(line, _width(), subsequent_indent="  ", break_on_hyphens=False) + "\n")
    _print_table(table)


def names_of(recipes: Iterable[Recipe]) -> dict[str, str]:
    """Return the names of the parents of some recipes, by their reference."""
    from merging import Recipe
    from search.board.names import LABEL_WIDTH, parent_names

    parents = dict.fromkeys(name for recipe in recipes for name in recipe.parents())
    return parent_names([Recipe.single(name).to_dict() for name in parents], LABEL_WIDTH)


def tell_of_mergekit(folder: Path, merge_method: str, compatible: bool) -> None:
    """Say whether mergekit can read the recipe of an export, if its method is not one of mergekit's."""
    from merging.export.mergekit_equivalent import DELTA, notice

    if line := notice(merge_method):
        click.echo(f"mergekit reads {folder / 'recipe.yaml'}; the model is {folder / DELTA}" if compatible else line)


def tell_isolation(isolation: Isolation) -> None:
    """Say which layers the sandbox lacks, if any."""
    if isolation.note:
        click.echo(isolation.note, err=True)


def tell(*notes: str) -> None:
    """Print notes for the user."""
    for note in notes:
        click.echo(note, err=True)
