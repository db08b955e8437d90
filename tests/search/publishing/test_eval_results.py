"""Scores that are filed for the hub's benchmarks: which, and with which notes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from search import Leaderboard, SearchConfig, run_search
from tests.search.conftest import Command
from tests.search.family import Family, make_family
from tests.search.programs import executed_once
from tests.search.publishing.fake_hub import FakeHub, fake_hub

TO = "ada/my-merge"
EVAL = "name: one\ntasks:\n- {id: mbpp_plus, config: default, split: test}\n"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Family, Path]]:
    """Return a family, and the results folder of a search on its problems under the name of a benchmark."""
    family = make_family(tmp_path_factory.mktemp("family"))
    with pytest.MonkeyPatch.context() as patch, executed_once():
        patch.setenv("HUMANEVAL_OVERRIDE_PATH", str(family.problems))
        text = family.write().read_text().replace("problems: problems.jsonl", "problems: humaneval+")
        (family.folder / "search.yaml").write_text(text)
        run_search(SearchConfig.load(family.folder / "search.yaml"), family.folder / "run", trials=2)
        yield family, family.folder / "run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path, monkeypatch) as hub:
        yield hub


def filed(hub: FakeHub) -> dict[str, str]:
    files = hub.models[TO].files
    return {path: text.decode() for path, text in files.items() if path.startswith(".eval_results/")}


def test_a_benchmark_that_chose_the_merge_is_filed_only_on_demand_and_says_so(
    command: Command, searched: tuple[Family, Path], tmp_path: Path, hub: FakeHub
) -> None:
    results = searched[1]
    best = Leaderboard.open(results).best_row
    assert best
    words = ("export", results, "--anyway", "--to", tmp_path / "out", "--push-to-hub", TO)
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert "humaneval+: not filed: the merge was chosen on 8 of its 16 problems; --file-results" in done.output
    assert filed(hub) == {}
    done = command(*words, "--file-results")
    assert "humaneval+: not filed: evalplus/humanevalplus is not among the benchmarks that the hub lists" in done.output
    hub.benchmarks["evalplus/humanevalplus"] = "tasks: [{id: one}, {id: two}]"
    assert "the eval.yaml of evalplus/humanevalplus has no task for it" in command(*words, "--file-results").output
    (tmp_path / "cache").rename(tmp_path / "old cache")
    hub.benchmarks["evalplus/humanevalplus"] = EVAL
    done = command(*words, "--file-results")
    assert done.exit_code == 0, done.output
    (entry,) = parse_eval_result_entries(yaml.safe_load(filed(hub)[".eval_results/humanevalplus.yaml"]))
    assert (entry.dataset_id, entry.task_id) == ("evalplus/humanevalplus", "mbpp_plus")
    passed = (best.record.search.outcomes + best.record.on("report").outcomes).count("p")
    assert entry.value == 100 * passed / 16
    assert entry.source_url == f"https://huggingface.co/{TO}"
    assert entry.notes is not None
    assert "the merge was selected on 8 of these 16 problems" in entry.notes
    assert "greedy" in entry.notes
    done = command(*words, "--tokenizer", "b", "--file-results")
    assert done.exit_code == 2  # the folder holds an export with another tokenizer
    assert "exists already" in done.output


def test_what_has_no_outcomes_is_scored_before_it_is_filed(
    command: Command, searched: tuple[Family, Path], tmp_path: Path, hub: FakeHub
) -> None:
    hub.benchmarks["evalplus/humanevalplus"] = EVAL
    results = Path(shutil.copytree(searched[1], tmp_path / "run"))
    trials = [row.record for row in Leaderboard.open(results).rows if row.record.kind == "trial"]
    number = next(record.number for record in trials if record.on("report").outcomes)
    words = ("export", results, "--trial", str(number), "--to", tmp_path / "out", "--push-to-hub", TO, "--file-results")
    assert command(*words).exit_code == 0
    file = tmp_path / "out" / ".eval_results" / "humanevalplus.yaml"
    before = file.read_text()
    file.unlink()
    with closing(sqlite3.connect(results / "search.db")) as database, database:
        lost = database.execute(f"DELETE FROM scorings WHERE key = 'trial-{number}' AND split = 'report'")
    assert lost.rowcount == 1
    done = command(*words)
    assert done.exit_code == 0, done.output
    assert file.read_text() == before


def test_a_set_of_the_confirmation_is_filed_unless_it_chose_among_finalists(
    command: Command, searched: tuple[Family, Path], tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, results = searched
    rows = [json.loads(line) for line in family.problems.read_text().splitlines()]
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps(row | {"task_id": f"more/{row['entry_point']}"}) + "\n" for row in rows[:8]))
    monkeypatch.setenv("MBPP_OVERRIDE_PATH", str(more))
    hub.benchmarks["evalplus/mbppplus"] = EVAL
    results = Path(shutil.copytree(results, tmp_path / "run"))
    with closing(sqlite3.connect(results / "search.db")) as database, database:  # so that both trials are better
        scores = "outcomes = 'ffffffff', score = 0.0, scores = '[0.0]'"
        database.execute(f"UPDATE scorings SET {scores} WHERE key LIKE 'parent%' AND split = 'search'")
    done = command("confirm", results, "--problems", "mbpp+")
    assert done.exit_code == 0, done.output
    first, other = (row.record for row in Leaderboard.open(results).rows if row.record.kind == "trial")
    done = command("export", results, "--trial", str(first.number), "--to", tmp_path / "out", "--push-to-hub", TO)
    assert done.exit_code == 0, done.output
    assert "is filed as .eval_results/mbppplus.yaml" in done.output
    (entry,) = parse_eval_result_entries(yaml.safe_load(filed(hub)[".eval_results/mbppplus.yaml"]))
    assert entry.value == 100 * first.on("confirm").outcomes[-8:].count("p") / 8
    assert "selected" not in (entry.notes or "")
    done = command("export", results, "--trial", str(other.number), "--to", tmp_path / "b", "--push-to-hub", "ada/b")
    assert done.exit_code == 0, done.output
    assert "mbpp+: not filed: the merge was chosen on 8 of its 8 problems" in done.output
