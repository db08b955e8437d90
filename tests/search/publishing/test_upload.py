"""Uploads of exports, to a hub on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.search.conftest import Command
from tests.search.publishing.fake_hub import TOKEN, FakeHub, Repository, fake_hub

TO = "ada/my-merge"
# huggingface_hub 2.4 sends LFS files (which it does without hf_xet) by an argument that its HTTP client has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path, monkeypatch) as hub:
        yield hub


def push(command: Command, results: Path, folder: Path, *more: str, to: str = TO) -> str:
    done = command("export", results, "--anyway", "--to", folder, "--push-to-hub", to, *more)
    assert "Traceback" not in done.output
    return f"{done.exit_code}: {done.output}"


def test_an_upload_that_was_cut_off_goes_on_where_it_stopped(
    command: Command, finished: Path, tmp_path: Path, hub: FakeHub
) -> None:
    folder, more = tmp_path / "out", ("--private", "--out-shard-size", "40KB")
    hub.drops = 1000
    told = push(command, finished, folder, *more)
    assert told.startswith("2: ")
    assert "Error while uploading '" in told  # whichever of the large files, the tokenizer.json among them, was first
    assert f"the export is in {folder}, and the same command continues this upload" in told
    assert hub.models[TO].paths == [".gitattributes", "README.md"]
    made = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    hub.drops, before = 0, hub.sent("PUT")
    assert len(made) > 2
    for oid in [hashlib.sha256(file.read_bytes()).hexdigest() for file in list(made)[:2]]:
        hub.blobs[oid] = b"sent before"
    told = push(command, finished, folder, *more)
    assert told.startswith("0: "), told
    assert "holds this export already" in told
    assert f"{hub.address}/{TO}" in told
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == made
    assert hub.sent("PUT") - before == len(made) + 1 - 2  # the tokenizer.json is a large file, too
    repository = hub.models[TO]
    assert repository.private
    here = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert set(repository.paths) == here | {".gitattributes"}
    card = repository.files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"] == ["merge", "mergekit", "merge-search"]
    assert (front["library_name"], front["license"]) == ("transformers", "unknown")
    assert "base_model" not in front  # these parents are on no hub
    assert f"merge-search export {finished.name} --trial " in card
    told = push(command, finished, folder, *more)
    assert told.startswith("0: "), told
    assert len(repository.commits) == 2  # nothing has changed since


def test_a_repository_of_somebody_or_something_else_is_left_alone(
    command: Command, finished: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = hub.models["ada/other"] = Repository(False, {"README.md": b"---\ntags: [mine]\n---\n"})
    private = hub.models["ada/private"] = Repository(True)
    folder = tmp_path / "out"
    for to, words, reason in (
        ("ada/other", (), "ada/other: holds something else; give another name"),
        ("ada/other", ("--private",), "exists and is public; leave --private out"),
        ("ada/private", (), "exists and is private; give --private"),
        ("my-merge", (), "--push-to-hub my-merge: give USER/NAME"),
    ):
        told = push(command, finished, folder, *words, to=to)
        assert told.startswith("2: "), told
        assert reason in told
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "the hub does not know this login; run `hf auth login` again" in push(command, finished, folder)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "nobody is logged in to the hub; run `hf auth login`" in push(command, finished, folder)
    assert not folder.exists()  # all this is told before anything is merged
    assert (other.commits, private.commits) == ([], [])


def test_a_name_that_may_not_be_written_is_told_with_where_the_export_is(
    command: Command, finished: Path, tmp_path: Path, hub: FakeHub
) -> None:
    told = push(command, finished, tmp_path / "out", to="bob/merge")
    assert told.startswith("2: ")
    assert list(hub.models) == []
    assert "this login may not write there; check the name, and that the token may write" in told
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_what_an_earlier_export_left_is_removed_and_what_its_owner_added_stays(
    command: Command, finished: Path, tmp_path: Path, hub: FakeHub
) -> None:
    assert push(command, finished, tmp_path / "shards", "--out-shard-size", "40KB").startswith("0: ")
    stale = {".eval_results/old.yaml": b"[]", "spiece.model": b"old", "additional_chat_templates/old.jinja": b"old"}
    hub.models[TO].files |= {"picture.png": b"png"} | stale
    assert push(command, finished, tmp_path / "one").startswith("0: ")
    weights = [path for path in hub.models[TO].paths if "safetensors" in path]
    assert weights == ["model.safetensors"]
    assert "picture.png" in hub.models[TO].paths
    assert stale.keys().isdisjoint(hub.models[TO].paths)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_uploads_is_followed_by_one_that_finishes(
    finished: Path, tmp_path: Path, hub: FakeHub
) -> None:
    words = [sys.executable, "-m", "search", "export", finished, "--anyway", "--to", tmp_path / "out"]
    words += ["--push-to-hub", TO]
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    settings["HF_HUB_OFFLINE"] = "0"
    hub.reached = threading.Event()
    with subprocess.Popen(words, env=os.environ | settings, stderr=subprocess.DEVNULL) as killed:
        assert hub.reached.wait(120)
        killed.kill()
    hub.reached = None
    assert hub.models[TO].paths == [".gitattributes", "README.md"]
    done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "holds this export already" in done.stderr
    assert done.stdout.endswith(f"{hub.address}/{TO}\n")
    assert {"model.safetensors", "tokenizer.json"} <= hub.models[TO].lfs.keys()
