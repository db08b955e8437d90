"""What a process makes is there whole or not at all; what a killed one left is removed, and nothing of a living one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from merging.caches import cache_folder, part_folder, put, sweep
from merging.kernels.native.compiler import Compiler, Variant


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, swept = threading.Event(), threading.Event()
    replace = Path.replace

    def wait(part: Path, file: Path) -> Path:
        written.set()
        assert swept.wait(10)
        return replace(part, file)

    monkeypatch.setattr(Path, "replace", wait)
    writer = threading.Thread(target=put, args=(tmp_path / "file", b"whole"))
    writer.start()
    assert written.wait(10)
    (tmp_path / ".file.dead.part").touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    swept.set()
    writer.join()
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"whole")]


def test_what_is_swept_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch, swept = Path.touch, []

    def touch_and_sweep(part: Path) -> None:
        touch(part)
        if len(swept) < 3:
            swept.append(part)
            sweep(tmp_path)

    monkeypatch.setattr(Path, "touch", touch_and_sweep)
    put(tmp_path / "file", b"whole")
    assert len(swept) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["model", "a[b]*c", "größe", "with space"])
def test_a_folder_goes_with_its_maker(tmp_path: Path, name: str) -> None:
    with part_folder(tmp_path / name) as part:
        (part / "file").write_text("half")
        sweep(tmp_path)
        assert (part / "file").exists()
    assert not list(tmp_path.iterdir())


def test_only_what_is_unfinished_is_swept(tmp_path: Path) -> None:
    for name in ("file", "file.part", ".hidden", ".part"):
        (tmp_path / name).touch()
    (tmp_path / ".folder.1.part").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".link.1.part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "file").touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"file", "file.part", ".hidden", ".part", "elsewhere"}
    assert (tmp_path / "elsewhere" / "file").exists()
    assert not (tmp_path / ".folder.1.part").exists()


@pytest.mark.parametrize("home", ["new", "file"])
def test_a_folder_is_tried_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
    found = cache_folder("kernels")
    assert found == (None if home == "file" else tmp_path / home / "merge-search" / "kernels")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", lambda *_, **__: pytest.fail("is made again"))
        patch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("is written to again"))
        assert cache_folder("kernels") == found


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_compiler_that_was_killed_leaves_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, started = tmp_path / "cc", tmp_path / "started"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ echo $$ > {started}; exec sleep 600; }}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = tmp_path / "merge-search" / "kernels"
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            Compiler().load(Variant("weighted_sum", ()))
        os._exit(0)
    deadline = time.monotonic() + 120
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sweep(kernels)
    assert len(list(kernels.iterdir())) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.kill(int(started.read_text()), signal.SIGKILL)
    assert cache_folder("kernels") == kernels
    assert not list(kernels.iterdir())
