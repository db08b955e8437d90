"""The leaderboard says who passes what, how sure that is, and nothing that it does not know."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console
from scipy.stats import binomtest
from sqlalchemy import event

from search import Leaderboard, Row, SearchConfig
from search.reruns import ERROR
from search.results import ResultsFolder
from search.study import OUTCOMES, RECIPE, SECONDS, Studies, quiet
from search.worker import baselines
from tests.search.family import Family

SEARCH, REPORT = 10, 20  # problems


def outcomes(problems: int, passed: set[int]) -> str:
    return "".join("p" if index in passed else "f" for index in range(problems))


class Recorder:
    """Records a search with made-up outcomes in a real folder."""

    def __init__(self, folder: Path, config: SearchConfig) -> None:
        self.config = config
        self.folder = ResultsFolder.create(folder, config, config.identity)
        with quiet():
            self.studies = Studies.create(self.folder, config, baselines(config))

    def baseline(self, passed: set[int], report: set[int] | None = None) -> None:
        with self.folder.sign_in() as worker:
            trial = self.studies.claim_baseline(worker)
            assert trial
            self._tell(self.studies.baselines, trial, trial.user_attrs[RECIPE], passed, report)

    def trial(self, passed: set[int] | None, report: set[int] | None = None) -> int:
        with self.folder.sign_in() as worker:
            trial = self.studies.claim(worker, 1000, self.config.space)
            assert trial
            recipe = self.config.space.recipe_at(trial.params).to_dict()
            self._tell(self.studies.search, trial, recipe, passed, report)
            return self.studies.number(trial)

    def _tell(self, study: Any, trial: Any, recipe: Mapping[str, Any], passed: set[int] | None, report: Any) -> None:
        trial.set_user_attr(RECIPE, recipe)
        trial.set_user_attr(SECONDS, {"total": 1.5})
        if passed is None:
            trial.set_user_attr(ERROR, "merged tensor lm_head.weight holds NaN\nand more")
            study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(OUTCOMES, outcomes(SEARCH, passed))
        study.tell(trial, len(passed) / SEARCH)
        if report is not None:
            self.studies.save_report(self.studies.number(trial), outcomes(REPORT, report))

    def read(self) -> Leaderboard:
        return Leaderboard.open(self.folder.path)


@pytest.fixture
def recorder(shared_family: Family, tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "run", SearchConfig.parse(shared_family.config(), folder=shared_family.folder))


@pytest.fixture(scope="session")
def board(shared_family: Family, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    config = SearchConfig.parse(shared_family.config(), folder=shared_family.folder)
    recorder = Recorder(tmp_path_factory.mktemp("board") / "run", config)
    recorder.baseline({0, 1, 2}, set(range(5)))  # a
    recorder.baseline({0, 1, 2, 3, 4}, set(range(8)))  # b, the best parent
    recorder.baseline({0}, {0})  # base
    recorder.baseline({0, 1}, {0, 1})  # equal average
    recorder.trial({0, 1, 2, 3, 4}, {0})  # 4
    recorder.trial({0, 1, 2, 3, 4, 5, 6, 7}, {2, *range(4, 19)})  # 5
    recorder.trial(None)  # 6
    recorder.trial({1, 9})  # 7
    return recorder.read()


def row(board: Leaderboard, number: int) -> Row:
    return next(row for row in board.rows if row.trial == number)


def test_rows_are_best_first_and_of_equals_the_parents_and_then_the_earlier(board: Leaderboard) -> None:
    assert [row.trial for row in board.rows] == [5, 1, 4, 0, 3, 7, 2, 6]
    assert (board.best, board.study) == (5, "run")


def test_intervals_and_tests_are_those_of_scipy(board: Leaderboard) -> None:
    best = row(board, 5)
    interval = binomtest(16, 20).proportion_ci(method="wilson")
    assert best.report_score == 0.8
    assert best.report_interval == pytest.approx((interval.low, interval.high))
    # Passed by the best parent: 0-7; by the trial: 2, 4-18.
    assert (best.won, best.lost, best.compared_on) == (11, 3, "report")
    assert best.p_value == pytest.approx(binomtest(11, 14).pvalue)


def test_who_is_no_finalist_is_compared_on_the_search_split_without_a_test(board: Leaderboard) -> None:
    seventh = row(board, 7)
    assert (seventh.won, seventh.lost, seventh.compared_on, seventh.p_value) == (1, 4, "search", None)
    assert (seventh.report_score, seventh.report_interval) == (None, None)


def test_the_best_parent_is_chosen_by_the_search_split_and_not_compared_with_itself(board: Leaderboard) -> None:
    parent = row(board, 1)
    assert board.best_parent == parent.name
    assert (parent.won, parent.lost, parent.p_value) == (0, 0, None)


def test_a_failed_trial_is_last_and_has_its_reason(board: Leaderboard) -> None:
    failed = board.rows[-1]
    assert (failed.state, failed.search_score, failed.report_score) == ("failed", None, None)
    assert failed.error == "merged tensor lm_head.weight holds NaN\nand more"


def test_json_has_the_documented_keys(board: Leaderboard) -> None:
    read = json.loads(board.to_json())
    assert read.keys() == {"study", "best", "optimism", "rows"}
    assert read["optimism"] == pytest.approx(8 / SEARCH - 16 / REPORT)
    for found in read["rows"]:
        assert found.keys() == {
            "kind", "name", "trial", "state", "search_score", "search_scores", "log_likelihood", "report_score",
            "report_interval", "report_scores", "won", "lost", "p_value", "seconds", "recipe", "on_front",
        }  # fmt: skip
    first = read["rows"][0]
    assert (first["kind"], first["trial"], first["seconds"]) == ("trial", 5, 1.5)
    assert first["recipe"]["merge_method"] == "ties"
    assert {found["kind"] for found in read["rows"]} == {"parent", "baseline", "trial"}
    assert {found["state"] for found in read["rows"]} == {"complete", "failed"}


def test_csv_has_a_column_a_searched_number(board: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(board.to_csv())))
    assert len(rows) == 8
    assert float(rows[0]["models[0].parameters.density[1]"]) == board.rows[0].numbers["models[0].parameters.density[1]"]
    assert rows[-1]["error"].startswith("merged tensor lm_head.weight")


def test_top_keeps_the_parents(board: Leaderboard) -> None:
    assert [row.trial for row in board.top(1)] == [5, 1, 0, 3, 2]
    assert [row.trial for row in board.top(0)] == [1, 0, 3, 2]
    assert len(json.loads(board.to_json(1))["rows"]) == 5


def shown(board: Leaderboard, width: int) -> list[str]:
    text = io.StringIO()
    Console(width=width, file=text).print(board.table(width=width))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_a_table_fits_its_terminal_a_line_a_row(board: Leaderboard, width: int) -> None:
    lines = shown(board, width)
    assert len(lines) == 2 + len(board.rows)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert lines[2].split()[:5] == ["trial", "5", "80.0%", "80.0%", "[58%,"]
    assert "b (best parent)" in lines[3]
    assert ("density" in lines[2]) is (width == 160)


@pytest.mark.parametrize("width", [30, 40, 47, 54, 66, 79])
def test_names_and_scores_stay_where_a_narrow_terminal_has_room_for_little_else(board: Leaderboard, width: int) -> None:
    title, header, *lines = shown(board, width)
    assert header.split()[0] == "search"
    assert ("report [95%]" in header) is (width > 45)
    assert max(len(line.rstrip()) for line in (title, header, *lines)) <= width
    for row, line in zip(board.rows, lines, strict=True):
        name = "b (best parent)" if row.name == board.best_parent else Path(row.name).name
        assert re.match(rf"{re.escape(name)} +({row.search_score or 0:.1%}|failed|pruned)", line), line


@pytest.mark.parametrize("width", [40, 60])
def test_long_names_keep_both_ends_on_a_narrow_terminal(family: Family, width: int) -> None:
    names = [f"a-long-name-{size}-of-a-model-that-was-tuned-v{size}" for size in ("1.5B", "3B")]
    family.a.rename(family.folder / names[0])
    family.b.rename(family.folder / names[1])
    text = family.config().replace("- model: a", f"- model: {names[0]}").replace("- model: b", f"- model: {names[1]}")
    recorder = Recorder(family.folder / "run", SearchConfig.parse(text, folder=family.folder))
    for _ in range(3):
        recorder.baseline(set(range(8)))
    lines = shown(recorder.read(), width)[2:]
    assert re.match(r"\S+…\S*B \(best parent\) +80.0%", lines[0])
    assert re.match(r"a-lo\S+…\S*v3B +80.0%", lines[1])


@pytest.mark.parametrize("width", [100, 160])
def test_a_table_names_models_as_a_terminal_shows_it(board: Leaderboard, width: int) -> None:
    lines = shown(board, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    best = lines[2].replace("\N{NO-BREAK SPACE}", " ")
    assert (re.search(r"  a: density \d\S+ \d\S+  b: weight \d\S+$", best.rstrip()) is not None) is (width == 160)
    assert best.startswith("trial 5  ")
    assert len(lines) == 2 + len(board.rows)


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_the_numbers_of_the_best_whatever_its_width(finished: Path, width: int) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb", buffering=0) as reader, os.fdopen(terminal, "wb") as stdout:
        words = [sys.executable, "-m", "search", "leaderboard", str(finished)]
        subprocess.run(
            words, stdout=stdout, env=os.environ | {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}, check=True
        )
        text = reader.read(65_536).decode().replace("\N{NO-BREAK SPACE}", " ")
    assert text.count("density ") == (1 if width == 80 else 3)
    best = Leaderboard.open(finished).best
    assert re.search(rf"trial {best}:\s+a: density \d.*\s+b: weight \d", text) if width == 80 else True


def test_what_looks_like_markup_in_a_name_is_shown(family: Family) -> None:
    family.a.rename(family.folder / "[red]a")
    text = family.config().replace("- model: a", "- model: '[red]a'")
    recorder = Recorder(family.folder / "run", SearchConfig.parse(text, folder=family.folder))
    recorder.baseline({0})
    assert shown(recorder.read(), 80)[2].startswith("[red]a (best parent)")


def test_parents_of_one_name_are_told_apart(family: Family) -> None:
    moved = family.folder / "other" / "a"
    moved.parent.mkdir()
    family.b.rename(moved)
    text = family.config().replace("- model: b", "- model: other/a")
    recorder = Recorder(family.folder / "run", SearchConfig.parse(text, folder=family.folder))
    for _ in range(3):
        recorder.baseline({0})
    names = [line.split()[0] for line in shown(recorder.read(), 80)[2:]]
    assert names == ["family/a", "other/a", "base"]


@pytest.mark.parametrize("names", [("a@v2", "b+v2"), ("模型 一", "b@1@2"), ("a+b", "a")])
def test_numbers_are_named_by_the_parent_whatever_its_folder_is_called(family: Family, names: tuple[str, str]) -> None:
    family.a.rename(family.folder / names[0])
    family.b.rename(family.folder / names[1])
    text = family.config().replace("- model: a", f"- model: {names[0]}").replace("- model: b", f"- model: {names[1]}")
    recorder = Recorder(family.folder / "run", SearchConfig.parse(text, folder=family.folder))
    for _ in range(4):
        recorder.baseline({0})
    recorder.trial({0, 1})
    for name in names:  # scores are read where the parents are not
        (family.folder / name).rename(family.folder / f"gone {name}")
    table = "\n".join(shown(recorder.read(), 160))
    assert f"{names[0]}: density" in table.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{names[1]}: weight" in table.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("width", [80, 120, 160])
def test_a_long_name_pushes_no_number_off_the_screen(family: Family, width: int) -> None:
    long = "a-model-whose-name-is-longer-than-anything-that-anybody-would-type-v1.5-instruct"
    family.a.rename(family.folder / long)
    text = family.config().replace("- model: a", f"- model: {long}")
    recorder = Recorder(family.folder / "run", SearchConfig.parse(text, folder=family.folder))
    for _ in range(3):
        recorder.baseline(set(range(10)), set(range(20)))
    best = shown(recorder.read(), width)[2]
    assert best.startswith("a-")
    assert "ct (best parent)" in best
    assert "100.0%  100.0% [84%, 100%]" in best
    assert "…" not in best.partition(" (best parent)")[2]


def test_the_database_is_asked_no_more_for_many_trials_than_for_few(recorder: Recorder) -> None:
    def statements() -> int:
        asked: list[str] = []
        with quiet(), closing(Studies.open(recorder.folder)) as studies:
            event.listen(studies.storage.engine, "before_cursor_execute", lambda *words: asked.append(words[2]))
            Leaderboard.of(studies)
        return len(asked)

    recorder.baseline({0})
    recorder.trial({0})
    few = statements()
    for _ in range(9):
        recorder.trial({0})
    assert statements() == few


def test_many_trials_are_shown_at_once(board: Leaderboard) -> None:
    first = next(row for row in board.rows if row.kind == "trial")
    many = replace(board, rows=(*board.rows, *(replace(first, trial=number) for number in range(10, 20_000))))
    began = time.process_time()
    assert len(many.top(None)) == len(many.rows)
    assert many.table(10).row_count == 10 + 4  # the parents and their average
    assert time.process_time() - began < 5


def test_before_any_trial_there_is_no_best(recorder: Recorder) -> None:
    board = recorder.read()
    assert (board.best, board.best_parent, board.rows) == (None, None, ())
    assert json.loads(board.to_json()) == {"study": "run", "best": None, "optimism": None, "rows": []}


def test_it_can_be_read_while_a_trial_runs(recorder: Recorder) -> None:
    recorder.baseline({0})
    with recorder.folder.sign_in() as worker:
        assert recorder.studies.claim(worker, 10, recorder.config.space)
        assert [row.trial for row in recorder.read().rows] == [0]
