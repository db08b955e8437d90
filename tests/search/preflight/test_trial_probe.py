"""The probe: what one trial says of a night."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from search import SearchConfig
from search.preflight.trial_probe import Probe, morning, probe, probe_findings, shown_seconds
from search.progress import Progress
from tests.search.family import Family

ZONE = timezone(timedelta(hours=2))
EVENING = datetime(2026, 3, 31, 22, 0, tzinfo=ZONE)
# 100 s until the first trial, trials of 60 s, and 50 s for the report split.
PROBE = Probe(start=20.0, parent=20.0, trial=60.0, phases={"merging": 10.0}, references=4, reported=5, report_share=0.5)


def test_a_night_ends_at_eight() -> None:
    assert morning(EVENING) == datetime(2026, 4, 1, 8, tzinfo=ZONE)
    assert morning(datetime(2026, 4, 1, 7, 59, tzinfo=ZONE)) == datetime(2026, 4, 1, 8, tzinfo=ZONE)
    assert morning(datetime(2026, 4, 1, 8, tzinfo=ZONE)) == datetime(2026, 4, 2, 8, tzinfo=ZONE)


def test_parents_and_the_report_split_take_their_part_of_the_time() -> None:
    assert (PROBE.before, PROBE.after) == (100.0, 50.0)
    assert PROBE.seconds_of(10) == 750.0
    assert PROBE.trials_within(750.0, reported=True) == 10
    assert PROBE.trials_within(749.0, reported=True) == 9
    assert PROBE.trials_within(700.0, reported=False) == 10
    assert PROBE.trials_within(30.0, reported=False) == 0


def test_it_says_how_many_trials_there_is_time_for(shared_family: Family) -> None:
    config = SearchConfig.load(shared_family.write("night.yaml")).updated("search", trials=900, timeout=3600.0)
    findings = probe_findings(config, PROBE, EVENING)
    assert [(it.level, it.detail) for it in findings] == [
        ("ok", "a trial takes 1 min (merging 10 s), a parent 20 s"),
        (
            "ok",
            "900 trials, 4 reference models and the report split take about 15 h 02 min, until 13:02 tomorrow; trials "
            "of an ascent take longer, and drafts make later ones faster",
        ),
        ("note", "search.timeout (1 h 00 min) has time for about 58 trials, of the 900 in the config"),
        ("note", "until 08:00 tomorrow there is time for about 600 trials, of the 900 in the config"),
    ]
    fewer = probe_findings(config.updated("search", trials=50, timeout=None), PROBE, EVENING)
    assert [it.level for it in fewer] == ["ok"] * 3


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.0, "42 s"), (95.0, "2 min"), (3_599.0, "1 h 00 min")]
)
def test_durations_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert shown_seconds(seconds) == told


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_parent_and_a_trial_are_really_run_and_nothing_is_left(shared_family: Family) -> None:
    config = SearchConfig.load(shared_family.write("probe.yaml"))
    begun: list[str] = []

    class Begun(Progress):
        def begin(self, what: str, total: int, deadline: float | None = None, later: float = 0.0) -> None:  # noqa: ARG002
            begun.append(what)

    found = probe(config, Begun())
    assert begun[-3:] == ["probe: a parent", "probe: the first merge", "probe: a trial"]
    assert 0 < found.phases["merging"] < found.trial
    assert (found.references, found.reported, found.report_share) == (4, 6, 1.0)
    assert not (shared_family.folder / "results").exists()
