"""The hub's cache: what is missing is told with what it takes to get it, and nothing is downloaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import disk_usage
from urllib.parse import unquote

import pytest
from huggingface_hub import close_session, constants

from search.preflight.hub_cache import missing_from_cache
from tests.conftest import ModelMaker

SIZES = {"config.json": 600, "model.safetensors": 13_500_000_000, "pytorch_model.bin": 13_500_000_000}


class _Hub(BaseHTTPRequestHandler):
    """A hub that knows two models, of which the owner of one grants access."""

    def do_GET(self) -> None:
        name = unquote(self.path).removeprefix("/api/models/").partition("?")[0]
        owner, missing = name.partition("/revision/")[::2]
        known = owner in ("a/code", "a/gated") and missing in ("", "v2")
        body = json.dumps(
            {"id": owner, "gated": "manual" if owner == "a/gated" else False, "siblings": _files()} if known else {}
        ).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RevisionNotFound" if missing else "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _files() -> list[dict[str, object]]:
    return [{"rfilename": name, "size": size} for name, size in SIZES.items()]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a hub on this machine, and return the folder of its empty cache."""
    with HTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", constants.ENDPOINT, raising=False)
        close_session()
        yield tmp_path / "hub"
        close_session()
        server.shutdown()


def test_what_is_not_here_is_told_with_its_size_and_the_command(hub: Path) -> None:
    found, gated = missing_from_cache(["a/code@v2", "a/gated"])
    assert found.detail.startswith(
        f"a/code@v2: not downloaded yet; it has 13.5 GB to download, and its cache {hub} has"
    )
    assert found.remedy == "run hf download a/code --revision v2"
    assert not hub.exists()
    assert "its owner grants access: log in with hf auth login" in gated.detail


@pytest.mark.usefixtures("hub")
def test_a_disk_that_has_no_room_for_all_of_them_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "model.safetensors", disk_usage(tmp_path).free * 2 // 3)
    first, second = missing_from_cache(["a/code", "a/gated"])
    assert first.remedy == "run hf download a/code"
    assert second.remedy == ("make room, or set HF_HOME to a folder on another disk; then run hf download a/gated")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("part", "told"),
    [("b/nothing", "the hub has no such model"), ("a/code@v3", "the hub has no revision v3 of it")],
)
def test_what_the_hub_does_not_know_is_not_to_be_downloaded(part: str, told: str) -> None:
    (found,) = missing_from_cache([part])
    assert told in found.detail
    assert found.remedy == ""


def test_without_the_hub_it_is_told_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (found,) = missing_from_cache(["a/code"])
    assert (found.level, found.remedy) == ("problem", "run hf download a/code")
    assert found.detail == "a/code: not downloaded yet; the hub is not asked, because HF_HUB_OFFLINE is set"


def test_only_what_lies_in_the_cache_as_a_whole_is_here(
    tmp_path: Path, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--a--code"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    (repository / "snapshots").mkdir()
    Path(make_model("model", shards=True)).rename(repository / "snapshots" / "c0ffee")
    assert list(missing_from_cache(["a/code"])) == []
    next((repository / "snapshots" / "c0ffee").glob("*-00002-*")).unlink()
    (found,) = missing_from_cache(["a/code"])
    assert "only a part is here" in found.detail
