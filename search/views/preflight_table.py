"""What `merge-search check CONFIG` found: a table for users, plain data for programs, and the line at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from merging.checkpoints.references import printable
from search.counts import counted
from search.memory_demand import UNKNOWN
from search.preflight.finding import Finding, Level
from search.shell import shell_command

if TYPE_CHECKING:
    from search.memory_plan import MemoryPlan
    from search.preflight.subject import EndedSearch, Subject

_STYLES: Mapping[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return a line per finding; a remedy has a line of its own below."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    before = ""
    for finding in findings:
        what = "" if finding.what == before else finding.what
        told = Text(printable(finding.detail), overflow="fold")
        if finding.remedy:
            told.append(f"\n→ {printable(finding.remedy)}", style="bold")
        table.add_row(Text(what), Text(finding.level, style=_STYLES[finding.level]), told)
        before = finding.what
    return table


def last_lines(findings: Sequence[Finding], command: str, subject: Subject | None = None) -> str:
    """Return what to do next: run the search, or first fix what is wrong; or what goes on if it has ended."""
    counts = Counter(finding.level for finding in findings)
    if problems := list(dict.fromkeys(each.what for each in findings if each.level == "problem")):
        return f"Not ready: {counted(counts['problem'], 'problem')} ({', '.join(problems)}); fix what is listed above"
    if subject and subject.ended:
        return _after_the_end(subject.ended, subject.out, subject.config.source, command)
    if warnings := list(dict.fromkeys(each.what for each in findings if each.level == "warning")):
        return f"Ready, with {counted(counts['warning'], 'warning')} ({', '.join(warnings)}): {command}"
    return f"All green: {command}"


def _after_the_end(ended: EndedSearch, out: Path, config: str, command: str) -> str:
    """Return what can be done with a search that has ended, a command per line."""
    more = f"{command} --trials {ended.more_trials}" if ended.more_trials else command
    if ended.by_rules:
        more = f"let search.stop in {config} end it later, and {more}"
    return "\n".join(
        [
            f"The search in {out} has ended: {ended.reason}. What you can do now:",
            f"  its results:  {shell_command('leaderboard', out)}",
            f"  a model:      {shell_command('export', out, '--to', Path(f'{out.resolve().name}-merged'))}",
            f"  more trials:  {more}",
            f"  start over:   {command} --fresh",
        ]
    )


def preflight_data(
    findings: Sequence[Finding], plan: MemoryPlan | None, command: str, ended: str = ""
) -> Mapping[str, object]:
    """Return the findings, the memory plan if there is one, the command, and why the search has ended; plain data."""
    memory = plan and [
        {
            "place": place.memory.name,
            "free": _known(place.memory.free),
            "total": _known(place.memory.total),
            "parts": {part.what: part.bytes for part in place.parts},
        }
        for place in plan.places
    ]
    return {
        "ready": all(finding.level != "problem" for finding in findings),
        "findings": [
            {"what": each.what, "level": each.level, "detail": each.detail, "remedy": each.remedy} for each in findings
        ],
        "memory": memory,
        "command": command,
        "ended": ended,
    }


def _known(size: int) -> int | None:
    return None if size >= UNKNOWN else size
