"""The largest magnitude of a stored tensor: what torch says of the whole, and its overflow in another dtype."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from merging.checkpoints import largest_magnitude as module
from merging.checkpoints.largest_magnitude import largest_magnitude, overflows
from merging.checkpoints.weights import read_header

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def stored(folder: Path, tensor: torch.Tensor) -> float:
    save_file({"x": tensor}, folder / "x.safetensors")
    return largest_magnitude(read_header(folder / "x.safetensors")["x"])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_it_is_the_largest_of_all_pieces(
    tmp_path: Path, dtype: torch.dtype, sign: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", 64)
    tensor = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensor[11, 3] = sign * 12.5
    assert stored(tmp_path, tensor) == float(tensor.abs().max()) == 12.5


@pytest.mark.parametrize("dtype", FLOATS)
def test_inf_and_nan_are_seen_whatever_else_there_is(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.zeros(100, dtype=dtype)
    tensor[40] = -math.inf
    assert stored(tmp_path, tensor) == math.inf
    tensor[60] = -math.nan
    assert math.isnan(stored(tmp_path, tensor))


def test_what_holds_no_floats_has_none(tmp_path: Path) -> None:
    assert stored(tmp_path, torch.full((3,), 70_000)) == 0.0
    assert stored(tmp_path, torch.zeros(0, 4)) == 0.0


@pytest.mark.parametrize("number", [0.0, 65_504.0, 65_519.0, 65_520.0, 7e4, 1e38, 3.4e38, 1e300, math.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_finite_number_overflows_where_torch_makes_it_infinite(number: float, dtype: torch.dtype) -> None:
    rounded = torch.tensor(number, dtype=torch.float64).to(dtype)
    assert overflows(number, dtype) == (math.isfinite(number) and bool(rounded.isinf()))
