"""What all tests share: tiny models made on the spot, and a machine that behaves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One thread a test process: pytest-xdist already uses every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.tiny import TinyModel, save_tiny_model

ModelMaker = Callable[..., str]


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Return a function that saves a tiny random model and returns its folder."""

    def make(name: str, **options: object) -> str:
        return save_tiny_model(tmp_path / name, TinyModel(**options))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session", autouse=True)
def memo_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remember what transformers says for the session alone: whatever a home holds, tests begin with nothing."""
    folder = tmp_path_factory.mktemp("memo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merging.memo.cache_folder", lambda _: folder)
        yield
