"""The model card of an export: its scores with their evidence, its parents with their licences, and its command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from merging import parts_of, short_names
from search.board.leaderboard import Leaderboard, Row, shown_by_seed
from search.counts import counted
from search.shell import shell_command
from search.space.sections import EvaluationSection
from search.study.confirmation import Confirmation


def _decoding(settings: EvaluationSection) -> str:
    if not settings.temperature:
        return "greedy"
    drawn = counted(settings.samples, "sample")
    return f"{drawn} per problem at temperature {settings.temperature:g} and top_p {settings.top_p:g}"


def _asked_with(settings: EvaluationSection) -> str:
    """Return whose tokenizer all models were asked with, if the config names one."""
    name = settings.prompt.tokenizer
    return f" with the tokenizer of `{Path(name).name if Path(name).exists() else name}`" if name else ""


def _problems(settings: EvaluationSection) -> str:
    weighed = len(settings.problems) > 1
    named = ((Path(entry.source).name, f" (weight {entry.weight:g})" * weighed) for entry in settings.problems)
    return ", ".join(f"`{name}`{weight}" for name, weight in named)


def scores_section(
    row: Row,
    leaderboard: Leaderboard,
    settings: EvaluationSection,
    computed: str,
    confirmation: Confirmation | None,
) -> str:
    """Return the section about the scores of a model.

    Args:
        row: the model's row.
        leaderboard: the leaderboard of its search.
        settings: how it was scored.
        computed: the dtype that it was computed in, in words.
        confirmation: the confirmation of its search, if there was one.
    """
    lines = [
        "",
        "## Scores",
        "",
        f"pass@1, {_decoding(settings)}, prompt format `{settings.prompt.format}`{_asked_with(settings)}, problems "
        f"{_problems(settings)}, up to {settings.max_new_tokens} new tokens, computed in {computed}.",
        "",
        "| split | score | 95% interval |",
        "|---|---|---|",
        f"| search (chosen on it) | {row.record.search.score or 0:.1%} | |",
    ]
    report_score = row.record.on("report").score
    if report_score is not None and row.report_interval is not None:
        low, high = row.report_interval
        lines.append(f"| report (never seen by the search) | {report_score:.1%} | {low:.1%} to {high:.1%} |")
    if confirmation and (score := row.record.on("confirm").score) is not None:
        how = f" at temperature {confirmation.temperature:g}" if confirmation.temperature else ", greedy"
        lines.append(f"| confirmation ({leaderboard.confirmed_on}{how}) | {score:.1%} | |")
    if by_seed := row.record.on("confirm").by_seed:
        lines += ["", f"The merge draws random numbers: {shown_by_seed(by_seed)}."]
    if row.p_value is not None and leaderboard.best_parent:
        lines += [
            "",
            f"Against the best parent (`{_called(leaderboard.best_parent, leaderboard)}`) on the report split: "
            f"{counted(row.won or 0, 'problem')} won, {row.lost} lost, exact McNemar p = {row.p_value:.2g}.",
        ]
    if leaderboard.verdict.trial == row.record.number and row.record.kind == "trial":
        sentence = leaderboard.verdict.sentence
        lines += ["", f"{sentence[:1].upper()}{sentence[1:]}."]
    return "\n".join([*lines, ""])


def _called(parent: str, leaderboard: Leaderboard) -> str:
    """Return the name of a parent in the card: its hub id, or a short name instead of a path."""
    if not any(Path(part).exists() for part in (parent, *parts_of(parent))):
        return parent
    return short_names(record.name for record in leaderboard.records if record.kind == "parent").get(parent, parent)


def command_section(command: str, to: Path) -> str:
    """Return the section that says by which command an export was made into a folder."""
    return f"\n## Command\n\n```sh\n{command} --to {shlex.quote(to.resolve().name)}\n```\n"


def export_command(results: Path, words: Sequence[str]) -> str:
    """Return the command of an export without its target. Absolute paths mean nothing to others: only names stay.

    Args:
        results: the results folder.
        words: the options that decide what is exported.
    """
    return shell_command("export", Path(results.name) if results.is_absolute() else results, *words)
