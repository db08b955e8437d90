"""The checklist: every check of a preflight, in the order in which the user reads their findings.

Guarantees: a check that fails ends no other; the checks that need it are left out, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from evaluation import EvaluationError
from evaluation.sandbox.errors import SandboxError
from merging import MergingError, Recipe
from search.board.names import NAME_WIDTH, parent_names
from search.errors import SearchError
from search.preflight import machine_findings as machine
from search.preflight import parent_findings as parents
from search.preflight import search_findings as search
from search.preflight import value_findings
from search.preflight.finding import Finding
from search.preflight.subject import Subject
from search.preflight.trial_probe import run_probe

PARENTS = "parents"
"""The check that names the parents' folders; the others use short names."""

Found: TypeAlias = Callable[[Subject], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check.

    Attributes:
        what: what is checked, in a word, which its findings repeat.
        found: yields the findings; an error for the user becomes a problem.
        needs: the checks that must have no problem for this one to make sense.
    """

    what: str
    found: Found
    needs: tuple[str, ...] = ()


CHECKS = (
    Check("results", search.results),
    Check("problems", search.problems),
    Check(PARENTS, parents.parents_here),
    Check("architecture", parents.parents_fit, (PARENTS,)),
    Check("merges", search.merges, ("architecture",)),
    Check("parameters", search.parameters, ("merges",)),
    Check("vocabulary", parents.vocabularies, ("merges",)),
    Check("prompts", search.prompts, ("problems", "merges")),
    Check("configs", parents.leftovers, ("merges",)),
    Check("values", value_findings.values, ("merges",)),
    Check("evidence", search.evidence, ("problems",)),
    Check("sandbox", machine.sandbox),
    Check("device", machine.device),
    Check("backend", machine.backend),
    Check("memory", machine.memory, ("problems", "merges", "prompts", "device")),
    Check("disk", machine.disks, ("memory",)),
)

PROBE = Check("probe", run_probe, tuple(check.what for check in CHECKS))
"""The check that takes longer, and runs only on request."""


def run_checks(subject: Subject, checks: Iterable[Check] = CHECKS) -> Iterator[Finding]:
    """Run checks and yield their findings, which use the parents' short names."""
    failed: set[str] = set()
    left: list[str] = []
    wanted = list(checks)
    for number, check in enumerate(wanted):
        if failed & {*check.needs}:
            failed.add(check.what)
            left.append(check.what)
            continue
        subject.progress.begin(f"checking: {check.what}", 1)
        subject.progress.step(number, len(wanted))
        found = list(_attempted(check, subject))
        if any(finding.level == "problem" for finding in found):
            failed.add(check.what)
        yield from (_shortened(finding, subject) for finding in found)
    if left:
        yield Finding("note", "not checked", f"{', '.join(left)}: only after the problems above are fixed")


def _attempted(check: Check, subject: Subject) -> Iterator[Finding]:
    try:
        yield from check.found(subject)
    except (SearchError, MergingError, EvaluationError, SandboxError) as error:
        yield Finding("problem", check.what, str(error))


def _shortened(finding: Finding, subject: Subject) -> Finding:
    """Return a finding that calls parents by their short names, and leaves the config's file out."""
    detail = finding.detail.removeprefix(f"{subject.config.source}: ")
    names = parent_names([Recipe.single(name).to_dict() for name in subject.names], NAME_WIDTH)
    for reference in sorted(names, key=len, reverse=True):
        if finding.what != PARENTS:  # there the user wants to know which folders they are
            whole = rf"(?<![\w/.-]){re.escape(reference)}(?![\w/-])"
            detail = re.sub(whole, names[reference].replace("\\", r"\\"), detail)
    return replace(finding, detail=detail)
