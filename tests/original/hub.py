"""A local server that speaks the endpoints of the Hub used here; weights lie behind a redirect, as on the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repositories` by name; `behaviour` of the weights: "", "no ranges", "hangs", "breaks", "short", "503 once".

    `asked` are (method, path, range); `served` bytes of ranges; `leaked` tokens that reached the other host.
    """

    repositories: Mapping[str, Path]
    gated: frozenset[str] = frozenset()
    behaviour: str = ""
    token: str | None = None
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    served: int = 0
    failed: int = 0
    leaked: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def cdn(self) -> str:
        """Weights lie on another host, as those of the real Hub do."""
        return self.url.replace("127.0.0.1", "localhost")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/cdn/"):
            hub.leaked += filter(None, [self.headers.get("Authorization")])
            name, file = path.removeprefix("/cdn/").rsplit("/", 1)
            self._weights(hub.repositories[name] / file, body)
            return
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in hub.repositories:
            self._refuse(404, "RepoNotFound")
        elif name in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._refuse(403, "GatedRepo")
        elif parts[0] == "api":
            self._info(name, parts)
        else:
            self._file(name, parts[3], parts[4])

    def _info(self, name: str, parts: list[str]) -> None:
        if len(parts) > 5 and parts[5] not in ("main", SHA):
            self._refuse(404, "RevisionNotFound")
            return
        files = sorted(self.hub.repositories[name].iterdir())
        siblings = [{"rfilename": f.name, "size": f.stat().st_size, "blobId": "0", "lfs": None} for f in files]
        tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files]
        listing = tree if len(parts) > 4 and parts[4] == "tree" else None
        info = {"id": name, "sha": SHA, "siblings": siblings, "private": False, "tags": [], "downloads": 0, "likes": 0}
        self._send(200, json.dumps(info if listing is None else listing).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> None:
        path = self.hub.repositories[name] / file
        if revision not in ("main", SHA):
            self._refuse(404, "RevisionNotFound")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound")
        else:
            digest = sha256(path.read_bytes()).hexdigest()
            headers = {"X-Repo-Commit": SHA, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            if path.suffix == ".safetensors":
                linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(path.stat().st_size)}
                self._send(302, b"", headers | linked | {"Location": f"{self.hub.cdn}/cdn/{name}/{file}"})
            else:
                self._ranged(path.read_bytes(), headers, self.command == "GET")

    def _weights(self, path: Path, body: bool) -> None:
        behaviour, content = self.hub.behaviour, path.read_bytes()
        if behaviour == "hangs":
            self.hub.closing.wait(30)
            return
        if behaviour == "503 once" and not self.hub.failed:
            self.hub.failed += 1
            self._refuse(503, "")
            return
        if behaviour == "no ranges":
            self._send(200, content, {})
            return
        self._ranged(content, {"ETag": '"x"'}, body)

    def _ranged(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        asked = self.headers.get("Range")
        if not asked:
            self._send(200, content, headers, body=body)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1 if last else len(content), len(content))
        piece = content[begin:end]
        if self.hub.behaviour == "short":
            piece = piece[:-1]
        if self.hub.behaviour == "breaks":
            self.send_response(206)
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece[: len(piece) // 2])
            self.close_connection = True
            return
        self.hub.served += len(piece)
        self._send(206, piece, headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}, body=body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code} if code else {})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.command == "GET":
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The server at `hub.url`, until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub, "protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
