"""A results folder belongs to one config, and is never changed by mistake."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest

from merging.caches import part_folder
from search import SearchConfig, SearchError
from search.locks import exclusive, held, is_held
from search.results import ResultsFolder
from search.study.database import folder_errors
from search.study.local_store import LocalStore
from search.study.record import TrialRecord
from tests.parametrization import every
from tests.search.conftest import fingerprint
from tests.search.family import Family


@pytest.fixture
def config(shared_family: Family) -> SearchConfig:
    return SearchConfig.parse(shared_family.config(), source="mine.yaml", folder=shared_family.folder)


def create(path: Path, config: SearchConfig, fresh: bool = False) -> ResultsFolder:
    return ResultsFolder.create(path, config, config.identity, fresh)


def test_a_folder_keeps_its_config_and_the_name_that_it_was_made_under(config: SearchConfig, tmp_path: Path) -> None:
    create(tmp_path / "deep" / "first", config)
    (tmp_path / "deep" / "first").rename(tmp_path / "second")
    folder = ResultsFolder.open(tmp_path / "second")
    assert folder.name == "first"
    assert folder.config_file.read_text(encoding="utf-8") == config.text


@pytest.mark.parametrize("name", ["with space", "with%20percent", "with?mark", "with#hash", "größer"])
def test_a_folder_may_be_called_anything(config: SearchConfig, tmp_path: Path, name: str) -> None:
    assert create(tmp_path / name, config) == create(tmp_path / name, config)


def test_a_folder_whose_name_is_no_text_is_refused(config: SearchConfig, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"its name is not valid UTF-8, .*; give another folder with --out"):
        create(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("low: 0.2", "low: 0.3", r"recipe.models\[0\].parameters.density.low was 0.2 there and is 0.3 now"),
        ("max_new_tokens: 12", "max_new_tokens: 13", "evaluation.max_new_tokens was 12 there and is 13 now"),
        ("trials: 3", "trials: 3, sampler: random", "search.sampler was 'auto' there and is 'random' now"),
        (
            "max_new_tokens: 12",
            "max_new_tokens: 12, batch_size: 2",
            "evaluation.batch_size was None there and is 2 now",
        ),
        ("trials: 3", "trials: 3, seed: 1", "search.seed was 0 there and is 1 now"),
        ("search:", "merging: {random_seed: 1}\nsearch:", "merging.random_seed was 0 there and is 1 now"),
    ],
)
def test_another_config_is_refused_by_key_and_changes_nothing(
    config: SearchConfig, shared_family: Family, tmp_path: Path, before: str, after: str, key: str
) -> None:
    create(tmp_path / "run", config)
    was = fingerprint(tmp_path / "run")
    other = SearchConfig.parse(config.text.replace(before, after, 1), "other.yaml", shared_family.folder)
    with pytest.raises(SearchError, match=rf"run: was made by another config than other.yaml: {key}; .*--fresh"):
        create(tmp_path / "run", other)
    assert fingerprint(tmp_path / "run") == was


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("trials: 3, finalists: 2", "trials: 30, timeout: 8h, finalists: 5"),
        ("allow_code_execution: true", "allow_code_execution: false"),
    ],
)
def test_how_long_and_how_fast_to_search_may_change(
    config: SearchConfig, shared_family: Family, tmp_path: Path, before: str, after: str
) -> None:
    create(tmp_path / "run", config)
    create(tmp_path / "run", SearchConfig.parse(config.text.replace(before, after, 1), folder=shared_family.folder))


def test_fresh_moves_a_search_aside(config: SearchConfig, tmp_path: Path) -> None:
    for _ in range(3):
        create(tmp_path / "run", config, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert ResultsFolder.open(tmp_path / "run.2").name == "run"


def test_a_copy_without_empty_and_hidden_folders_is_whole_again(config: SearchConfig, tmp_path: Path) -> None:
    # What git, zip and `cp DIR/*` leave of a folder.
    create(tmp_path / "run", config)
    for copy in ("copy", "fresh"):
        (tmp_path / copy).mkdir()
        for name in ("config.yaml", "search.db"):
            shutil.copyfile(tmp_path / "run" / name, tmp_path / copy / name)
    with create(tmp_path / "copy", config).working() as store, store.sign_in() as worker:
        ResultsFolder.open(tmp_path / "copy").completions.save(TrialRecord("trial"), "search", [])
        assert store.at_work() == {worker}
    create(tmp_path / "fresh", config, fresh=True)
    assert (tmp_path / "fresh.1").is_dir()


def test_fresh_does_not_move_a_search_that_runs(config: SearchConfig, tmp_path: Path) -> None:
    create(tmp_path / "run", config)
    with (
        closing(LocalStore(tmp_path / "run")) as store,
        store.sign_in(),
        pytest.raises(SearchError, match="a search is running there"),
    ):
        create(tmp_path / "run", config, fresh=True)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("step", every(2, range(16)))
def test_a_fresh_start_that_is_killed_anywhere_is_begun_again(config: SearchConfig, tmp_path: Path, step: int) -> None:
    folder = create(tmp_path / "run", config)
    folder.statistics.mkdir()
    (folder.statistics / "numbers.json").write_text("kept")
    child = os.fork()
    if child == 0:
        sys.settrace(_Killer(step))
        with contextlib.suppress(BaseException):
            create(tmp_path / "run", config, fresh=True)
        os._exit(0)
    os.waitpid(child, 0)
    found = create(tmp_path / "run", config, fresh=step % 3 == 0)
    assert ResultsFolder.open(tmp_path / "run") == found
    assert found.config_file.read_text(encoding="utf-8") == config.text
    kept = list(tmp_path.glob("run*/statistics/numbers.json"))
    assert [file.read_text() for file in kept] == ["kept"]


class _Killer:
    """Kills its process at the nth line of `create` that is executed after the old folder is out of the way."""

    def __init__(self, lines: int) -> None:
        self._left = lines

    def __call__(self, frame: FrameType, event: str, _: object) -> object:
        if frame.f_code is not ResultsFolder.create.__func__.__code__:
            return None
        if event == "line" and frame.f_locals.get("aside"):
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
        return self


@pytest.mark.parametrize("fresh", [False, True])
def test_statistics_that_a_killed_fresh_start_left_alone_are_no_obstacle(
    config: SearchConfig, tmp_path: Path, fresh: bool
) -> None:
    (tmp_path / "run" / "statistics").mkdir(parents=True)
    assert create(tmp_path / "run", config, fresh).name == "run"


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_not_ours_stays_as_it_is(config: SearchConfig, tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").write_text("a cat")
    (tmp_path / "photos" / "search.db").write_text("of somebody else")
    (tmp_path / "file").write_text("text")
    with pytest.raises(SearchError, match="photos: is not empty and holds no search"):
        create(tmp_path / "photos", config, fresh)
    with pytest.raises(SearchError, match="file: is a file"):
        create(tmp_path / "file", config, fresh)
    assert fingerprint(tmp_path).keys() == {"photos/cat", "photos/search.db", "file"}


@pytest.mark.parametrize("path", ["/proc/results", "/dev/null/results"])
def test_a_place_that_cannot_be_written_is_named(config: SearchConfig, path: str) -> None:
    with pytest.raises(SearchError, match=f"{path}: cannot be written: .*--out"):
        ResultsFolder.refuse(Path(path), config, fresh=False)


def test_a_place_that_can_be_written_stays_as_it_is(config: SearchConfig, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "deep" / "results"):
        ResultsFolder.refuse(path, config, fresh=False)
        assert not list(tmp_path.iterdir())


def test_a_folder_in_a_file_is_refused(config: SearchConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SearchError, match=r"file/results: cannot be made: .*/file is a file; give another folder"):
        ResultsFolder.refuse(tmp_path / "file" / "results", config, fresh=False)


def test_a_link_to_nothing_is_named(config: SearchConfig, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(SearchError, match="link: is a link to a folder that is not there; make that"):
        ResultsFolder.refuse(tmp_path / "link", config, fresh=False)


def test_a_folder_without_a_search_is_none(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="holds no search; `merge-search run CONFIG --out"):
        ResultsFolder.open(tmp_path)
    with pytest.raises(SearchError, match="holds no search"):
        ResultsFolder.open(tmp_path / "nothing")


@pytest.mark.parametrize("left", ["search.json", "study.db"])
def test_a_search_of_version_0_1_is_refused_by_that_name_and_moved_aside_by_a_fresh_start(
    config: SearchConfig, tmp_path: Path, left: str
) -> None:
    (tmp_path / "run" / "completions").mkdir(parents=True)
    for name in ("config.yaml", ".lock", left, "completions/trial-0.jsonl"):
        (tmp_path / "run" / name).write_text("of before")
    was = fingerprint(tmp_path / "run")
    for action in (ResultsFolder.open, lambda path: create(path, config)):
        with pytest.raises(SearchError, match=r"run: holds a search of an early development version .*--fresh"):
            action(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == was
    create(tmp_path / "run", config, fresh=True)
    assert fingerprint(tmp_path / "run.1") == was


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_next_start_removes_what_dead_workers_left_and_nothing_of_a_living_one(
    config: SearchConfig, tmp_path: Path
) -> None:
    folder = create(tmp_path / "run", config)
    folder.statistics.mkdir()
    places = [folder.path, folder.path / "completions", folder.statistics]
    left = [place / ".file.json.123.part" for place in places] + [folder.path / ".workers" / "dead"]
    for file in left:
        file.write_text("half")
    with folder.working() as store, store.sign_in() as worker, _making(places) as parts:
        create(tmp_path / "run", config)
        assert store.at_work() == {worker}
        assert len(parts) == 3
        assert all(part.exists() for part in parts)
    assert not any(file.exists() for file in left)
    create(tmp_path / "run", config)
    assert not any(part.exists() for part in parts)
    assert not list((folder.path / ".workers").iterdir())


@contextlib.contextmanager
def _making(places: list[Path]) -> Iterator[list[Path]]:
    """Yield what a living process makes at these places, and has not finished."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.ExitStack() as stack:
            made = [str(stack.enter_context(part_folder(place / "made"))) for place in places]
            os.write(writing, "\n".join(made).encode())
            signal.pause()
        os._exit(0)
    try:
        yield [Path(line) for line in os.read(reading, 4096).decode().splitlines()]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_lost_config_is_written_again(config: SearchConfig, tmp_path: Path) -> None:
    folder = create(tmp_path / "run", config)
    folder.config_file.unlink()
    create(tmp_path / "run", config)
    assert folder.config_file.read_text(encoding="utf-8") == config.text


@pytest.mark.parametrize("name", ["completions", ".workers"])
def test_what_stands_in_the_way_is_named(config: SearchConfig, tmp_path: Path, name: str) -> None:
    folder = create(tmp_path / "run", config)
    (folder.path / name).rmdir()
    (folder.path / name).touch()
    with pytest.raises(SearchError, match=rf"run/{name}: cannot be written: File exists"):
        create(tmp_path / "run", config)


def test_a_log_that_cannot_be_written_hides_no_other_error(config: SearchConfig, tmp_path: Path) -> None:
    folder = create(tmp_path / "run", config)
    (folder.path / "worker.log").symlink_to("/dev/full")

    def fail() -> None:
        with folder.logging():
            logging.getLogger("search").info("what happened")
            raise KeyError("another")

    with pytest.raises(KeyError, match="another"):
        fail()


def test_a_file_that_cannot_grow_is_the_folders_error_whether_it_is_named_or_not(
    config: SearchConfig, tmp_path: Path
) -> None:
    folder = create(tmp_path / "run", config)
    with pytest.raises(SearchError, match=r"run: No space left on device; .*make room"), folder_errors(folder.path):
        Path("/dev/full").write_text("text")


def test_a_lock_is_held_while_its_holder_is_inside(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    with held(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    with exclusive(tmp_path / "lock"):
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")


def test_two_who_ask_at_once_do_not_take_each_other_for_the_holder(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open("rb") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as is_held does
        assert not is_held(tmp_path / "lock")


def test_identity_is_plain_data(config: SearchConfig) -> None:
    assert json.loads(json.dumps(config.identity)).keys() == {"recipe", "evaluation", "search", "merging"}
