"""A hub of models on this machine, which takes uploads as Hugging Face's does, for as long as a test runs."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_notARealTokenButASecretOne"
REPO = "lab/model"


@contextmanager
def served_as_hub(
    server: http.server.ThreadingHTTPServer, token: str, home: Path, patch: pytest.MonkeyPatch
) -> Iterator[None]:
    """In the block the client of the hub asks `server`, with `token`, and keeps its files below `home`."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("HF_TOKEN", token)
    patch.setenv("HF_HOME", str(home / "hf"))
    patch.setenv("KOSEN_HOME", str(home / "kosen"))
    patch.setenv("HF_HUB_DISABLE_XET", "1")
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.delenv("HF_HUB_OFFLINE", raising=False)
    yield
    server.shutdown()


class Hub(http.server.ThreadingHTTPServer):
    """What the client of the hub needs of it for one repository: create, look, ask how to send, send, commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.private: bool | None = None  # None: there is no repository
        self.refuse: HTTPStatus | None = None
        self.sent: list[str] = []  # SHA-256 of each large file that arrived
        self.tokens: set[str | None] = set()
        self.files: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.block: str | None = None  # the large file that never arrives
        self.blocked = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._refused():
            return
        if "/commits/" in self.path:
            self._say([])
        elif self.server.private is None:
            self._say({"error": "not found"}, HTTPStatus.NOT_FOUND, {"X-Error-Code": "RepoNotFound"})
        else:
            files = [{"rfilename": name, "size": size} for name, size in self.server.files.items()]
            self._say({"id": REPO, "modelId": REPO, "private": self.server.private, "siblings": files})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        if self.path == "/api/repos/create":
            if self.server.private is None:
                self.server.private = json.loads(body)["visibility"] == "private"
            self._say({"url": f"{self.server.url}/{REPO}"})
        elif "/preupload/" in self.path:
            modes = [{"path": file["path"], **self._mode(file["path"])} for file in json.loads(body)["files"]]
            self._say({"files": modes})
        elif self.path.endswith("/objects/batch"):
            self._say({"transfer": "basic", "objects": [self._target(one) for one in json.loads(body)["objects"]]})
        else:
            self._commit(body)

    def do_PUT(self) -> None:
        name = self.path.rpartition("/")[2]
        if name == self.server.block:
            self.server.blocked.set()
            self.connection.recv(1)  # of the body; then silence
            threading.Event().wait(60)
            return
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.sent.append(hashlib.sha256(content).hexdigest())
        self._say({})

    def _refused(self) -> bool:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refuse:
            self._say({"error": "no"}, self.server.refuse)
        return bool(self.server.refuse)

    def _mode(self, path: str) -> dict[str, Any]:
        return {"uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}

    def _target(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.server.sizes[wanted["oid"]] = wanted["size"]
        if wanted["oid"] in self.server.sent:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.server.url}/store/{wanted['oid']}"}}}

    def _commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = len(line["value"]["content"]) * 3 // 4
            elif line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = line["value"]["size"]
        self._say({"commitUrl": f"{self.server.url}/{REPO}/commit/1", "commitOid": "1" * 40, "success": True})

    def _say(self, content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
