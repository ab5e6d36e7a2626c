"""Safetensors files: the header read and checked, the weights left where they lie.

A file is the header's length in a u64, the header in JSON (name -> dtype, shape and the range of
its bytes behind the header), and the bytes. Source: the safetensors format's own description.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from localllm.convert.json_file import kind_of, parse_json
from localllm.errors import IntegrityError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as the format's own reader has it
NO_TENSOR = "__metadata__"

# Bytes of a value; what has less than one is told apart by other means.
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor in a file. shape: outermost first. offset: of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int
    file: Path
    fd: int


def header_end(path: Path) -> int:
    """Where the weights begin, by the first bytes of a file. Raises: OSError."""
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
    return LENGTH_BYTES + int.from_bytes(start, "little")


def read_header(path: Path, fd: int) -> dict[str, Stored]:
    """The tensors of an open file by name. Raises: OSError, IntegrityError."""
    file_bytes = os.fstat(fd).st_size
    start = os.pread(fd, LENGTH_BYTES, 0)
    header_bytes = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
    data_at = LENGTH_BYTES + header_bytes
    if not 2 <= header_bytes <= MAX_HEADER_BYTES or data_at > file_bytes:
        raise IntegrityError(
            f"{path.name} is no safetensors file: a header of {header_bytes} bytes in a file of "
            f"{file_bytes}"
        )
    header = parse_json(os.pread(fd, header_bytes, LENGTH_BYTES), f"the header of {path.name}")
    tensors = {
        name: read_entry(name, entry, path, fd, data_at, file_bytes)
        for name, entry in header.items()
        if name != NO_TENSOR
    }
    require_apart(tensors)
    return tensors


def read_entry(name: str, entry: Any, path: Path, fd: int, data_at: int, end: int) -> Stored:
    where = f"{path.name}: {name[:100]}"
    if not isinstance(entry, Mapping):
        raise IntegrityError(f"{where} is {kind_of(entry)}, expected an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str):
        raise IntegrityError(f"{where}: its dtype is {kind_of(dtype)}, expected a text")
    if not is_counts(shape) or len(shape) > 8:
        raise IntegrityError(f"{where}: its shape is {shape!r:.80}, expected a list of sizes")
    if not is_counts(offsets) or len(offsets) != 2:
        raise IntegrityError(f"{where}: its data_offsets are {offsets!r:.80}, expected two")
    begin, n_bytes = offsets[0], offsets[1] - offsets[0]
    if n_bytes < 0 or data_at + offsets[1] > end:
        raise IntegrityError(
            f"{where} lies at {begin} to {offsets[1]} of {end - data_at} bytes of weights"
        )
    if dtype in ITEM_BYTES and n_bytes != (expected := math.prod(shape) * ITEM_BYTES[dtype]):
        raise IntegrityError(
            f"{where} has {n_bytes} bytes, but {dtype} of shape {list(shape)} takes {expected}"
        )
    return Stored(name, dtype, tuple(shape), data_at + begin, n_bytes, path, fd)


def is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def require_apart(tensors: Mapping[str, Stored]) -> None:
    """Two tensors in the same bytes would be a mistake, or a trap."""
    ordered = sorted((t for t in tensors.values() if t.n_bytes), key=lambda t: t.offset)
    for left, right in pairwise(ordered):
        if left.offset + left.n_bytes > right.offset:
            raise IntegrityError(
                f"{left.file.name}: {left.name[:100]} and {right.name[:100]} overlap"
            )
