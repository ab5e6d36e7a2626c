"""Bringing a model here: its sources in order, one process at a time, checks at the end.

The sources find, fetch.py writes; this file decides from which source, under which name, and that
nothing is kept which the engine calls malformed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from localllm import catalog, engines
from localllm.errors import IntegrityError, NetworkError, UsageError
from localllm.fetch import Expected, Fetched, fetch, is_alive, require_space
from localllm.sources import Local, Progress, Remote, Silent, Source, parse_name
from localllm.store import (
    Stored,
    find_stored,
    full_name,
    models_folder,
    read_manifest,
    write_manifest,
)

LOCK_POLL_SECONDS = 0.1
MAGIC = b"GGUF"


@dataclass(frozen=True)
class Pulled:
    model: Stored
    was_here: bool


@dataclass(frozen=True)
class Request:
    """What a name asks for: where to look for it, and what the catalog knows beforehand."""

    name: str
    sources: tuple[Source, ...]
    file: str | None = None
    licence: str | None = None
    expected: Expected = field(default_factory=Expected)


def pull_model(
    name: str,
    *,
    offline: bool = False,
    source: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Brings a model here unless it is, from its first source that can be reached.

    Raises NetworkError where none can, or where it is not here and `offline` is True.
    """
    progress = progress if progress is not None else Silent()
    local = Local.parse(name)
    if local is not None:
        return Pulled(describe_local(local), was_here=True)
    request = make_request(name, source)
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, request.name, progress):
        stored = find_stored(name)
        if stored is not None:
            return Pulled(stored, was_here=True)
        if offline:
            raise NetworkError(
                f"{request.name} is not on this machine, and --offline forbids to fetch it"
            )
        with work_folder(folder) as work:
            return Pulled(fetch_from_any(request, folder, work, progress), was_here=False)


def describe_local(local: Local) -> Stored:
    remote = local.find(models_folder(), Silent())
    require_readable(local.path, remote.origin, Silent())
    path = remote.here or local.path
    return Stored(remote.name, path, remote.n_bytes or 0, source=local.kind, origin=remote.origin)


def make_request(name: str, only: str | None) -> Request:
    """The sources of a name, or the one of them that was chosen."""
    spelled = parse_name(name)
    if spelled is not None:
        request = Request(spelled.name, (spelled,))
    else:
        known = full_name(name)
        entry = catalog.read().get(known)
        if entry is None:
            return Request(known, ())
        request = Request(
            entry.name,
            entry.sources,
            entry.file,
            entry.licence,
            Expected(entry.sha256, entry.n_bytes),
        )
    if only is None:
        return request
    chosen = tuple(source for source in request.sources if source.kind == only)
    if not chosen:
        kinds = ", ".join(source.kind for source in request.sources)
        raise UsageError(f"{request.name} has no source {only!r}; it has {kinds}")
    return replace(request, sources=chosen)


def fetch_from_any(request: Request, folder: Path, work: Path, progress: Progress) -> Stored:
    """Tries the sources in order; only one that cannot be reached lets the next one try."""
    failures: list[NetworkError] = []
    for source in request.sources:
        if failures:
            progress.note(f"{failures[-1]}; trying {source.kind}")
        try:
            return fetch_from(source, request, folder, work, progress)
        except NetworkError as error:
            failures.append(error)
        finally:
            progress.finish()
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(str(failure) for failure in failures)
    raise NetworkError(f"no source of {request.name} could be reached: {reasons}")


def fetch_from(
    source: Source, request: Request, folder: Path, work: Path, progress: Progress
) -> Stored:
    if request.expected.n_bytes is not None:
        require_space(folder, request.expected.n_bytes * source.copies)
    remote = source.find(work, progress)
    expected = merge_expected(request, remote)
    name = request.name if request.file else remote.name
    path = folder / free_name(folder, request.file or remote.file_name, name)
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def describe(fetched: Fetched) -> Stored:
        return Stored(
            name=name,
            path=path,
            n_bytes=fetched.n_bytes,
            sha256=fetched.sha256,
            verified=fetched.verified,
            licence=request.licence or remote.licence,
            source=source.kind,
            origin=remote.origin,
            revision=remote.revision,
            pulled_at=now,
        )

    def accept(part: Path, fetched: Fetched) -> None:
        require_readable(part, remote.origin, progress)
        write_manifest(describe(fetched))

    return describe(fetch(remote, path, expected, progress, accept))


def merge_expected(request: Request, remote: Remote) -> Expected:
    """The catalog's word and the source's; where both have one they must agree."""
    for ours, theirs in (
        (request.expected.sha256, remote.sha256),
        (request.expected.n_bytes, remote.n_bytes),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            raise IntegrityError(
                f"{remote.origin} is {theirs} now, but the catalog knows {ours}",
                f"localllm pull {request.name} --source, with another source",
            )
    return Expected(
        request.expected.sha256 or remote.sha256, request.expected.n_bytes or remote.n_bytes
    )


def free_name(folder: Path, file: str, name: str) -> str:
    """The file's name, with a mark where another model has it already."""
    path = folder / file
    owner = read_manifest(path)
    if owner.name == name if owner else not path.exists():
        return file
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{path.stem}-{mark}{path.suffix}"


def require_magic(path: Path, origin: str) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(MAGIC):
        is_page = re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE)
        raise IntegrityError(f"{origin} is {'a web page, ' if is_page else ''}not a GGUF file")


def require_readable(path: Path, origin: str, progress: Progress) -> None:
    """Opens a file as the engine will. One that is sound but asks for what this engine does not
    have is kept, since other programs may run it."""
    require_magic(path, origin)
    try:
        engines.open_model(path).close()
    except IntegrityError as error:
        if getattr(error.__cause__, "code", None) != "unsupported":
            raise IntegrityError(f"{origin} is not a usable GGUF file: {error}") from error
        progress.note(f"kept, but this engine cannot run it: {error}")


@contextmanager
def lock(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Lets one process at a time bring a model here; it frees itself when its holder dies."""
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:100]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    with (folder / f".{plain}-{digest}.lock").open("w") as file:
        waiting = False
        while not try_lock(file.fileno()):
            if not waiting:
                progress.note(f"another process is fetching {name}; waiting for it")
                waiting = True
            time.sleep(LOCK_POLL_SECONDS)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks; fetch.py is right without them, only wasteful.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder for what a source must put down meanwhile; those of dead processes go."""
    for path in folder.glob(".work-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and int(owner) != os.getpid() and not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
