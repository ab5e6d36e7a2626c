"""A file behind a URL, and the HTTP that the hub source shares with it.

A transfer may begin in the middle: the server is asked for the rest under the validator that the
first part came with, and what it really sends (206 with the right range, or 200 from the start) is
what the Body says. Every failure is one of the errors of errors.py.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote, urlsplit

from localllm.errors import (
    AccessError,
    IntegrityError,
    LocalLLMError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.models.sources.remote import Body, Progress, Remote, safe_file_name

if TYPE_CHECKING:
    import httpx2

REACH_SECONDS = 5.0
STALL_SECONDS = 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Url:
    """`https://…`; plain http only to this very machine."""

    url: str
    kind: ClassVar[str] = "url"
    copies: ClassVar[int] = 1

    @classmethod
    def parse(cls, name: str) -> Url:
        parts = urlsplit(name)
        if not parts.hostname:
            raise UsageError(f"{name!r} is not a URL")
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise UsageError(f"{name!r}: only https is accepted", name.replace("http", "https", 1))
        return cls(name)

    @property
    def name(self) -> str:
        return self.url

    def find(self, folder: Path, progress: Progress) -> Remote:
        page = Page(self.url)
        require_reachable(self.url)
        headers = read_headers(page)
        length = headers.get("content-length", "")
        validator = headers.get("etag") or headers.get("last-modified")
        return Remote(
            name=self.name,
            origin=self.url,
            file_name=safe_file_name(unquote(urlsplit(self.url).path)),
            open=partial(open_page, page, validator=validator),
            n_bytes=int(length) if length.isascii() and length.isdigit() else None,
            revision=headers.get("etag"),
            identity=f"{self.url} {validator}" if validator else None,
        )


@dataclass(frozen=True)
class Page:
    """One address, the headers it is asked with, and what to try where access is refused."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    access_hint: str | None = None
    plain_http: bool = False
    immutable: bool = False
    """The address names one revision, so any part of it fits any other."""


def require_reachable(url: str) -> None:
    """Raises NetworkError unless a connection to the host, or to its proxy, opens in time.

    A thread holds the deadline, since looking a name up has none and every address of a host gets
    the whole timeout of a connect.
    """
    from urllib.request import getproxies, proxy_bypass

    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or DEFAULT_PORTS.get(target.scheme, 80)
    failure: list[str] = [f"no answer within {REACH_SECONDS:.0f} seconds"]

    def connect() -> None:
        try:
            socket.create_connection((target.hostname or "", port), REACH_SECONDS).close()
            failure.clear()
        except TimeoutError:
            return
        except OSError as error:
            failure[:] = [error.strerror or str(error)]

    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    probe.join(REACH_SECONDS)
    if failure:
        raise NetworkError(f"cannot reach {target.hostname}: {failure[0]}")


@contextmanager
def session(page: Page) -> Iterator[httpx2.Client]:
    """An HTTP client whose failures are ours. Credentials stay with the host they are for."""
    import httpx2

    def refuse_plain_http(request: httpx2.Request) -> None:
        allowed = page.plain_http or request.url.host in LOOPBACK
        if request.url.scheme != "https" and not allowed:
            raise NetworkError(f"{page.url} redirects to plain http: {request.url}")

    try:
        with httpx2.Client(
            headers=page.headers,
            timeout=httpx2.Timeout(STALL_SECONDS, connect=REACH_SECONDS),
            follow_redirects=True,
            max_redirects=10,
            event_hooks={"request": [refuse_plain_http]},
        ) as client:
            yield client
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise UsageError(f"{page.url!r} cannot be fetched: {error}") from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise NetworkError(f"{urlsplit(page.url).hostname}: {reason}") from error


def read_headers(page: Page) -> Mapping[str, str]:
    """What the server says of a file before it is read; nothing where it does not answer HEAD."""
    with session(page) as client:
        response = client.head(page.url, headers={"accept-encoding": "identity"})
        if response.status_code in (405, 501):
            return {}
        require_success(response, page)
        return response.headers


@contextmanager
def open_page(page: Page, offset: int, validator: str | None = None) -> Iterator[Body]:
    """Streams a file from `offset`, or from its start where the server cannot or must not."""
    headers = {"accept-encoding": "identity"}
    if offset and page.immutable:
        headers["range"] = f"bytes={offset}-"
    # A weak validator does not promise equal bytes, so it cannot guard a resumed transfer.
    elif offset and validator and not validator.startswith("W/"):
        headers |= {"range": f"bytes={offset}-", "if-range": validator}
    with session(page) as client, client.stream("GET", page.url, headers=headers) as response:
        if response.status_code == 416:
            raise NetworkError(f"{page.url} has changed while it was being fetched")
        require_success(response, page)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise IntegrityError(f"{page.url} sends a compressed body, which cannot be checked")
        yield Body(range_start(response, page), response.iter_raw())


def range_start(response: httpx2.Response, page: Page) -> int:
    """Where the body that the server sends begins in the file."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    if not found:
        raise NetworkError(f"{page.url} sends a part without saying which")
    return int(found[1])


def require_success(response: httpx2.Response, page: Page) -> None:
    if not response.is_success:
        raise refusal(response.status_code, page)


def refusal(status: int, page: Page) -> LocalLLMError:
    """The error for a status; only NetworkError lets another source be tried."""
    if status in (401, 403):
        return AccessError(f"access to {page.url} was refused (HTTP {status})", page.access_hint)
    if status in (404, 410):
        return ModelNotFoundError(f"there is nothing at {page.url} (HTTP {status})")
    return NetworkError(f"{page.url} failed with HTTP {status}")
