"""A small HTTP server in the place of the Hugging Face hub: the endpoints that huggingface_hub uses for models, from
memory.
"""

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
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

TOKEN = "hf_of_the_stand_in"


@dataclass
class Repo:
    """A model repository: files by commit, branches, and what its card says."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    license: str | None = None
    gated: bool = False
    private: bool = False
    declared: dict[str, int] = field(default_factory=dict)  # sizes that the listing claims instead of the true ones

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with exactly ``files`` and return its hash."""
        sha = hashlib.sha1(json.dumps([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


class Hub:
    """The repositories, and what was asked of the server: (method, path)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[tuple[str, str]] = []
        self.cards: list[str] = []
        self.endpoint = ""

    def add(self, name: str, folder: Path, **options: object) -> str:
        """Add the files of ``folder`` as a repository and return the commit."""
        self.repos[name] = Repo(**options)  # type: ignore[arg-type]
        return self.repos[name].commit({path.name: path.read_bytes() for path in folder.iterdir()})

    def downloads(self) -> list[str]:
        return [path for method, path in self.asked if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if path == "/api/whoami-v2":
            known = self.headers.get("authorization") == f"Bearer {TOKEN}"
            self.answer({"name": "me", "type": "user"} if known else {"error": "Invalid"}, 200 if known else 401)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            if found := self.found(match[1], match[2]):
                self.answer(self.listing(match[1], *found))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)/([^/]+)", path):
            if found := self.found(match[1], match[2]):
                repo, sha = found
                if repo.gated:
                    self.refuse(403, "GatedRepo")
                elif match[3] not in repo.commits[sha]:
                    self.refuse(404, "EntryNotFound")
                else:
                    content = repo.commits[sha][match[3]]
                    self.send(content, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
        else:
            self.refuse(404, "RepoNotFound")

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "")
        elif path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            status = 409 if name in self.hub.repos else 200
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repos.setdefault(name, Repo(private=private)).branches or self.hub.repos[name].commit(
                {".gitattributes": b""}
            )
            self.answer({"url": f"{self.hub.endpoint}/{name}", "id": "1", "name": name}, status)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            repo = self.hub.repos[match[1]]
            files = dict(repo.commits[repo.branches["main"]])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            sha = repo.commit(files)
            self.answer(
                {
                    "success": True,
                    "commitUrl": f"{self.hub.endpoint}/{match[1]}/commit/{sha}",
                    "commitOid": sha,
                    "hookOutput": "",
                }
            )
        else:
            self.refuse(404, "RepoNotFound")

    def found(self, name: str, revision: str | None) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self.refuse(401, "RepoNotFound")
            return None
        sha = repo.branches.get(revision or "main", revision or "")
        if sha not in repo.commits:
            self.refuse(404, "RevisionNotFound")
            return None
        return repo, sha

    def listing(self, name: str, repo: Repo, sha: str) -> dict[str, object]:
        blobs = "blobs=True" in self.path or "blobs=true" in self.path
        sizes = {file: len(content) for file, content in repo.commits[sha].items()} | repo.declared
        siblings = [
            {"rfilename": file} | ({"size": size, "blobId": "0"} if blobs else {}) for file, size in sizes.items()
        ]
        card = {"license": repo.license} if repo.license else {}
        gated = "manual" if repo.gated else False
        return {
            "id": name,
            "sha": sha,
            "siblings": siblings,
            "cardData": card,
            "private": repo.private,
            "gated": gated,
            "tags": [],
        }

    def answer(self, content: object, status: int = 200) -> None:
        self.send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def refuse(self, status: int, code: str) -> None:
        self.send(b"{}", {"X-Error-Code": code, "Content-Type": "application/json"} if code else {}, status)

    def send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def hub_stand_in(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Point huggingface_hub to a fresh server, with an empty cache and nobody logged in."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    huggingface_hub.close_session()  # a client made before would keep its proxies
    try:
        yield hub
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
