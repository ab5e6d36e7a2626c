"""Prompt prefixes on the disk: what was computed once is never computed again, by any process.

KV is saved block by block, each block of tokens a file. Its name is a hash of everything that leads
to it: the model, the arithmetic, and all tokens up to its end. So equal beginnings are the same
files whoever wrote them, nothing refers to anything, and no process needs to know of another. A
file appears whole, says what it is, and carries a checksum; one that is damaged is removed and
computed again. Since every path of the engine computes the same bits, an answer from saved KV is
the same answer. Files are read, not mapped: one that somebody shortens meanwhile is an error then,
not the end of the process, and reading takes a hundredth of computing.

Prompts are private: folders have mode 0700 and files 0600. The least recently used go first when
all take more than 2 GiB or a tenth of the free disk.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import itertools
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

from localllm.folders import caches_folder
from localllm.models.sources.split import model_files
from localllm.models.store import read_manifest

if TYPE_CHECKING:
    from localllm.engines.base import Blocks, ModelFile, Session

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


def fingerprint(file: ModelFile, blocks: Blocks) -> bytes:
    """A hash of all that K and V depend on beside the tokens. Raises: OSError."""
    settings = [*blocks.identity, identity(file)]
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


def keys_of(first: bytes, ids: Sequence[int], n_tokens: int) -> list[bytes]:
    """The key of every whole block of n_tokens: a hash of the one before it, or of `first`, and of
    its tokens."""
    keys = []
    key = first
    for start in range(0, len(ids) - n_tokens + 1, n_tokens):
        tokens = array("i", ids[start : start + n_tokens])
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
class SavedBlock:
    """One file of the cache."""

    path: Path
    n_bytes: int
    used_at: int  # nanoseconds since the epoch


def walk(folder: Path) -> Iterator[SavedBlock]:
    """All blocks, and what dead processes left of some, one at a time: there may be thousands."""
    with contextlib.suppress(OSError), os.scandir(folder) as models:
        for model in models:
            with contextlib.suppress(OSError), os.scandir(model) as files:
                for file in files:
                    if file.name.endswith(SUFFIX) or file.name.startswith("."):
                        with contextlib.suppress(OSError):
                            status = file.stat(follow_symlinks=False)
                            yield SavedBlock(Path(file), status.st_size, status.st_mtime_ns)


def age(block: SavedBlock) -> tuple[int, Path]:
    """Sorts the least recently used first."""
    return block.used_at, block.path


def saved_blocks(folder: Path) -> list[SavedBlock]:
    """All of them, the least recently used first."""
    return sorted(walk(folder), key=age)


def held_bytes(folder: Path) -> int:
    return sum(block.n_bytes for block in walk(folder))


def model_of(folder: Path) -> str:
    """The file whose prefixes a folder of the cache holds."""
    try:
        return (folder / ABOUT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "unknown"


def clear(folder: Path) -> int:
    """Removes every file of the cache; returns their bytes. Raises: OSError."""
    blocks = saved_blocks(folder)
    for block in blocks:
        block.path.unlink(missing_ok=True)
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            (path / ABOUT).unlink(missing_ok=True)
            path.rmdir()
    return sum(block.n_bytes for block in blocks)


def make_room(folder: Path, most_bytes: int) -> None:
    """Removes what was not used for longest until all is at most that much."""
    total, removed = held_bytes(folder), 1
    while total > most_bytes and removed:
        removed = 0
        for block in heapq.nsmallest(OLDEST, walk(folder), key=age):
            if total <= most_bytes:
                return
            with contextlib.suppress(OSError):
                block.path.unlink()
                total, removed = total - block.n_bytes, removed + 1


# ---- one model's prefixes ------------------------------------------------------------------------


class Prefixes:
    """The prefixes of one model. Failures are said once and never end an answer."""

    def __init__(self, file: ModelFile, blocks: Blocks, note: Note) -> None:
        self.folder = cache_folder()
        self.blocks = blocks
        self.note = note
        self.said: set[str] = set()
        self.file = file

    @functools.cached_property
    def first(self) -> bytes:
        """The key before the first block. Short prompts never ask for it."""
        return fingerprint(self.file, self.blocks)

    @property
    def model_folder(self) -> Path:
        return self.folder / self.first.hex()[:16]

    def path(self, key: bytes) -> Path:
        return self.model_folder / f"{key.hex()[:40]}{SUFFIX}"

    def begin(self, session: Session, ids: Sequence[int]) -> Writing:
        """Adds to a session that holds a beginning of a prompt what is known of the rest, always
        leaving one token to be computed. What is not saved yet is the writing's."""
        keys = keys_of(self.first, ids, self.blocks.n_tokens) if len(ids) >= LEAST_TOKENS else []
        return Writing(self, session, keys, self.extend(session, ids, keys))

    def extend(self, session: Session, ids: Sequence[int], keys: Sequence[bytes]) -> list[Path]:
        """Adds the blocks that are known; returns their files."""
        n_tokens = self.blocks.n_tokens
        usable = keys[: (len(ids) - 1) // n_tokens]
        n_known = sum(1 for _ in itertools.takewhile(lambda key: self.path(key).exists(), usable))
        if n_known * n_tokens < max(LEAST_TOKENS, session.n_tokens + 1):
            return []
        n_held = session.truncate(session.n_tokens // n_tokens * n_tokens)
        wanted = usable[n_held // n_tokens : n_known]
        loaded = itertools.takewhile(lambda key: self.load(session, key, ids), wanted)
        return [self.path(key) for key in loaded]

    def load(self, session: Session, key: bytes, ids: Sequence[int]) -> bool:
        path, n_held = self.path(key), session.n_tokens
        try:
            kv = read_block(path, key, self.blocks.n_bytes)
            self.blocks.put(session, ids[n_held : n_held + self.blocks.n_tokens], kv)
        except DamagedError:
            self.say("a kept prefix is damaged; it is computed again")
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError:
            return False  # another process made room
        return True

    def make_folders(self) -> None:
        """Raises: OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.model_folder.mkdir(mode=0o700, exist_ok=True)
        (self.model_folder / ABOUT).write_text(self.file.path.name, encoding="utf-8")

    def make_room(self) -> None:
        """Raises: OSError."""
        make_room(self.folder, self.most_bytes())

    def most_bytes(self) -> int:
        """What the cache may take: of the disk as it would be without it."""
        held = held_bytes(self.folder)
        free = shutil.disk_usage(self.folder).free
        return min(MOST_BYTES, (free + held) // FREE_SHARE)

    def say(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.note(text)


class Writing:
    """What is not on the disk yet of one session's prompt. Only one block is in memory at a time.

    used: the files that its session took blocks from; written ones join them.
    """

    def __init__(
        self, prefixes: Prefixes, session: Session, keys: Sequence[bytes], used: list[Path]
    ) -> None:
        self.prefixes = prefixes
        self.session = session
        self.keys = keys  # of all the prompt's blocks; none once the disk takes no more
        self.used = used
        self.next_block = 0  # the first that waits
        self.n_written = 0

    def some(self) -> bool:
        """Writes one block of what waits and the session has; whether there was one, and the disk
        took it."""
        prefixes, blocks = self.prefixes, self.prefixes.blocks
        n_ready = min(len(self.keys), self.session.n_tokens // blocks.n_tokens)
        while self.next_block < n_ready:
            i, self.next_block = self.next_block, self.next_block + 1
            path = prefixes.path(self.keys[i])
            if path.exists():
                continue
            kv = blocks.get(self.session, i)
            if len(kv) < blocks.n_bytes:
                continue  # layers with a window have given their part back
            return self.write(path, self.keys[i], kv)
        return False

    def write(self, path: Path, key: bytes, kv: bytes) -> bool:
        try:
            if not self.n_written:
                self.prefixes.make_folders()
            write_block(path, key, kv)
        except OSError as error:
            self.keys = []
            self.prefixes.say(f"prefixes are not kept: {error.strerror or error}")
            return False
        self.used.append(path)
        self.n_written += 1
        return True

    def catch_up(self) -> None:
        """Between steps of the prompt: writes all that the session has, where layers with a window
        would give it back."""
        if self.prefixes.blocks.gives_back:
            while self.some():
                pass

    def close(self) -> None:
        """Writes the rest, and makes room where it is too much."""
        while self.some():
            pass
        if self.n_written:
            try:
                self.prefixes.make_room()
            except OSError as error:
                self.prefixes.say(f"prefixes are not kept: {error.strerror or error}")
        # Later blocks are of no use without earlier ones: those must be the last to go.
        now = time.time_ns()
        for i, path in enumerate(self.used):
            with contextlib.suppress(OSError):
                os.utime(path, ns=(now - i, now - i))
