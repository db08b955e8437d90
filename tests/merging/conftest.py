"""A family of tiny models that the merging tests share: a base and two fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny import TinyModel, save_tiny_model


@dataclass(frozen=True)
class Family:
    """Folders of a base and its two fine-tunes."""

    base: str
    a: str
    b: str


def make_family(folder: Path, **options: object) -> Family:
    """Save a family of tiny models and return its folders."""
    names = [save_tiny_model(folder / name, TinyModel(seed=i, **options)) for i, name in enumerate(("base", "a", "b"))]  # type: ignore[arg-type]
    return Family(*names)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A bfloat16 Llama family of three layers."""
    return make_family(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def float32_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The same in float32, where no two magnitudes are equal."""
    return make_family(tmp_path_factory.mktemp("llama32"), dtype="float32")


@pytest.fixture(scope="session")
def qwen_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A Qwen2 family: biases, tied head, sharded files."""
    return make_family(tmp_path_factory.mktemp("qwen"), architecture="qwen2", tied=True, shards=True)
