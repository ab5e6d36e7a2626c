"""One file from a source to the disk: all of it, checked, under its final name; or not at all.

Bytes go into a hidden partial file in the same folder, are hashed as they pass, and reach the disk
before the name does. The partial file's name holds the writer's process id and what identifies the
bytes: the next writer takes over what a dead one left, as long as it is the beginning of the same
file, and removes the rest. So nothing rests on the lock of the store alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from localllm.disk import require_space
from localllm.errors import IntegrityError, NetworkError
from localllm.models.sources import Body, Progress, Remote

ATTEMPTS = 4
BACKOFF_SECONDS = 0.5
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Expected:
    """What is known of the bytes before they come."""

    sha256: str | None = None
    n_bytes: int | None = None


@dataclass(frozen=True)
class Fetched:
    sha256: str
    n_bytes: int
    verified: bool
    """Whether the hash was known beforehand, so that it proves what the publisher meant."""


def download(
    remote: Remote,
    target: Path,
    expected: Expected,
    progress: Progress,
    accept: Callable[[Path, Fetched], None],
) -> Fetched:
    """Puts one file at `target`, once size and hash are right and accept(part, fetched) agrees.

    Raises NetworkError where it was cut off for good (what came is kept for the next attempt),
    IntegrityError where the bytes are wrong (they are removed), DoesNotFitError.
    """
    part = claim_part(target, remote.identity)
    try:
        sha256, n_bytes = receive(remote, part, expected, target.name, progress)
        progress.finish()
        if expected.sha256 and sha256 != expected.sha256:
            raise IntegrityError(
                f"{remote.origin} has sha256 {sha256}, but {expected.sha256} was expected; "
                "the file was removed"
            )
        fetched = Fetched(sha256, n_bytes, verified=expected.sha256 is not None)
        accept(part, fetched)
        part.replace(target)
        sync_folder(target.parent)
    except IntegrityError:
        part.unlink(missing_ok=True)
        raise
    except BaseException:
        if remote.identity is None:
            part.unlink(missing_ok=True)
        raise
    finally:
        progress.finish()
    return fetched


def receive(
    remote: Remote, part: Path, expected: Expected, label: str, progress: Progress
) -> tuple[str, int]:
    """Writes the whole file into `part`, going on after cuts; returns its sha256 and size."""
    with part.open("r+b" if part.exists() else "x+b") as file:
        digest = hash_start(file, expected.n_bytes)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
            done = file.tell()
            require_space(part.parent, (expected.n_bytes or 0) - done)
            progress.start(label, expected.n_bytes, done)
            try:
                if done != expected.n_bytes:
                    with remote.open(done) as body:
                        digest = write_body(body, file, digest, progress)
                require_size(remote, file.tell(), expected.n_bytes)
                break
            except NetworkError:
                if attempt == ATTEMPTS - 1:
                    raise
        file.flush()
        os.fsync(file.fileno())
        return digest.hexdigest(), file.tell()


def hash_start(file: BinaryIO, n_bytes: int | None) -> hashlib._Hash:
    """Hashes what an earlier attempt left, which cannot be longer than the whole."""
    digest = hashlib.sha256()
    if n_bytes is not None and os.fstat(file.fileno()).st_size > n_bytes:
        file.truncate(0)
    while chunk := file.read(READ_BYTES):
        digest.update(chunk)
    return digest


def write_body(
    body: Body, file: BinaryIO, digest: hashlib._Hash, progress: Progress
) -> hashlib._Hash:
    """Appends the stream, or starts the file again where the source could not resume."""
    if body.offset not in (0, file.tell()):
        raise NetworkError(f"bytes from {file.tell()} were asked for, {body.offset} came")
    if body.offset != file.tell():
        progress.advance(-file.tell())
        file.seek(0)
        file.truncate()
        digest = hashlib.sha256()
    for chunk in body.chunks:
        file.write(chunk)
        digest.update(chunk)
        progress.advance(len(chunk))
    return digest


def require_size(remote: Remote, n_bytes: int, expected: int | None) -> None:
    if expected is None or n_bytes == expected:
        return
    if n_bytes < expected:
        raise NetworkError(f"{remote.origin} was cut off at {n_bytes} of {expected} bytes")
    raise IntegrityError(f"{remote.origin} has {n_bytes} bytes, but {expected} were expected")


def claim_part(target: Path, identity: str | None) -> Path:
    """The partial file to write: what a dead writer left of the same bytes, or a new one."""
    key = hashlib.sha256(identity.encode()).hexdigest()[:16] if identity else "once"
    mine = target.with_name(f".{target.name}.part-{os.getpid()}-{key}")
    pattern = re.compile(re.escape(f".{target.name}.part-") + r"(\d+)-(\w+)")
    for path in sorted(target.parent.iterdir()):
        found = pattern.fullmatch(path.name)
        if found is None or path == mine or is_alive(int(found[1])):
            continue
        if found[2] == key and identity and not mine.exists():
            path.rename(mine)
        else:
            path.unlink(missing_ok=True)
    if identity is None:
        mine.unlink(missing_ok=True)
    return mine


def is_alive(process_id: int) -> bool:
    """Whether another process of this id runs."""
    if process_id == os.getpid():
        return False
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Makes the names of a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
