"""A hub on this machine: the few requests that an upload makes, answered as the hub does, with what it then holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import close_session, constants

USER, TOKEN = "ada", "hf_stand_in"


@dataclass
class Repository:
    """A repository, by the paths of its files; LFS files are their content's digests."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def tags(self) -> list[str]:
        front = self.files.get("README.md", b"").decode().split("---\n")
        return yaml.safe_load(front[1]).get("tags", []) if len(front) > 2 else []

    @property
    def paths(self) -> list[str]:
        return sorted(self.files.keys() | self.lfs.keys())


@dataclass
class FakeHub:
    """What the hub holds, what was asked of it, and when it drops a connection.

    Attributes:
        address: where it answers.
        drops: how many uploads of a file it begins to read and then cuts off.
        benchmarks: the eval.yaml of each dataset that it lists as a benchmark.
        reached: set by the upload of a file, which then gets no answer; None to answer it.
        requests: the method and path of each request.
    """

    address: str = ""
    models: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    readmes: dict[str, str] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    drops: int = 0
    reached: threading.Event | None = None
    requests: list[str] = field(default_factory=list)

    def sent(self, start: str) -> int:
        """Return how many requests began so."""
        return sum(request.startswith(start) for request in self.requests)


@contextmanager
def fake_hub(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Let the hub be a server on this machine; its clients do not wait between tries, and keep their cache here."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    patch.setattr(constants, "ENDPOINT", hub.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    patch.setenv("HF_TOKEN", TOKEN)
    close_session()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
        close_session()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{method} {path}")
        if method == "PUT" and self.hub.reached:
            self.hub.reached.set()
            while self.rfile.read(1):  # until the client is gone
                pass
            self.close_connection = True
            return
        if method == "PUT" and self.hub.drops:
            self.hub.drops -= 1
            self.rfile.read(100)
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if not path.startswith("/lfs/") and self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._reply({"error": "Invalid credentials"}, 401)
            return
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                answer(self, body, *found.groups())
                return
        self._missing()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._reply({"error": "not found"}, 404, {"x-error-code": code})

    def who(self, _: bytes) -> None:
        self._reply({"name": USER, "type": "user", "orgs": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != USER:
            self._reply({"error": "forbidden"}, 403)
            return
        is_new = name not in self.hub.models
        if is_new:
            self.hub.models[name] = Repository(asked.get("visibility") == "private", {".gitattributes": b""})
        self._reply({"url": f"{self.hub.address}/{name}"}, 200 if is_new else 409)

    def info(self, _: bytes, name: str) -> None:
        if not (known := self.hub.models.get(name)):
            self._missing()
            return
        siblings = [{"rfilename": path} for path in known.paths]
        self._reply({"id": name, "sha": "0" * 40, "private": known.private, "tags": known.tags, "siblings": siblings})

    def tree(self, _: bytes, name: str) -> None:
        known = self.hub.models[name]
        self._reply([{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in known.paths])

    def preupload(self, body: bytes, name: str) -> None:
        known = self.hub.models[name]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", "tokenizer.json")) else "regular",
                "shouldIgnore": False,
                "oid": known.lfs.get(file["path"]) or _git_oid(known.files.get(file["path"])),
            }
            for file in json.loads(body)["files"]
        ]
        self._reply({"files": files})

    def batch(self, body: bytes, _name: str) -> None:
        objects = json.loads(body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.blobs:
                each["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}
        self._reply({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._reply(b"")

    def commit(self, body: bytes, name: str) -> None:
        known = self.hub.models[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                known.commits.append(value["summary"])
            elif line["key"] == "file":
                known.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.hub.blobs
                known.lfs[value["path"]] = value["oid"]
            else:
                known.files.pop(value["path"], None)
                known.lfs.pop(value["path"], None)
        self._reply({"commitUrl": f"{self.hub.address}/{name}/commit/0", "commitOid": "0" * 40, "success": True})

    def validate(self, body: bytes) -> None:
        front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        wrong = [] if front.get("license") else [{"message": "no licence"}]
        self._reply({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def datasets(self, _: bytes) -> None:
        assert "benchmark" in self.path
        self._reply([{"id": name} for name in self.hub.benchmarks])

    def eval_yaml(self, _: bytes, name: str) -> None:
        self._file(self.hub.benchmarks.get(name))

    def readme(self, _: bytes, name: str) -> None:
        self._file(self.hub.readmes.get(name))

    def _file(self, text: str | None) -> None:
        if text is None:
            self._missing()
            return
        etag = hashlib.sha1(text.encode()).hexdigest()
        self._reply(text.encode(), 200, {"etag": f'"{etag}"', "x-repo-commit": "1" * 40})


def _git_oid(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_ROUTES = (
    (r"GET /api/whoami-v2", _Handler.who),
    (r"POST /api/repos/create", _Handler.create),
    (r"GET /api/models/([^/]+/[^/]+)(?:/revision/main)?", _Handler.info),
    (r"GET /api/models/([^/]+/[^/]+)/tree/main", _Handler.tree),
    (r"POST /api/models/([^/]+/[^/]+)/preupload/main", _Handler.preupload),
    (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w+)", _Handler.store),
    (r"POST /api/models/([^/]+/[^/]+)/commit/main", _Handler.commit),
    (r"POST /api/validate-yaml", _Handler.validate),
    (r"GET /api/datasets", _Handler.datasets),
    (r"(?:GET|HEAD) /datasets/([^/]+/[^/]+)/resolve/main/eval\.yaml", _Handler.eval_yaml),
    (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/main/README\.md", _Handler.readme),
)
