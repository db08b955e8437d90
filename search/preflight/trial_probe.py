"""The probe: one real trial, to say how many a night has time for.

Guarantees: it writes only into a temporary folder, which is removed afterwards. The first merge, which computes
statistics and compiles kernels, does not count. A trial of an ascent takes longer than the one that is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from evaluation import ConsentError
from evaluation.generation.out_of_memory import is_out_of_memory
from merging import Recipe
from merging.errors import first_line
from search.counts import counted
from search.errors import SearchError
from search.preflight.finding import Finding
from search.preflight.subject import Subject
from search.progress import Progress
from search.run.setup import set_up
from search.space.config import SearchConfig

_MORNING = 8
"""The hour at which a night ends."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How long a search takes here; times are in seconds.

    Attributes:
        start: the time until the first model is scored.
        parent: the time to score a parent on the search split.
        trial: the time to merge and score a trial there.
        phases: the times of the trial's phases, by name.
        references: how many reference models there are.
        reported: how many models are scored on the report split at the end.
        report_share: the time of scoring on the report split, as a multiple of that on the search split.
    """

    start: float
    parent: float
    trial: float
    phases: Mapping[str, float]
    references: int
    reported: int
    report_share: float

    @property
    def before(self) -> float:
        """The seconds before the first trial begins."""
        return self.start + self.references * self.parent

    @property
    def after(self) -> float:
        """The seconds that the report split takes after the last trial, without drafts, as for parents."""
        return self.reported * self.report_share * self.parent

    def trials_within(self, seconds: float, *, reported: bool) -> int:
        """Return how many trials begin within some seconds, in which the report split is scored, too, if `reported`."""
        left = seconds - self.before - (self.after if reported else 0.0)
        return max(0, int(left / self.trial))

    def seconds_of(self, trials: int) -> float:
        """Return the seconds that a search of this many trials takes."""
        return self.before + trials * self.trial + self.after


def run_probe(subject: Subject) -> Iterator[Finding]:
    """Run a parent and a trial, and yield what that says about the night."""
    try:
        found = probe(subject.config, subject.progress)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise SearchError(
            f"memory runs out: {first_line(error)}; give parents less of it (merging.memory_budget)"
        ) from error
    yield from probe_findings(subject.config, found, datetime.now().astimezone())


def probe(config: SearchConfig, progress: Progress) -> Probe:
    """Run one parent and one trial.

    Raises SearchError, MergingError or EvaluationError if they cannot be run.
    """
    if not config.evaluation.allow_code_execution:
        raise ConsentError
    began = perf_counter()
    with (
        TemporaryDirectory(prefix="merge-search-probe-") as folder,
        set_up(config, Path(folder) / "probe", config.search.trials, progress) as session,
    ):
        bench, start = session.bench, perf_counter() - began
        references = [record for record in session.store.changed()[0] if record.kind != "trial"]
        progress.begin("probe: a parent", 1)
        _, of_parent = bench.score(Recipe.from_dict(references[0].recipe, config.source), "search", parent=True)
        recipe = config.space.example()
        progress.begin("probe: the first merge", 1)
        bench.warm_up(recipe)
        progress.begin("probe: a trial", 1)
        bench.drafts.sync()
        _, of_trial = bench.score(recipe, "search")
        report, search = len(bench.splits["report"]), len(bench.splits["search"])
        return Probe(
            start,
            of_parent["total"],
            of_trial["total"],
            {phase: seconds for phase, seconds in of_trial.items() if phase != "total"},
            len(references),
            len(references) + config.search.finalists,
            report / search,
        )


def probe_findings(config: SearchConfig, found: Probe, now: datetime) -> list[Finding]:
    """Return what a probe says about the night.

    Args:
        config: the search's config.
        found: the probe.
        now: the present time, with a time zone.
    """
    search = config.search
    phases = ", ".join(f"{name} {shown_seconds(seconds)}" for name, seconds in found.phases.items())
    takes = f"a trial takes {shown_seconds(found.trial)} ({phases}), a parent {shown_seconds(found.parent)}"
    whole = found.seconds_of(search.trials)
    end = now + timedelta(seconds=whole)
    told = [
        Finding("ok", "probe", takes),
        Finding(
            "ok",
            "probe",
            f"{counted(search.trials, 'trial')}, {counted(found.references, 'reference model')} and the report split "
            f"take about {shown_seconds(whole)}, until {end:%H:%M}{_days(now, end)}; trials of an ascent take longer, "
            "and drafts make later ones faster",
        ),
    ]
    if search.timeout is not None:
        by_timeout = found.trials_within(search.timeout, reported=False)
        about = counted(_about(by_timeout), "trial")
        what = f"search.timeout ({shown_seconds(search.timeout)}) has time for about {about}"
        told.append(_enough(by_timeout, search.trials, what))
    eight = morning(now)
    by_morning = found.trials_within((eight - now).total_seconds(), reported=True)
    what = f"until {eight:%H:%M}{_days(now, eight)} there is time for about {counted(_about(by_morning), 'trial')}"
    told.append(_enough(by_morning, search.trials, what))
    return told


def _enough(possible: int, wanted: int, what: str) -> Finding:
    if possible >= wanted:
        return Finding("ok", "probe", what)
    remedy = "fewer problems, a smaller max_new_tokens, or more workers on other cards make trials faster"
    return Finding("note" if possible else "warning", "probe", f"{what}, of the {wanted:,} in the config", remedy)


def _about(count: int) -> int:
    """Return a number rounded to two significant digits."""
    return round(count, 2 - len(str(count)))


def morning(now: datetime) -> datetime:
    """Return the next eight o'clock."""
    eight = now.replace(hour=_MORNING, minute=0, second=0, microsecond=0)
    return eight if eight > now else eight + timedelta(days=1)


def _days(now: datetime, then: datetime) -> str:
    days = (then.date() - now.date()).days
    return ("", " tomorrow")[days] if days < 2 else f" in {days} days"


def shown_seconds(seconds: float) -> str:
    """Return a duration as users read it."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
