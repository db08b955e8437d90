"""`merge-search init` writes configs that run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from search import SearchConfig
from tests.merging.disks import small_files
from tests.search.conftest import Command

SHIPPED = Path(__file__).parents[2] / "configs"


def test_init_writes_the_quickstart_and_overwrites_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("init")
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "  merge-search run configs/quickstart.yaml")
    SearchConfig.load("configs/quickstart.yaml").require_files()
    SearchConfig.load("configs/ds-trinity-7b.yaml")
    assert contents(Path("configs/quickstart")) == contents(SHIPPED / "quickstart")

    Path("configs/quickstart.yaml").write_text("mine")
    refused = command("init")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "merge-search: configs/quickstart.yaml: exists; remove it, or give another folder: merge-search init FOLDER\n",
    )
    assert Path("configs/quickstart.yaml").read_text() == "mine"
    assert command("init", "other").output.splitlines()[-1] == "  merge-search run other/quickstart.yaml"


def test_init_says_where_it_cannot_write(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command("init", tmp_path / "file")
    assert (done.exit_code, done.stderr) == (
        2,
        f"merge-search: {tmp_path}/file: cannot be written: File exists; give another folder: "
        "merge-search init FOLDER\n",
    )


def test_init_on_a_full_disk_leaves_nothing_half_done(command: Command, tmp_path: Path) -> None:
    with small_files(tmp_path):
        done = command("init", tmp_path)
    assert done.stderr.startswith(f"merge-search: {tmp_path}: cannot be written: File too large; give another folder")
    assert list(tmp_path.iterdir()) == []
    assert command("init", tmp_path).exit_code == 0


def test_init_quotes_the_command_that_comes_next(command: Command, tmp_path: Path) -> None:
    done = command("init", tmp_path / "my configs")
    assert done.output.splitlines()[-1] == f"  merge-search run '{tmp_path}/my configs/quickstart.yaml'"


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {os.fspath(file.relative_to(folder)): file.read_bytes() for file in files}
