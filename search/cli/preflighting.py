"""The command `check`: by itself it tries the sandbox; with a config it is the preflight before a night."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from evaluation import ConsentError
from search.cli import shared_options
from search.cli.given_config import given_config
from search.cli.printing import print_isolation, print_preflight
from search.progress import Progress
from search.shell import shell_command
from search.startup import quick_imports
from search.views.bar import bar


@click.command()
@click.argument("config", required=False, type=shared_options.CONFIG)
@click.option("--probe", is_flag=True, help="Also run one trial, and say how many a night has time for.")
@shared_options.OUT
@shared_options.AROUND
@shared_options.DEVICE_OF_SEARCH
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@shared_options.CONSENT
def check(
    config: Path | None,
    probe: bool,
    out: Path | None,
    around: float | None,
    device: str | None,
    as_json: bool,
    allow_code_execution: bool,
) -> None:
    """Check a search before it runs for a night; without a config, try to break out of the sandbox.

    With a config: are its models here, do they fit each other, is there room in memory and on disk, what could the
    search prove. Exits with code 2 if the search could not run, or if the sandbox has too few layers.

    \b
    Example:
      merge-search check configs/quickstart.yaml --probe
      merge-search check
    """
    given = {"--out": out, "--around": around, "--device": device}
    if config is None:
        if useless := [option for option, value in (given | {"--probe": probe or None}).items() if value is not None]:
            raise click.UsageError(f"{useless[0]} needs a config: merge-search check CONFIG {useless[0]}")
        _check_sandbox(as_json)
        return
    with bar() as shown:
        shown("starting", 0, 1)
        loaded = given_config(config, around, allow_code_execution, device)
        if probe and not loaded.evaluation.allow_code_execution:
            raise ConsentError
        with quick_imports():
            from search.preflight.checklist import CHECKS, PROBE, run_checks
            from search.preflight.subject import Subject
            from search.run.worker import default_folder
        with Subject(loaded, out or default_folder(loaded), OnBar(shown)) as subject:
            findings = list(run_checks(subject, [*CHECKS, PROBE] if probe else CHECKS))
    words = [word for option, value in given.items() if value is not None for word in (option, value)]
    consents = allow_code_execution or not loaded.evaluation.allow_code_execution
    command = shell_command("run", config, *words, *["--allow-code-execution"] * consents)
    print_preflight(subject, findings, command, as_json)
    sys.exit(2 if any(finding.level == "problem" for finding in findings) else 0)


def _check_sandbox(as_json: bool) -> None:
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


class OnBar(Progress):
    """Shows on a bar what a preflight is doing, without messages: the preflight returns those as findings."""

    def __init__(self, shown: Callable[[str, int, int], None]) -> None:
        self._shown, self._what = shown, ""

    def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:  # noqa: ARG002
        """Show a part."""
        self._what = what
        self._shown(what, 0, 1)

    def phase(self, name: str) -> None:
        """Show a phase of it."""
        self._shown(f"{self._what}: {name}", 0, 1)

    def step(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._shown(self._what, done, total)
