"""A hub on this machine that keeps what is committed to it, as far as its client needs one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"  # of no account
COMMIT = "c" * 40


@dataclass
class Hub:
    """The requests that the hub has received."""

    endpoint: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    # Files by repository: `models/acme/demo-M_2`.
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    deleted: dict[str, list[str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refused: str = ""  # a repository to which the token may not write


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub; `endpoint` is its URL."""
    told = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/tree/" not in self.path:
                self._answer({"error": "not here"}, 404)
                return
            repository = self._repository("/tree/")
            names = told.files.get(repository, {})
            self._answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names])

        def do_POST(self) -> None:
            told.tokens.add(self.headers.get("Authorization", ""))
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for file in json.loads(body)["files"]]  # fmt: skip
                self._answer({"files": files})
            else:
                self._commit([json.loads(line) for line in body.splitlines()])

        def _create(self, asked: dict[str, Any]) -> None:
            told.created.append(asked)
            repo_id = f"{asked['organization']}/{asked['name']}"
            if repo_id == told.refused:
                self._answer({"error": "no right to create it"}, 403)
                return
            told.files.setdefault(f"{asked.get('type', 'model')}s/{repo_id}", {})
            self._answer({"url": f"{told.endpoint}/{repo_id}"})

        def _commit(self, lines: list[dict[str, Any]]) -> None:
            repository = self._repository("/commit/")
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    told.files[repository][value["path"]] = content
                elif line["key"] == "deletedFile":
                    told.deleted.setdefault(repository, []).append(value["path"])
                    del told.files[repository][value["path"]]
            url = f"{told.endpoint}/{repository}/commit/{COMMIT}".replace("/models/", "/")
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})

        def _repository(self, before: str) -> str:
            return self.path.partition(before)[0].removeprefix("/api/")

        def _answer(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
