"""Importance matrices on disk: llama.cpp's GGUF form both ways, and its older .dat form to read.

Of every matrix: the sums of the squares of its inputs, column by column, and how many inputs are
in them. With experts there is one row of sums and one count an expert. A quantizer wants means.
The GGUF is read here, not by the engine, because it holds no model; every length is checked
against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from localllm.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
F32 = 0  # ggml's number of the type
U32, STRING, ARRAY = 4, 8, 9  # GGUF's numbers of metadata types
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
SUMS, COUNTS = ".in_sum2", ".counts"
MAX_NAME_BYTES = 1 << 16
DEFAULT_CHUNK = 512  # tokens a chunk of a .dat file stands for, which does not say


@dataclass
class Sums:
    """Of one matrix: float32 squares [n_mat, n_columns], and float32 counts [n_mat or 1]."""

    squares: NDArray[np.float32]
    counts: NDArray[np.float32]


@dataclass
class Importance:
    """A whole matrix file. n_chunks of chunk_tokens tokens went into it."""

    sums: dict[str, Sums] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    n_chunks: int = 0
    chunk_tokens: int = DEFAULT_CHUNK

    def means(self) -> dict[str, NDArray[np.float32]]:
        """Mean squares, flat [n_mat * n_columns]; ones where an expert has met no input."""
        return {name: mean(entry) for name, entry in self.sums.items()}


def mean(entry: Sums) -> NDArray[np.float32]:
    counts = np.broadcast_to(entry.counts.reshape(-1, 1), (len(entry.squares), 1))
    seen = counts > 0
    ratio = entry.squares / np.where(seen, counts, 1)
    return np.where(seen, ratio, 1).astype(np.float32).ravel()


def read(path: Path) -> dict[str, NDArray[np.float32]]:
    """The mean square of each input column, by the matrix's name: float32 [n_mat * n_columns].

    Raises: IntegrityError, OSError. Both forms are recognised by their first bytes.
    """
    return load(path).means()


def load(path: Path) -> Importance:
    """The sums and counts of a file of either form. Raises: IntegrityError, OSError."""
    data = path.read_bytes()
    parse = parse_gguf if data[:4] == MAGIC else parse_legacy
    try:
        importance = parse(Cursor(data))
    except IntegrityError as error:
        raise IntegrityError(f"{os.fspath(path)!r} is no importance matrix: {error}") from error
    for name, entry in importance.sums.items():
        finite = np.isfinite(entry.squares).all() and np.isfinite(entry.counts).all()
        if not finite or (entry.squares < 0).any() or (entry.counts < 0).any():
            raise IntegrityError(f"{os.fspath(path)!r}: {name} has values no squares can have")
    return importance


def merge(parts: Sequence[Importance]) -> Importance:
    """Sums and counts added; a matrix may be missing from some. Raises: UsageError."""
    merged = Importance(chunk_tokens=parts[0].chunk_tokens if parts else DEFAULT_CHUNK)
    for part in parts:
        merged.n_chunks += part.n_chunks
        merged.datasets += [name for name in part.datasets if name not in merged.datasets]
        for name, entry in part.sums.items():
            known = merged.sums.get(name)
            if known is None:
                merged.sums[name] = Sums(entry.squares.copy(), entry.counts.copy())
            elif (known.squares.shape, known.counts.shape) != (
                entry.squares.shape,
                entry.counts.shape,
            ):
                raise UsageError(f"the files are of different models: {name} differs in shape")
            else:
                known.squares = known.squares + entry.squares
                known.counts = known.counts + entry.counts
    return merged


# ---- reading -----------------------------------------------------------------------------------


class Cursor:
    """A place in a file's bytes that never leaves them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n_bytes: int) -> bytes:
        left = len(self.data) - self.at
        if n_bytes < 0 or n_bytes > left:
            raise IntegrityError(f"{n_bytes} bytes expected at {self.at}, but {left} are left")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, length_code: str) -> str:
        n_bytes = self.number(length_code)
        if n_bytes > MAX_NAME_BYTES:
            raise IntegrityError(f"a name of {n_bytes} bytes at {self.at}")
        try:
            return self.take(n_bytes).decode()
        except UnicodeDecodeError as error:
            raise IntegrityError(f"a name that is not UTF-8 before {self.at}") from error

    def floats(self, n: int) -> NDArray[np.float32]:
        return np.frombuffer(self.take(4 * n), dtype="<f4").astype(np.float32)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text("Q")
        if kind == ARRAY:
            element, n = self.number("I"), self.number("Q")
            if element == ARRAY or n > len(self.data) - self.at:
                raise IntegrityError(f"an array of {n} elements of type {element} at {self.at}")
            return [self.value(element) for _ in range(n)]
        if kind not in SCALARS:
            raise IntegrityError(f"a value of unknown type {kind} at {self.at}")
        return self.number(SCALARS[kind])


def parse_gguf(cursor: Cursor) -> Importance:
    cursor.take(len(MAGIC))
    version, n_tensors, n_meta = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in (2, 3):
        raise IntegrityError(f"GGUF version {version}, expected 2 or 3")
    if max(n_tensors, n_meta) > len(cursor.data):
        raise IntegrityError(
            f"{n_tensors} tensors and {n_meta} entries in {len(cursor.data)} bytes"
        )
    meta: dict[str, Any] = {}
    for _ in range(n_meta):
        key = cursor.text("Q")
        meta[key] = cursor.value(cursor.number("I"))
    if meta.get("general.type") != "imatrix":
        raise IntegrityError(f"general.type is {meta.get('general.type')!r}, expected 'imatrix'")
    tensors = read_tensors(cursor, n_tensors, meta.get("general.alignment", ALIGNMENT))
    return Importance(
        pair_tensors(tensors),
        setting(meta, "imatrix.datasets", list),
        setting(meta, "imatrix.chunk_count", int),
        setting(meta, "imatrix.chunk_size", int),
    )


def setting(meta: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(meta.get(key), kind):
        raise IntegrityError(f"{key} is {meta.get(key)!r}, expected {kind.__name__}")
    return meta[key]


def read_tensors(cursor: Cursor, n: int, alignment: object) -> dict[str, NDArray[np.float32]]:
    """Each tensor as [rows, row length]."""
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise IntegrityError(f"general.alignment is {alignment!r}, expected a power of two")
    places: dict[str, tuple[list[int], int]] = {}
    for _ in range(n):
        name, n_dims = cursor.text("Q"), cursor.number("I")
        if not 1 <= n_dims <= 4:
            raise IntegrityError(f"{name} has {n_dims} dimensions, expected 1 to 4")
        shape = [cursor.number("Q") for _ in range(n_dims)]
        kind, offset = cursor.number("I"), cursor.number("Q")
        if kind != F32 or name in places or 0 in shape:
            raise IntegrityError(f"{name} is of type {kind} and shape {shape}, or there twice")
        places[name] = (shape, offset)
    start = (cursor.at + alignment - 1) // alignment * alignment
    tensors = {}
    for name, (shape, offset) in places.items():
        n_values = 1
        for length in shape:
            n_values *= length
        cursor.at = min(start + offset, len(cursor.data))
        tensors[name] = cursor.floats(n_values).reshape(-1, shape[0])
    return tensors


def pair_tensors(tensors: dict[str, NDArray[np.float32]]) -> dict[str, Sums]:
    names = {name.removesuffix(SUMS).removesuffix(COUNTS): None for name in tensors}
    paired = {}
    for name in names:
        squares, counts = tensors.get(name + SUMS), tensors.get(name + COUNTS)
        if squares is None or counts is None:
            raise IntegrityError(f"{name} lacks its {SUMS} or its {COUNTS}")
        if counts.size not in (1, len(squares)):
            raise IntegrityError(f"{name} has {counts.size} counts for {len(squares)} rows")
        paired[name] = Sums(squares, np.rint(counts).ravel())
    return paired


def parse_legacy(cursor: Cursor) -> Importance:
    """A .dat holds means times the number of chunks; they become sums over that many tokens."""
    n_entries = cursor.number("i")
    if n_entries < 1 or n_entries > len(cursor.data):
        raise IntegrityError(f"{n_entries} entries in {len(cursor.data)} bytes")
    found = Importance()
    for _ in range(n_entries):
        name, n_calls, n = cursor.text("I"), cursor.number("i"), cursor.number("i")
        if n < 1 or not name or name in found.sums:
            raise IntegrityError(f"entry {name!r} has {n} values, or is there twice")
        values, calls = cursor.floats(n), max(n_calls, 1)
        count = np.array([calls * DEFAULT_CHUNK], dtype=np.float32)
        found.sums[name] = Sums(values.reshape(1, -1) * np.float32(DEFAULT_CHUNK), count)
        found.n_chunks = max(found.n_chunks, calls)
    if cursor.at < len(cursor.data):
        found.n_chunks = max(cursor.number("i"), 0)
        found.datasets = [cursor.text("i")]
    return found


# ---- writing -----------------------------------------------------------------------------------


def write(path: Path, importance: Importance) -> None:
    """Writes llama.cpp's GGUF form, whole or not at all. Raises: OSError."""
    tensors: list[tuple[str, tuple[int, int], NDArray[np.float32]]] = []
    for name in sorted(importance.sums):
        entry = importance.sums[name]
        n_mat, n_columns = entry.squares.shape
        tensors.append((name + SUMS, (n_columns, n_mat), entry.squares))
        tensors.append((name + COUNTS, (1, entry.counts.size), entry.counts))
    meta = [
        string("general.type") + struct.pack("<I", STRING) + string("imatrix"),
        string("imatrix.datasets")
        + struct.pack("<IIQ", ARRAY, STRING, len(importance.datasets))
        + b"".join(map(string, importance.datasets)),
        string("imatrix.chunk_count") + struct.pack("<II", U32, importance.n_chunks),
        string("imatrix.chunk_size") + struct.pack("<II", U32, importance.chunk_tokens),
    ]
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(meta)), *meta]
    body: list[bytes] = []
    offset = 0
    for name, shape, values in tensors:
        head.append(string(name) + struct.pack("<IQQIQ", 2, *shape, F32, offset))
        body.append(padded(np.ascontiguousarray(values, dtype="<f4").tobytes()))
        offset += len(body[-1])
    replace(path, [padded(b"".join(head)), *body])


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


def replace(path: Path, parts: Iterable[bytes]) -> None:
    """Writes beside the destination and takes its place at the end."""
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
