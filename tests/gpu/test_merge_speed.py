"""The script that measures a GPU runs, as far as can be seen without one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.gpu import merge_speed

SMALL = ["--layers", "1", "--hidden", "128", "--vocabulary", "300", "--runs", "1"]


def test_it_prints_a_line_for_every_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("ties", "slerp")
    merge_speed.main(["--device", "cpu", *SMALL, "--folder", str(tmp_path), "--methods", *methods])
    printed = capsys.readouterr().out
    for method in methods:
        assert re.search(
            rf"^\| {method} \| resident \| [\d.]+ \| [\d.]+ \| [\d.]+ \| [\d.]* \| [\d.]+ \|$", printed, re.M
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="give fewer --layers, or another --folder"):
        merge_speed.main(["--device", "cpu", "--layers", "2", "--hidden", "10000000", "--folder", str(tmp_path)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_can_be_seen_without() -> None:
    with pytest.raises(SystemExit, match="--device cpu --layers 2 --hidden 256 shows"):
        merge_speed.main(SMALL)
