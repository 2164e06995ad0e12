"""A Hub of three endpoints on loopback: what `huggingface_hub` asks when it lists and fetches files of a data set."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34
CONVERTED_COMMIT = "decade" + "0" * 34


class FakeHub:
    """One data set repository at one commit.

    Attributes:
        files: path to bytes; paths that end in `.json` are plain git files, all others are in LFS.
        cut_after: path to a number of bytes after which the connection is closed, once.
        silent_after: path to a number of bytes after which nothing more comes, once, and the connection stays open.
        converted: what stands on the branch refs/convert/parquet.
        tampered: paths whose bytes differ from what the listing says.
        requests: what was asked, as ``METHOD file``.
    """

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository, self.files = repository, files
        self.cut_after: dict[str, int] = {}
        self.silent_after: dict[str, int] = {}
        self.closing = threading.Event()
        self.converted: dict[str, bytes] = {}
        self.tampered: set[str] = set()
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def listing(self, converted: bool = False) -> dict[str, Any]:
        siblings = []
        for name, content in (self.converted if converted else self.files).items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
            if not name.endswith(".json"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": self.repository,
            "sha": CONVERTED_COMMIT if converted else COMMIT,
            "siblings": siblings,
            "private": False,
            "gated": False,
            "tags": [],
        }

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None: ...

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = self.path.partition("?")[0]
                if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                    self.list_files(match[1], match[2])
                elif match := re.fullmatch(
                    rf"/datasets/{hub.repository}/resolve/({COMMIT}|{CONVERTED_COMMIT})/(.+)", path
                ):
                    self.send_file(match[1], match[2], body)
                elif match := re.fullmatch(r"/status/(\d+)", path):
                    self.refuse(int(match[1]), "")
                else:
                    self.refuse(404, "EntryNotFound")

            def list_files(self, repository: str, revision: str | None) -> None:
                hub.requests["GET listing"] += 1
                if repository != hub.repository:
                    return self.refuse(404, "RepoNotFound")
                converted = bool(hub.converted) and revision in ("refs%2Fconvert%2Fparquet", CONVERTED_COMMIT)
                if not converted and revision not in (None, "main", COMMIT):
                    return self.refuse(404, "RevisionNotFound")
                content = json.dumps(hub.listing(converted)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def send_file(self, commit: str, name: str, body: bool) -> None:
                hub.requests[f"{self.command} {name}"] += 1
                content = (hub.files if commit == COMMIT else hub.converted)[name]
                etag = git_id(content) if name.endswith(".json") else hashlib.sha256(content).hexdigest()
                if name in hub.tampered:
                    content = content[:-1] + b"!"
                start = 0
                if asked := self.headers.get("Range"):
                    hub.ranges.append(asked)
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(content) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if body:
                    end = hub.cut_after.pop(name, len(content))
                    silent = hub.silent_after.pop(name, end) if end == len(content) else end
                    self.wfile.write(content[start : min(end, silent)])
                    if silent < end:
                        hub.closing.wait(30)
                    self.close_connection = min(end, silent) < len(content)

            def refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
