"""The folders that runs write go with the pool that made them, even if it was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from evaluation.sandbox.errors import SandboxError
from evaluation.sandbox.scratch import OwnFolder, sweep


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_folder_stays_while_its_owner_lives_and_goes_when_it_was_killed(place: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        folder = OwnFolder()
        (folder.path / "file").touch()
        os.write(writing, b"made")
        signal.pause()
    os.read(reading, 4)
    sweep()
    assert len(list(place.glob("*/file"))) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    sweep()
    assert not list(place.iterdir())


def test_without_a_place_for_folders_one_is_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(place / "nowhere")])
    with pytest.raises(SandboxError, match=r"No usable temporary directory found in .*nowhere.*; set TMPDIR to a"):
        sweep()


def test_a_folder_may_be_closed_twice(place: Path) -> None:
    folder = OwnFolder()
    folder.close()
    folder.close()
    assert not list(place.iterdir())


def test_a_link_to_elsewhere_is_left(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "file").touch()
    (place / "merge-search-scratch-x").symlink_to(place / "elsewhere")
    sweep()
    assert (place / "elsewhere" / "file").exists()
