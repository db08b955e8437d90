"""The problems in the report: who solves which, and what the best trial and the best parent wrote."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.board.compare import compare
from search.board.leaderboard import Leaderboard
from search.cli.compared import scored
from search.completion_files import Completion
from search.errors import SearchError
from search.evidence import SearchEvidence
from search.study.outcomes import Split
from search.study.record import Scoring, SplitName, TrialRecord
from search.views.report.answers import MOST_CHARACTERS, MOST_LINES, Answers, Model, answers_data
from search.views.report.problems import matrix, problems
from tests.search.records import LOOKS, ON_REPORT, ON_SEARCH, RECORDS, SPLITS, board

TASKS: dict[SplitName, Sequence[str]] = {
    "search": [f"task/{place}" for place in range(ON_SEARCH)],
    "report": [f"other/{place}" for place in range(ON_REPORT)],
}


def written(record: TrialRecord, split: SplitName) -> list[Completion]:
    outcomes = zip(TASKS[split], record.on(split).outcomes, strict=True)
    return [
        Completion(
            task, f"{record.key} writes", {"p": "passed", "f": "failed"}[sign], 3, "" if sign == "p" else "Error"
        )
        for task, sign in outcomes
    ]


EVIDENCE = SearchEvidence("run", Path("results/a run"), board(), RECORDS, SPLITS, TASKS, completions=written)


def test_the_best_trial_stands_against_the_best_parent_with_the_test_of_the_leaderboard() -> None:
    section = problems(EVIDENCE)
    assert section
    best = next(row for row in EVIDENCE.board.rows if row.name == "trial 1")
    assert f"{best.won} problems won, {best.lost} lost" in section.html
    assert section.html.count("other/") == best.won + best.lost
    data = section.data
    assert [data["models"][data[key]]["name"] for key in ("first", "second")] == ["trial 1", "b"]


def test_the_columns_are_all_models_with_outcomes_as_on_the_leaderboard() -> None:
    section = problems(EVIDENCE)
    assert section
    names = [section.data["models"][place]["name"] for place in section.data["columns"]]
    assert names == ["trial 1", "b", "trial 0", "a", "average", "trial 3", "base"]
    assert all(len(it["outcomes"]["search"]) == ON_SEARCH for it in section.data["models"])


def test_a_trial_that_is_no_finalist_has_no_text_but_a_command_that_shows_it(finished: Path) -> None:
    section = problems(EVIDENCE)
    assert section
    by_name = {model["name"]: model for model in section.data["models"]}
    assert by_name["trial 3"]["answers"] == {}
    assert shlex.split(by_name["trial 3"]["word"]) == ["results/a run:3"]
    assert set(by_name["trial 1"]["answers"]) == set(by_name["b"]["answers"]) == {"search", "report"}
    # As of a real search the words name the records.
    real = problems(SearchEvidence.open(finished))
    assert real
    references = [scored(shlex.split(model["word"])[0]) for model in real.data["models"]]
    assert all(compare(references[0], other).problems for other in references)


def test_the_rounds_of_a_confirmation_are_samples_of_its_problems() -> None:
    rounds = Scoring("complete", "pf" + "pp" + "f", 0.75)  # two whole rounds, and what a third one may have left
    records = [replace(record, confirm=rounds) if record.key == "trial-1" else record for record in RECORDS]
    splits = {**SPLITS, "confirm": Split(4, (), 2)}
    found = Leaderboard.of("run", records, splits, LOOKS)
    evidence = SearchEvidence(
        "run", Path("r"), found, tuple(records), splits, {**TASKS, "confirm": ["task/a", "task/b"]}
    )
    section = problems(evidence)
    assert section
    model = section.data["models"][section.data["first"]]
    assert (model["outcomes"]["confirm"], model["samples"]["confirm"]) == ("ppfp", 2)
    assert "confirm" not in section.data["models"][section.data["second"]]["outcomes"]


def test_a_text_stands_in_the_data_once() -> None:
    section = problems(EVIDENCE)
    assert section
    texts = section.data["texts"]
    assert len(texts) == len(set(texts))
    numbers = section.data["models"][section.data["first"]]["answers"]["search"]
    assert {texts[flat[1]] for flat in numbers} == {"trial-1 writes"}


def test_answers_that_were_deleted_are_missing_for_that_reason(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    assert not any(model["missing"] for model in section_of(folder)["models"])
    for key in ("trial-0", "parent-1"):
        (folder / "completions" / f"{key}.jsonl").unlink()
    data = section_of(folder)
    why = (
        f"its file in {folder}/completions was deleted, or not copied; restore it, and keep that folder with the "
        "results"
    )
    missing = {model["name"]: model["missing"] for model in data["models"] if model["missing"]}
    assert missing == {"trial 0": {"search": why}, "b": {"search": why}}
    assert data["notes"] == [f"What 2 of {len(data['models'])} models wrote is missing: {why}."]


def section_of(folder: Path) -> dict[str, Any]:
    section = problems(SearchEvidence.open(folder))
    assert section
    return section.data


def test_answers_of_an_earlier_search_are_where_that_search_is() -> None:
    records = tuple(
        replace(record, proposed_by="taken over: trial 5 of results/first") if record.key == "trial-1" else record
        for record in RECORDS
    )
    section = problems(replace(EVIDENCE, records=records, board=board(*records), has_completions=lambda *_: False))
    assert section
    model = section.data["models"][section.data["first"]]
    assert model["missing"]["search"] == (
        "an earlier search generated it, and only the results folder of that search keeps it"
    )
    assert "was deleted, or not copied" in model["missing"]["report"]


def test_what_a_confirmation_has_from_the_report_split_is_missing_for_that_reason() -> None:
    rounds = replace(RECORDS[0], confirm=Scoring("complete", "pp", 1.0))
    evidence = replace(
        EVIDENCE,
        records=(rounds,),
        board=board(rounds),
        splits={**SPLITS, "confirm": Split(2, (), 1)},
        tasks={**TASKS, "confirm": ["other/0", "new/0"]},
        completions=lambda _, split: [Completion("new/0", "text", "passed")] if split == "confirm" else [],
    )
    section = problems(evidence)
    assert section
    (model,) = section.data["models"]
    assert [len(flat) for flat in model["answers"]["confirm"]] == [0, 3]
    assert model["missing"] == {"confirm": "its answer on the report split counts, and is shown there"}


def test_without_outcomes_there_is_no_section() -> None:
    nothing = SearchEvidence("run", Path("results/run"), board(RECORDS[-1]), RECORDS[-1:], SPLITS, TASKS)
    assert (problems(nothing), matrix(nothing)) == (None, None)


def test_damaged_completions_are_named() -> None:
    def damaged(record: TrialRecord, split: SplitName) -> Sequence[Completion]:
        raise SearchError(f"{record.key} {split} is damaged")

    section = problems(replace(EVIDENCE, completions=damaged))
    assert section
    assert "trial-1 search is damaged" in section.data["notes"]
    assert section.data["models"][section.data["first"]]["answers"] == {}


def test_a_long_text_is_cut_and_its_length_told() -> None:
    long, tall = "x" * 1_000_000, "\n" * 5_000
    samples = [Completion("a/0", long, "passed"), Completion("a/1", tall, "failed")]
    data = answers_data([Model("m", "trial", "m", {"s": Answers("pf", 1, samples)})], {"s": ["a/0", "a/1"]}, {})
    shown = [data["texts"][flat[1]] for flat in data["models"][0]["answers"]["s"]]
    assert shown == ["x" * MOST_CHARACTERS, "\n" * MOST_LINES]
    assert sorted(data["cut"].values()) == [5_000, 1_000_000]


def test_of_many_samples_one_that_passed_and_one_that_did_not_are_shown() -> None:
    status = ["failed"] * 12 + ["passed"] + ["failed"] * 7
    samples = [Completion("a/0", f"sample {place}", found) for place, found in enumerate(status)]
    data = answers_data(
        [Model("m", "trial", "m", {"s": Answers("f" * 12 + "p" + "f" * 7, 20, samples)})], {"s": ["a/0"]}, {}
    )
    flat = data["models"][0]["answers"]["s"][0]
    assert flat[::3] == [0, 1, 12]
    assert [data["texts"][number] for number in flat[1::3]] == ["sample 0", "sample 1", "sample 12"]


def test_where_texts_have_no_room_those_of_the_last_models_are_left_out() -> None:
    models = [
        Model(name, "trial", name, {"s": Answers("p", 1, [Completion("a/0", name * 100, "passed")])}) for name in "abc"
    ]
    data = answers_data(models, {"s": ["a/0"]}, {}, room=150)
    assert [bool(model["answers"]) for model in data["models"]] == [True, True, False]
