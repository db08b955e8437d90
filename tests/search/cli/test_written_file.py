"""What an option asks to be written is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.cli.written_file import write_whole
from search.errors import SearchError
from tests.merging.disks import small_files


@pytest.mark.parametrize("before", [b"the last one", None])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    file = tmp_path / "report.html"
    if before:
        file.write_bytes(before)
    with (
        small_files(tmp_path),
        pytest.raises(SearchError, match=rf"{file}: cannot be written: .* another file with --to"),
    ):
        write_whole(file, bytes(50_000), "--to")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([before] if before else [])


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "link", content, "--to")
        assert (tmp_path / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink()


def test_no_file_takes_the_place_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        write_whole(tmp_path / "pipe", b"content", "--to")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
