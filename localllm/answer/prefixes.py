"""Prompt prefixes on the disk: what was computed once is never computed again, by any process.

KV is kept block by block, each block of tokens a file. Its name is a hash of everything that leads
to it: the model, the arithmetic, and all tokens up to its end. So equal beginnings are the same
files whoever wrote them, nothing refers to anything, and no process needs to know of another. A
file appears whole, says what it is, and carries a checksum; one that is damaged is removed and
computed again. Since every path of the engine computes the same bits, an answer from kept KV is the
same answer. Files are read, not mapped: one that somebody shortens meanwhile is an error then, not
the end of the process, and reading takes a hundredth of computing.

Prompts are private: folders have mode 0700 and files 0600. The least recently used go first when
all take more than 2 GiB or a tenth of the free disk.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import json
import os
import shutil
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.engines.native import kv_format
from localllm.folders import caches_folder
from localllm.models.sources.split import model_files
from localllm.models.store import read_manifest

if TYPE_CHECKING:
    from localllm.engines.base import Engine, ModelFile, Session

_, BLOCK_TOKENS = kv_format()

LEAST_TOKENS = 256  # shorter prefixes are computed as fast as they are found
MOST_BYTES = 2 << 30
OLDEST = 64  # files that are looked up at once to be removed
FREE_SHARE = 10  # all of it is at most this part of the free disk

SUFFIX = ".kv"
ABOUT = "model"  # a file beside the blocks that says whose they are, for people
MAGIC = b"llkv\1\0\0\0"
HEADER = struct.Struct("<8s32sIQ")  # magic, key, CRC-32 and length of the KV behind it

Note = Callable[[str], None]


def cache_folder() -> Path:
    return caches_folder() / "prefixes"


# ---- keys ----------------------------------------------------------------------------------------


def fingerprint(file: ModelFile, engine: Engine) -> bytes:
    """A hash of all that K and V depend on beside the tokens. Raises: OSError."""
    settings = [engine.arithmetic, BLOCK_TOKENS, engine.kv_k, engine.kv_v, identity(file)]
    return hashlib.sha256(json.dumps(settings).encode()).digest()


def identity(file: ModelFile) -> list[object]:
    """What tells one model from another: the hashes of its files where a manifest has them, else
    each header's hash with the file's size and time."""
    manifest = read_manifest(file.path)
    if manifest is not None:
        hashes = [part.sha256 for part in manifest.parts] or [manifest.sha256]
        if all(hashes) and manifest.n_bytes == sum(p.stat().st_size for p in manifest.paths):
            return list(hashes)
    begins: dict[int, int] = {}
    for tensor in file.tensors():
        begins[tensor.file] = min(begins.get(tensor.file, tensor.offset), tensor.offset)
    found: list[object] = []
    for i, path in enumerate(model_files(file.path)):
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            header = hashlib.sha256(opened.read(begins.get(i, status.st_size))).hexdigest()
        found += [header, status.st_size, status.st_mtime_ns]
    return found


def keys_of(first: bytes, ids: Sequence[int]) -> list[bytes]:
    """The key of every whole block of `ids`: a hash of the one before it and of its tokens."""
    keys = []
    key = first
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        tokens = array("i", ids[start : start + BLOCK_TOKENS])
        key = hashlib.sha256(key + tokens.tobytes()).digest()
        keys.append(key)
    return keys


# ---- files ---------------------------------------------------------------------------------------


class DamagedError(Exception):
    """A file that does not hold what its name says."""


def read_block(path: Path, key: bytes, block_bytes: int) -> bytes:
    """The KV in a file. Raises: OSError, DamagedError."""
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise DamagedError
        magic, own_key, checksum, n_bytes = HEADER.unpack(head)
        if magic != MAGIC or own_key != key or n_bytes != block_bytes:
            raise DamagedError
        kv = file.read(block_bytes + 1)
    if len(kv) != block_bytes or zlib.crc32(kv) != checksum:
        raise DamagedError
    return kv


def write_block(path: Path, key: bytes, kv: bytes) -> None:
    """Writes a file that appears whole. Raises: OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(HEADER.pack(MAGIC, key, zlib.crc32(kv), len(kv)))
            file.write(kv)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Kept:
    """One file of the cache."""

    path: Path
    n_bytes: int
    used_at: int  # nanoseconds since the epoch


def walk(folder: Path) -> Iterator[Kept]:
    """All blocks, and what dead processes left of some, one at a time: there may be thousands."""
    with contextlib.suppress(OSError), os.scandir(folder) as models:
        for model in models:
            with contextlib.suppress(OSError), os.scandir(model) as files:
                for file in files:
                    if file.name.endswith(SUFFIX) or file.name.startswith("."):
                        with contextlib.suppress(OSError):
                            status = file.stat(follow_symlinks=False)
                            yield Kept(Path(file), status.st_size, status.st_mtime_ns)


def age(kept: Kept) -> tuple[int, Path]:
    """Sorts the least recently used first."""
    return kept.used_at, kept.path


def kept_files(folder: Path) -> list[Kept]:
    """All of them, the least recently used first."""
    return sorted(walk(folder), key=age)


def held_bytes(folder: Path) -> int:
    return sum(kept.n_bytes for kept in walk(folder))


def model_of(folder: Path) -> str:
    """The file whose prefixes a folder of the cache holds."""
    try:
        return (folder / ABOUT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "unknown"


def clear(folder: Path) -> int:
    """Removes every file of the cache; returns their bytes. Raises: OSError."""
    files = kept_files(folder)
    for kept in files:
        kept.path.unlink(missing_ok=True)
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            (path / ABOUT).unlink(missing_ok=True)
            path.rmdir()
    return sum(kept.n_bytes for kept in files)


def make_room(folder: Path, most_bytes: int) -> None:
    """Removes what was not used for longest until all is at most that much."""
    total, removed = held_bytes(folder), 1
    while total > most_bytes and removed:
        removed = 0
        for kept in heapq.nsmallest(OLDEST, walk(folder), key=age):
            if total <= most_bytes:
                return
            with contextlib.suppress(OSError):
                kept.path.unlink()
                total, removed = total - kept.n_bytes, removed + 1


# ---- one model's prefixes ------------------------------------------------------------------------


class Prefixes:
    """The prefixes of one model. Failures are said once and never end an answer.

    A run calls extend() and keep() before it feeds a prompt, keep_some() now and then while it
    answers, and finish() when it has. Only one block is in memory at a time.
    """

    def __init__(self, file: ModelFile, engine: Engine, note: Note) -> None:
        self.folder = cache_folder()
        self.engine = engine
        self.note = note
        self.said: set[str] = set()
        self.file = file
        self.session: Session | None = None  # whose blocks wait to be written
        self.keys: list[bytes] = []  # of all its blocks
        self.next_block = 0  # of those, the first that waits
        self.n_written = 0
        self.used: list[Path] = []

    @functools.cached_property
    def first(self) -> bytes:
        """The key before the first block. Short prompts never ask for it."""
        return fingerprint(self.file, self.engine)

    @property
    def model_folder(self) -> Path:
        return self.folder / self.first.hex()[:16]

    def path(self, key: bytes) -> Path:
        return self.model_folder / f"{key.hex()[:40]}{SUFFIX}"

    def extend(self, session: Session, ids: Sequence[int], n_held: int) -> int:
        """Adds to a session that holds ids[:n_held] what is known of the rest, always leaving one
        token to be computed; returns how many tokens it holds."""
        if len(ids) <= LEAST_TOKENS:
            return n_held
        keys = keys_of(self.first, ids[:-1])
        n_known = 0
        for key in keys:
            if not self.path(key).exists():
                break
            n_known += 1
        if n_known * BLOCK_TOKENS < max(LEAST_TOKENS, n_held + 1):
            return n_held
        session.truncate(n_held // BLOCK_TOKENS * BLOCK_TOKENS)
        for key in keys[session.n_tokens // BLOCK_TOKENS : n_known]:
            if not self.load(session, key, ids):
                break
        return session.n_tokens

    def load(self, session: Session, key: bytes, ids: Sequence[int]) -> bool:
        path, n_held = self.path(key), session.n_tokens
        try:
            kv = read_block(path, key, self.engine.block_bytes)
            session.put_block(ids[n_held : n_held + BLOCK_TOKENS], kv)
        except DamagedError:
            self.say("a kept prefix is damaged; it is computed again")
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError:
            return False  # another process made room
        self.used.append(path)
        return True

    def keep(self, session: Session, ids: Sequence[int]) -> None:
        """Remembers to write what is not kept yet of a prompt, as soon as the session has it."""
        if len(ids) >= LEAST_TOKENS:
            self.session, self.keys, self.next_block = session, keys_of(self.first, ids), 0

    def keep_some(self) -> None:
        """Writes one block of what waits."""
        self.write_next()

    def keep_up(self) -> None:
        """Writes all that waits and that the session has."""
        while self.write_next():
            pass

    def finish(self) -> None:
        """Writes all that waits, and makes room where it is too much."""
        self.keep_up()
        self.session = None
        if self.n_written:
            self.n_written = 0
            try:
                make_room(self.folder, self.most_bytes())
            except OSError as error:
                self.say(f"prefixes are not kept: {error.strerror or error}")
        # Later blocks are of no use without earlier ones: those must be the last to go.
        now = time.time_ns()
        for i, path in enumerate(self.used):
            with contextlib.suppress(OSError):
                os.utime(path, ns=(now - i, now - i))
        self.used.clear()

    def write_next(self) -> bool:
        """Whether there was a block to write, and the disk took it."""
        while self.session and self.next_block < self.session.n_tokens // BLOCK_TOKENS:
            if self.next_block == len(self.keys):
                break
            i, self.next_block = self.next_block, self.next_block + 1
            path = self.path(self.keys[i])
            if path.exists():
                continue
            kv = self.session.get_block(i)
            if len(kv) < self.engine.block_bytes:
                continue  # layers with a window have given their part back
            try:
                self.make_folders()
                write_block(path, self.keys[i], kv)
            except OSError as error:
                self.session = None
                self.say(f"prefixes are not kept: {error.strerror or error}")
                break
            self.used.append(path)
            self.n_written += 1
            return True
        return False

    def make_folders(self) -> None:
        """Raises: OSError."""
        if self.n_written:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.model_folder.mkdir(mode=0o700, exist_ok=True)
        (self.model_folder / ABOUT).write_text(self.file.path.name, encoding="utf-8")

    def most_bytes(self) -> int:
        """What the cache may take: of the disk as it would be without it."""
        held = held_bytes(self.folder)
        free = shutil.disk_usage(self.folder).free
        return min(MOST_BYTES, (free + held) // FREE_SHARE)

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.note(text)
