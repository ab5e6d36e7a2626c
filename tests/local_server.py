"""A web server on this machine that serves files well or badly, and tiny files to serve.

A test registers pages and what should go wrong with each request in turn; the server records what
it was asked. It also speaks as much of the Hugging Face Hub as a download needs.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What goes wrong with one GET: a status, a body cut short, a Range ignored, wrong bytes."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    ignore_range: bool = False
    hold: threading.Event | None = None
    """After half of the body, nothing more is sent until this is set."""
    content_range: str | None = None


@dataclass
class Page:
    data: bytes
    etag: str | None = None
    redirect: str | None = None
    faults: list[Fault] = field(default_factory=list)


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]


class Server:
    """Runs in threads until close(); `pages` may change at any time."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def add(self, path: str, data: bytes, *faults: Fault, etag: str | None = '"one"') -> str:
        """Serves bytes at a path and returns their URL."""
        self.pages[path] = Page(data, etag, faults=list(faults))
        return self.url + path

    def gets(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path and asked.method == "GET"]

    def add_repository(self, repo: str, files: dict[str, bytes], licence: str = "mit") -> None:
        """Serves a Hub repository: its list, and each file behind a redirect to another host."""
        siblings = []
        for name, data in files.items():
            sha256 = hashlib.sha256(data).hexdigest()
            lfs = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(data), "blobId": "b", "lfs": lfs})
            far = f"/far/{repo}/{name}"
            self.pages[far] = Page(data, f'"{sha256}"')
            self.pages[f"/{repo}/resolve/{COMMIT}/{name}"] = Page(
                b"", redirect=f"http://localhost:{self.port}{far}"
            )
        listing = {
            "id": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
            "cardData": {"license": licence},
        }
        self.pages[f"/api/models/{repo}"] = Page(json.dumps(listing).encode())

    def become_hub(self, patch: pytest.MonkeyPatch) -> None:
        """Has huggingface-hub take this server for the Hub."""
        from huggingface_hub import constants

        pattern = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        patch.setattr(constants, "ENDPOINT", self.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + pattern)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.asked.append(Asked(request.command, path, headers))
        page = self.pages.get(path)
        if page is None:
            return reply(request, 404, {}, b"")
        if page.redirect:
            return reply(request, 302, {"location": page.redirect}, b"")
        is_get = request.command == "GET"
        fault = page.faults.pop(0) if page.faults and is_get else Fault()
        if fault.status is not None:
            return reply(request, fault.status, fault.headers, b"")
        return self.send(request, page, fault, headers)

    def send(
        self, request: BaseHTTPRequestHandler, page: Page, fault: Fault, asked: dict[str, str]
    ) -> None:
        data, status, out = page.data, 200, dict(fault.headers)
        if page.etag:
            out["etag"] = page.etag
        wanted = re.match(r"bytes=(\d+)-", asked.get("range", ""))
        same = asked.get("if-range") in (None, page.etag)
        if wanted and same and not fault.ignore_range:
            start, status = int(wanted[1]), 206
            out["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        if fault.content_range is not None:
            out["content-range"], status = fault.content_range, 206
        body = data if fault.cut_at is None else data[: fault.cut_at]
        request.send_response(status)
        for key, value in {"content-length": str(len(data)), **out}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        self.send_body(request, body, fault)
        if len(body) < len(data):
            request.close_connection = True

    def send_body(self, request: BaseHTTPRequestHandler, body: bytes, fault: Fault) -> None:
        half = len(body) // 2 if fault.hold else len(body)
        try:
            for start in range(0, half, 1 << 16):
                request.wfile.write(body[start : min(start + (1 << 16), half)])
                self.sent_bytes += min(1 << 16, half - start)
            request.wfile.flush()
            if fault.hold:
                fault.hold.wait(20)
                request.wfile.write(body[half:])
                self.sent_bytes += len(body) - half
        except OSError:
            request.close_connection = True


def reply(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
) -> None:
    request.send_response(status)
    for key, value in {"content-length": str(len(body)), **headers}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def tiny_gguf(n_bytes: int = 4096, fill: int = 7) -> bytes:
    """A sound GGUF file with one F32 tensor, of a family that no engine knows."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += text("general.architecture") + struct.pack("<I", 8) + text("for-tests")
    header += text("weight") + struct.pack("<IQIQ", 1, n_bytes // 4, 0, 0)
    return header + bytes(-len(header) % 32) + bytes([fill]) * (n_bytes // 4 * 4)


def make_wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, without a build tool."""
    module = package.replace("-", "_")
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Returns when the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
