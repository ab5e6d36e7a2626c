"""Writes GGUF files byte by byte, valid ones and deliberately broken ones.

Nothing is checked here: counts, lengths, types and offsets are written as they are given, because
a reader is tested with what no honest writer would produce. `python gguf_files.py PATH` writes
`rich_file()`, the seed of the fuzzer.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class ValueType(IntEnum):
    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


PACKING = {
    ValueType.U8: "<B",
    ValueType.I8: "<b",
    ValueType.U16: "<H",
    ValueType.I16: "<h",
    ValueType.U32: "<I",
    ValueType.I32: "<i",
    ValueType.F32: "<f",
    ValueType.BOOL: "<?",
    ValueType.U64: "<Q",
    ValueType.I64: "<q",
    ValueType.F64: "<d",
}

# ggml's numbers of the tensor types that the tests use.
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12

# type -> (values per block, bytes per block)
BLOCKS = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), Q4_K: (256, 144)}

HEADER_BYTES = 24

Scalar = int | float | bool | str | bytes


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def scalar(kind: ValueType, value: Scalar) -> bytes:
    if kind is ValueType.STRING:
        assert isinstance(value, str | bytes)
        return string(value)
    return struct.pack(PACKING[kind], value)


def kv(key: str | bytes, kind: ValueType, value: Scalar) -> bytes:
    """One metadata entry with a scalar value."""
    return string(key) + u32(kind) + scalar(kind, value)


def kv_array(key: str | bytes, kind: ValueType, values: Sequence[Scalar]) -> bytes:
    """One metadata entry with an array value."""
    head = string(key) + u32(ValueType.ARRAY) + u32(kind) + u64(len(values))
    return head + b"".join(scalar(kind, v) for v in values)


@dataclass(frozen=True)
class Tensor:
    """`offset` None places the tensor after the one before it, padded to the alignment."""

    name: str | bytes
    shape: tuple[int, ...]
    ggml_type: int
    data: bytes
    offset: int | None = None

    def info(self, offset: int) -> bytes:
        dims = b"".join(u64(n) for n in self.shape)
        return string(self.name) + u32(len(self.shape)) + dims + u32(self.ggml_type) + u64(offset)


def filled(name: str, shape: tuple[int, ...], ggml_type: int) -> Tensor:
    """A tensor with as many bytes as its shape and type take, counting up from 0."""
    block_dim, block_bytes = BLOCKS[ggml_type]
    n = block_bytes * shape[0] // block_dim
    for dim in shape[1:]:
        n *= dim
    return Tensor(name, shape, ggml_type, bytes(i % 251 for i in range(n)))


def padding(n_bytes: int, alignment: int) -> bytes:
    return bytes(-n_bytes % alignment)


def build(
    entries: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_entries: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file. `entries` come from kv and kv_array; the counts may be made to lie, and
    `alignment` is only obeyed: the key that announces it is an entry like any other."""
    infos, data = bytearray(), bytearray()
    for tensor in tensors:
        data += padding(len(data), alignment)
        offset = len(data) if tensor.offset is None else tensor.offset
        infos += tensor.info(offset)
        data += tensor.data
    counts = u64(len(tensors) if n_tensors is None else n_tensors)
    counts += u64(len(entries) if n_entries is None else n_entries)
    header = magic + u32(version) + counts + b"".join(entries) + bytes(infos)
    return header + padding(len(header), alignment) + bytes(data) if tensors else header


def split_entries(no: int, count: int, n_tensors: int) -> list[bytes]:
    """What every file of a split model says of itself; `no` counts from 0."""
    return [
        kv("split.no", ValueType.U16, no),
        kv("split.count", ValueType.U16, count),
        kv("split.tensors.count", ValueType.I32, n_tensors),
    ]


def split_name(prefix: str, number: int, count: int) -> str:
    """A file's name as other programs write it; `number` counts from 1."""
    return f"{prefix}-{number:05d}-of-{count:05d}.gguf"


def rich_entries() -> list[bytes]:
    """Every value type once as a scalar and once as an array."""
    samples: dict[ValueType, list[Scalar]] = {
        ValueType.U8: [255, 0, 7],
        ValueType.I8: [-128, 127],
        ValueType.U16: [65535, 1],
        ValueType.I16: [-32768, 32767],
        ValueType.U32: [4294967295, 2],
        ValueType.I32: [-2147483648, 2147483647],
        ValueType.F32: [1.5, -0.25],
        ValueType.BOOL: [True, False, True],
        ValueType.STRING: ["héllo", "", "a\nb"],
        ValueType.U64: [2**64 - 1, 3],
        ValueType.I64: [-(2**63), 2**63 - 1],
        ValueType.F64: [1e300, -2.0],
    }
    entries = [kv("general.architecture", ValueType.STRING, "test")]
    for kind, values in samples.items():
        name = kind.name.lower()
        entries += [kv(f"one.{name}", kind, values[0]), kv_array(f"many.{name}", kind, values)]
    entries.append(kv_array("many.nothing", ValueType.STRING, []))
    return entries


def rich_tensors() -> list[Tensor]:
    return [
        filled("vector", (5,), F32),
        filled("matrix.weight", (64, 3), Q4_0),
        filled("experts.weight", (32, 2, 3), Q8_0),
        filled("four", (2, 2, 2, 2), F16),
        Tensor("future", (7,), 999, b"unknown"),
    ]


def rich_file(version: int = 3) -> bytes:
    """Every value type, one to four dimensions, and a tensor of a type nobody knows."""
    return build(rich_entries(), rich_tensors(), version=version)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(rich_file())
