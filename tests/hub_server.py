"""A server on 127.0.0.1 that answers as a dataset repository of the hub does, with faults on request."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves `files` ({path in the repository: bytes}) of one dataset repository; use as a context manager.

    Attributes:
        files: what the repository holds, path -> bytes.
        faults: path -> list of (kind, value), one used up by each GET of that path, the last one for ever if it is
            marked so: ("status", 503), ("cut", n) closes after n bytes of the answer, ("body", bytes) sends
            other content of the announced length or not, ("stall", None) waits for `hold`, ("forever", fault) repeats.
        head_faults: the same for HEAD, with "status" only.
        elsewhere: (repository, revision) -> (commit, files), what other repositories and revisions hold.
        requests: (method, path, Range header) of all requests, in order.
    """

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo, self.files = repo, files
        self.faults: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        self.head_faults: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        self.elsewhere: dict[tuple[str, str], tuple[str, dict[str, bytes]]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.hold = threading.Event()  # when cleared, GETs of shards stop after 1,000 bytes until it is set
        self.hold.set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def gets(self, path: str) -> list[str | None]:
        """The Range headers of all GETs of `path`."""
        return [span for method, asked, span in self.requests if method == "GET" and asked == path]

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """Answer one request."""
        match = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        path = match[3] if match else request.path
        known = {(self.repo, revision): (COMMIT, self.files) for revision in ("main", COMMIT)} | self.elsewhere
        commit, files = known.get((match[1], match[2]) if match else None, (COMMIT, {}))
        self.requests.append((request.command, path, request.headers.get("Range")))
        kind, value = next_fault((self.faults if body else self.head_faults)[path])
        if path not in files:
            return refuse(request, 404, "EntryNotFound")
        if kind == "status":
            return refuse(request, value, None)
        self.send(request, path, files[path], commit, body, kind, value)

    def send(self, request: BaseHTTPRequestHandler, path: str, content: bytes, commit: str, body: bool, kind: str, value: Any) -> None:
        """Send a file, or a part of it, or what a fault makes of it."""
        digest = hashlib.sha256(content).hexdigest()
        data = value if kind == "body" else content
        span = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(span[1]) if span and body else 0
        if span and body and start >= len(data):
            return refuse(request, 416, None)
        request.send_response(206 if start else 200)
        request.send_header("X-Repo-Commit", commit)
        request.send_header("ETag", f'"{digest}"')
        request.send_header("X-Linked-Etag", f'"{digest}"')
        request.send_header("X-Linked-Size", str(len(content)))
        request.send_header("Accept-Ranges", "bytes")
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if not body:
            return
        if kind == "stall":
            self.hold.wait(60)
        elif path.endswith(".bin") and not self.hold.is_set():
            request.wfile.write(data[start : start + 1000])
            self.hold.wait(60)
            start += 1000
        if kind == "cut":
            request.wfile.write(data[start : start + value])
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(data[start:])


def next_fault(faults: list[tuple[str, Any]]) -> tuple[str, Any]:
    """Take the next fault off the list; a ("forever", fault) stays there. ("", None) if there is none."""
    if not faults:
        return "", None
    if faults[0][0] == "forever":
        return faults[0][1]
    return faults.pop(0)


def refuse(request: BaseHTTPRequestHandler, status: int, code: str | None) -> None:
    """Answer with an error, as the hub words it."""
    request.send_response(status)
    request.send_header("X-Repo-Commit", COMMIT)
    if code:
        request.send_header("X-Error-Code", code)
    request.send_header("Content-Length", "0")
    request.end_headers()
