"""A stand-in of the Hugging Face Hub's HTTP interface: as much of it as pulling and pushing a model asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"
LARGE = ".safetensors"  # what goes by way of the large file storage


class Repository:
    """Commits, each a whole tree of files, and the branches that point at them."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.parents: dict[str, str | None] = {}
        self.branches: dict[str, str] = {}
        self.messages: list[str] = []
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Make a commit of a whole tree, and give its hash."""
        parent = self.branches.get(branch)
        content = repr((parent, sorted(files.items()), message, len(self.commits))).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit], self.parents[commit], self.branches[branch] = files, parent, commit
        self.messages.append(message)
        return commit

    def find(self, revision: str) -> str | None:
        """Give the commit of a branch, a hash or its beginning."""
        if revision in self.branches:
            return self.branches[revision]
        found = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        return found[0] if len(found) == 1 else None


class StandIn:
    """The state of the stand-in: repositories by name, and every request that was made."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.agents: set[str] = set()
        self.url = ""
        self.broken: set[str] = set()  # files whose bytes break off half-way

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Give the files of a repository as they are now."""
        repository = self.repositories[name]
        commit = repository.find(revision)
        assert commit is not None
        return repository.commits[commit]


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def _answer(self, act: Any) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        try:
            act(path)
        except _RefusedError as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, b"{}", {name: value for name, value in headers.items() if value})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode())

    @property
    def _writer(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._writer):
            raise _RefusedError(401 if not self._writer else 404, "RepoNotFound", "Repository not found")
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        commit = repository.find(revision)
        if commit is None:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _get(self, path: str) -> None:
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, what, rest = "/".join(parts[2:4]), parts[4:5], "/".join(parts[5:])
            repository = self._repository(name)
            if what == ["tree"]:
                files = repository.commits[self._commit(repository, rest)]
                listed = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in files.items()
                ]
                return self._json(listed)
            commit = self._commit(repository, rest if what == ["revision"] else "main")
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            return self._json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})
        if parts[2:4] == ["resolve", "refs"]:  # of a pull request: refs/pr/N
            return self._resolve("/".join(parts[:2]), "/".join(parts[3:6]), "/".join(parts[6:]))
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _RefusedError(404)

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repository = self._repository(name)
        commit = self._commit(repository, revision)
        content = repository.commits[commit].get(file)
        if content is None:
            raise _RefusedError(404, "EntryNotFound", f"{file} does not exist in revision {revision}")
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "Content-Type": "application/octet-stream"}
        if self.command == "GET" and file in self.hub.broken:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self._send(200, content, headers)

    def _post(self, path: str) -> None:
        if path == "/api/validate-yaml":
            text = json.loads(self.body)["content"]
            if not text.startswith("---\n"):
                return self._send(400, json.dumps({"errors": [{"message": "no metadata"}]}).encode())
            return self._json({"errors": [], "warnings": []})
        if not self._writer:
            raise _RefusedError(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        parts = path.strip("/").split("/")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._json({"transfer": "basic", "objects": [self._ask_for(one) for one in self._objects()]})
        repository = self._repository("/".join(parts[2:4]))
        what, branch = parts[4], "/".join(parts[5:])
        if what == "branch":
            if branch in repository.branches:
                raise _RefusedError(409, "", "Reference already exists")
            repository.branches[branch] = repository.branches["main"]
            return self._json({})
        if what == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = json.loads(self.body)["files"]
            described = [
                {"path": one["path"], "uploadMode": modes[one["path"].endswith(LARGE)], "shouldIgnore": False}
                for one in files
            ]
            return self._json({"files": described})
        if what == "commit":
            return self._make_commit(repository, "/".join(parts[2:4]), branch)
        raise _RefusedError(404)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            said = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
            self._send(409, json.dumps(said).encode())
            return
        self.hub.repositories[name] = Repository(wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def _objects(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["objects"]
        return found

    def _ask_for(self, one: dict[str, Any]) -> dict[str, Any]:
        if one["oid"] in self.hub.large:
            return one
        return {**one, "actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}}

    def _put(self, path: str) -> None:
        oid = path.rsplit("/", 1)[1]
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _RefusedError(400, "", "not what was announced")
        self.hub.large[oid] = self.body
        self._send(200, b"")

    def _make_commit(self, repository: Repository, name: str, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        here = self._commit(repository, branch)
        if header.get("parentCommit") not in (None, here):
            raise _RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[here])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(branch, files, header["summary"])
        url = f"{self.hub.url}/{name}/commit/{commit}"
        self._json({"commitUrl": url, "commitOid": commit, "success": True})


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Run the stand-in as long as the block runs."""
    hub = StandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
