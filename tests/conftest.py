"""What all tests share: tiny models made on the spot, and a machine that behaves."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# One thread a test process: pytest-xdist already uses every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

gc.disable()  # until all is imported: see pytest_collection_finish

settings.register_profile("thorough", deadline=None, max_examples=100)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("quick")

ModelMaker = Callable[..., str]
ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks a sandbox itself; what else depends on its layers bears the mark where it is written."""
    for item in items:
        if "sandbox" in getattr(item, "fixturenames", ()):
            item.add_marker("sandbox")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects that imports and collection have left for good."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Return a function that saves a tiny random model and returns its folder."""
    from tests.tiny import TinyModel, save_tiny_model  # on demand: the controller of pytest-xdist needs no torch

    def make(name: str, **options: object) -> str:
        return save_tiny_model(tmp_path / name, TinyModel(**options))  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """Return the folder of SmolLM2-135M-Instruct and two fine-tunes; made where it is missing, and kept."""
    folder = ROOT / "models" / "smollm2-adapted"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        script = [sys.executable, "-m", "tests.fixtures.smollm2", "--to", str(folder), "--adapted"]
        subprocess.run(script, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def memo_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remember what transformers says, and digests, only for this session: tests begin with nothing."""
    folder = tmp_path_factory.mktemp("memo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merging.checkpoints.remembered_answers.cache_folder", lambda _: folder)
        patch.setattr("merging.statistics.digests.cache_folder", lambda _: folder)
        yield
