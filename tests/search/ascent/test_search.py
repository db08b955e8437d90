"""An ascent in a search: its proposals are trials like others, and nothing is lost with its worker."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from search import SearchConfig, run_search
from search.ascent.ascent import Ascent
from search.results import ResultsFolder
from search.run.ascending import ranking, why_none
from search.study.record import ASCENT, Scoring, TrialRecord
from tests.search.family import NO_REPORT, Family
from tests.search.processes import running
from tests.search.told import Phases

QUICKSTART = Path("configs/quickstart")


def trials(out: Path) -> list[TrialRecord]:
    return [record for record in ResultsFolder.open(out).read()[1] if record.kind == "trial"]


def ascending(family: Family) -> SearchConfig:
    """Return a config of tiny models with an ascent, which would find too few solutions."""
    text = family.config(evaluation=NO_REPORT).replace("ascent: off", "ascent: {steps: 1, proposals: 1}")
    return SearchConfig.parse(text, folder=family.folder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a config of the quickstart's models and some of its problems, with an ascent of one proposal."""
    lines = (QUICKSTART / "problems.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(lines[::20]), encoding="utf-8")
    text = (QUICKSTART.parent / "quickstart.yaml").read_text(encoding="utf-8")
    text = text.replace("quickstart/problems.jsonl", "some.jsonl\n  report_fraction: 0").replace(
        "quickstart/", f"{QUICKSTART.resolve()}/"
    )
    file = tmp_path / "climb.yaml"
    file.write_text(text.replace("trials: 40", "trials: 3\n  ascent: {steps: 1, proposals: 1}"), encoding="utf-8")
    return file


def test_its_proposals_are_trials_and_the_sampler_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Phases()
    run_search(SearchConfig.load(file), tmp_path / "run", trials=2, progress=told)
    first, second = trials(tmp_path / "run")
    assert first.proposed_by == ASCENT
    assert first.search.state == "complete"
    assert 0 < first.sampler_notes[ASCENT]["loss"] < 1
    assert second.proposed_by == "cmaes"
    assert second.sampler_notes[ASCENT]["over"] == "it has made its last proposal"
    assert told.said == ["the ascent is over: it has made its last proposal"]
    assert "ascending" in told.phases
    # It is over for whoever goes on.
    monkeypatch.setattr(Ascent, "propose", None)
    run_search(SearchConfig.load(file), tmp_path / "run", trials=3)
    assert trials(tmp_path / "run")[2].proposed_by == "cmaes"


@pytest.mark.slow
def test_an_error_in_it_ends_it_and_not_the_search(
    shared_family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(Ascent, "propose", fails)
    told = Phases()
    run_search(ascending(shared_family), tmp_path / "run", trials=2, progress=told)
    assert told.said == ["the ascent is over: ZeroDivisionError: of its own"]
    assert [record.search.state for record in trials(tmp_path / "run")] == ["complete"] * 2
    assert "Traceback" in (tmp_path / "run" / "worker.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_worker_that_goes_on_knows_what_was_solved_before(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace("proposals: 1", "proposals: 2"), encoding="utf-8")
    for count in (1, 2):
        run_search(SearchConfig.load(file), tmp_path / "run", trials=count)
    assert [record.proposed_by for record in trials(tmp_path / "run")] == [ASCENT, ASCENT]


@pytest.mark.slow
def test_one_that_was_switched_off_leaves_its_trial_to_the_sampler(
    shared_family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Ascent, "propose", dies)
    with pytest.raises(SystemExit):
        run_search(ascending(shared_family), tmp_path / "run")
    told = Phases()
    config = ascending(shared_family).updated("search", ascent=None)
    run_search(config, tmp_path / "run", trials=1, progress=told)
    assert [record.proposed_by for record in trials(tmp_path / "run")] == ["tpe"]
    assert told.said == []


@pytest.mark.slow
def test_a_kill_costs_a_step(file: Path, tmp_path: Path) -> None:
    """The trial that the ascent was at is proposed again, and is again the ascent's."""
    file.write_text(file.read_text(encoding="utf-8").replace("proposals: 1", "proposals: 2"), encoding="utf-8")
    with running(tmp_path, "run", file, "--out", tmp_path / "run", held_at=(Ascent.propose, 1)) as command:
        command.until_held()
        command.send(signal.SIGKILL)
        command.wait()
    [first, second] = trials(tmp_path / "run")
    assert (second.proposed_by, dict(second.parameters)) == (ASCENT, {})
    run_search(SearchConfig.load(file), tmp_path / "run")
    found = trials(tmp_path / "run")
    assert [record.proposed_by for record in found] == [ASCENT, ASCENT, "cmaes"]
    assert found[0].search == first.search
    # As if there had been no kill.
    run_search(SearchConfig.load(file), tmp_path / "whole")
    assert found[1].parameters == pytest.approx(trials(tmp_path / "whole")[1].parameters, abs=1e-6)


def test_where_there_is_none_the_reason_is_said(file: Path) -> None:
    config = SearchConfig.load(file)
    assert why_none(config, "model") == why_none(config, "tensor") == ""
    assert why_none(config, "none") == "memory has no room for it"
    other = config.updated("evaluation", backend="vllm")
    assert why_none(other, "model") == "it needs backend: transformers"
    assert why_none(other.updated("search", ascent=None), "none") == ""
    problems = (config.evaluation.problems[0], config.evaluation.problems[0])
    two = config.updated("evaluation", problems=problems).updated("search", objectives="separate")
    assert why_none(two, "model") == "there are several objectives"


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ((0.5, 0.7, 0.6, 0.9), "its 4 proposals as their scores do with a rank correlation of 0.80"),
        ((0.9, 0.6, 0.6), "its 3 proposals as their scores do with a rank correlation of -0.87"),
        (
            (0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
            "its 6 proposals as their scores do with a rank correlation of -1.00, which is low",
        ),
        ((0.5, 0.5, 0.5), ""),
        ((0.5, 0.9), ""),
    ],
)
def test_its_loss_ranks_its_proposals_by_spearmans_correlation(scores: Sequence[float], told: str) -> None:
    """Each proposal's loss is below that of the one before it."""
    notes = [{ASCENT: {"loss": 0.4 - 0.1 * place}} for place in range(len(scores))]
    records = [
        TrialRecord("trial", place, search=Scoring("complete", score=score), proposed_by=ASCENT, sampler_notes=note)
        for place, (score, note) in enumerate(zip(scores, notes, strict=True))
    ]
    others = [TrialRecord("parent", search=Scoring("complete", score=0.1)), TrialRecord("trial", 9, proposed_by=ASCENT)]
    assert told in ranking([*records, *others])
    assert bool(ranking([*records, *others])) is bool(told)
    assert ("which is low" in ranking(records)) is ("which is low" in told)
