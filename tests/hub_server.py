"""A hub on this machine, for huggingface_hub's own client: repositories are folders, and every byte sent is counted."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The one commit of all repositories."""


@dataclass
class Hub:
    """What is served, and what was asked for."""

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    lost: set[tuple[str, str]] = field(default_factory=set)
    """Who asks for which file in vain, though its header was there."""
    address: str = ""
    """Without a path; what follows it is a name for whoever asks, as in `{address}/rank0`."""
    sent: dict[str, Counter[str]] = field(default_factory=dict)
    """Bytes of bodies of files, by who asked and by file."""

    def environment(self, home: Path, asking: str = "anyone") -> dict[str, str]:
        """Return the variables with which the client asks this hub, with caches of its own."""
        return {
            "HF_ENDPOINT": f"{self.address}/{asking}",
            "HF_HOME": str(home / "huggingface"),
            "MPISPEC_CACHE": str(home / "mpispec"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serving(**repositories: Path) -> Iterator[Hub]:
    """Serve folders as `owner/NAME` until the context is left."""
    hub = Hub({f"owner/{name}": folder for name, folder in repositories.items()})

    class Handler(_Handler):
        def __init__(self, *args: object) -> None:
            self.hub = hub
            super().__init__(*args)  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, has_body: bool) -> None:
        _, asking, *path = unquote(urlsplit(self.path).path).split("/")
        if path[:2] == ["api", "models"]:
            self._describe("/".join(path[2:4]), path[4:], has_body)
        elif path[2:3] == ["resolve"]:
            self._send_file(asking, "/".join(path[:2]), path[3], "/".join(path[4:]), has_body)
        else:
            self._refuse(404, "")

    def _describe(self, repository: str, rest: list[str], has_body: bool) -> None:
        """Answer what a repository holds: `revision/REVISION` or nothing for a summary, `tree/REVISION` for sizes."""
        folder = self.hub.repositories.get(repository)
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        files = sorted(file for file in folder.iterdir() if file.is_file())
        found: object
        if rest[:1] == ["tree"]:
            found = [_entry(file) for file in files]
        else:
            siblings = [{"rfilename": file.name} for file in files]
            found = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), has_body)

    def _send_file(self, asking: str, repository: str, revision: str, name: str, has_body: bool) -> None:
        folder = self.hub.repositories.get(repository)
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if repository in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if not (folder / name).is_file() or ((asking, name) in self.hub.lost and not has_body):
            return self._refuse(404, "EntryNotFound")
        body = (folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            code, part = 200, body
        else:
            start, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
            code, part = 206, body[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        if has_body:
            self.hub.sent.setdefault(asking, Counter())[name] += len(part)
        return self._send(code, headers, part, has_body)

    def _refuse(self, code: int, reason: str) -> None:
        self._send(code, {"X-Error-Code": reason, "X-Error-Message": reason}, b"", has_body=True)

    def _send(self, code: int, headers: dict[str, str], body: bytes, has_body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


def _entry(file: Path) -> dict[str, object]:
    oid = hashlib.sha1(file.read_bytes()).hexdigest()
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}
