"""Bringing a model here: its sources in order, one process at a time, checks at the end.

The sources find, download.py writes, pull_split.py and pull_checkpoint.py put together what comes
in several files; this file decides from which source. Nothing is kept that the engine calls
malformed.
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
from pathlib import Path

from localllm.disk import require_space
from localllm.errors import IntegrityError, NetworkError, UsageError
from localllm.models import catalog
from localllm.models.checks import require_readable
from localllm.models.download import Expected, Fetched, download, is_alive
from localllm.models.names import find_stored, full_name
from localllm.models.pull_checkpoint import download_checkpoint, pull_converted
from localllm.models.pull_split import pull_split
from localllm.models.sources import Local, Progress, Remote, Silent, Source, parse_name
from localllm.models.sources.hub import Hub
from localllm.models.sources.split import model_files
from localllm.models.store import Stored, free_name, models_folder, now, write_manifest
from localllm.units import format_bytes

LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Pulled:
    model: Stored
    was_here: bool


@dataclass(frozen=True)
class PullRequest:
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
    quant: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Brings a model here unless it is, from its first source that can be reached.

    quant: which of the files of hf:org/repo; made from its checkpoint where nobody published it.
    Raises NetworkError where no source can be reached, or where the model is not here and
    `offline` is True.
    """
    progress = progress if progress is not None else Silent()
    if quant is not None:
        name = with_quant(name, quant)
    local = Local.parse(name)
    if local is not None:
        return Pulled(describe_local(local), was_here=True)
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    request = make_request(name, source)
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


@contextmanager
def checkpoint_of(hub: Hub, progress: Progress) -> Iterator[Path]:
    """The folder with a repository's checkpoint, which goes when all went well; otherwise it stays,
    so that the next attempt need not fetch it again. Raises as pull_model."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, f"the checkpoint of {hub.name}", progress):
        remote = hub.find_checkpoint()
        size = format_bytes(remote.n_bytes) if remote.n_bytes else "of unknown size"
        progress.note(f"fetching the safetensors of {remote.origin} ({size})")
        checkpoint = download_checkpoint(remote, progress)
        yield checkpoint
        shutil.rmtree(checkpoint)


def with_quant(name: str, quant: str) -> str:
    """The name that asks for this quant of a repository."""
    hub = parse_name(name) if name.startswith("hf:") else None
    if not isinstance(hub, Hub):
        raise UsageError(f"--quant chooses among the files of hf:org/repo; {name!r} is one model")
    if hub.quant and hub.quant != quant.upper():
        raise UsageError(f"{name!r} names another quant than --quant {quant}")
    return Hub.parse(f"hf:{hub.repo}:{quant}").name


def describe_local(local: Local) -> Stored:
    remote = local.find(models_folder(), Silent())
    require_readable(local.path, remote.origin, Silent())
    path = remote.here or local.path
    n_bytes = sum(file.stat().st_size for file in model_files(path) if file.is_file())
    return Stored(remote.name, path, n_bytes, source=local.kind, origin=remote.origin)


def make_request(name: str, only: str | None) -> PullRequest:
    """The sources of a name, or the one of them that was chosen."""
    spelled = parse_name(name)
    if spelled is not None:
        request = PullRequest(spelled.name, (spelled,))
    else:
        known = full_name(name)
        entry = catalog.read().get(known)
        if entry is None:
            return PullRequest(known, ())
        request = PullRequest(
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


def fetch_from_any(request: PullRequest, folder: Path, work: Path, progress: Progress) -> Stored:
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
    source: Source, request: PullRequest, folder: Path, work: Path, progress: Progress
) -> Stored:
    if request.expected.n_bytes is not None:
        require_space(folder, request.expected.n_bytes * source.copies)
    remote = source.find(work, progress)
    if remote.convert_to:
        return pull_converted(remote, source.kind, folder, work, progress)
    if remote.parts:
        return pull_split(remote, source.kind, folder, progress)
    expected = merge_expected(request, remote)
    name = request.name if request.file else remote.name
    path = folder / free_name(folder, request.file or remote.file_name, name)
    pulled_at = now()

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
            pulled_at=pulled_at,
        )

    def accept(part: Path, fetched: Fetched) -> None:
        require_readable(part, remote.origin, progress)
        write_manifest(describe(fetched))

    return describe(download(remote, path, expected, progress, accept))


def merge_expected(request: PullRequest, remote: Remote) -> Expected:
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
        # Some network file systems have no locks; download.py is right without them, only wasteful.
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
