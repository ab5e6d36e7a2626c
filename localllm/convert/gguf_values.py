"""Values of GGUF metadata as they lie in a file: the type's number, then little-endian bytes.

The types' numbers stand here, though the gguf package has them, because `quantize` writes values
too and starts without it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from localllm.errors import IntegrityError

# GGUF's numbers of the types.
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def text(value: str) -> bytes:
    """A text as keys and names are stored, without its type. Raises: IntegrityError."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise IntegrityError(f"the text {value[:40]!r} holds half of a surrogate pair") from error
    return struct.pack("<Q", len(encoded)) + encoded


def u32(value: int) -> bytes:
    return struct.pack("<II", U32, value)


def f32(value: float) -> bytes:
    return struct.pack("<If", F32, value)


def flag(value: bool) -> bytes:
    return struct.pack("<I?", BOOL, value)


def string(value: str) -> bytes:
    return struct.pack("<I", STRING) + text(value)


def strings(values: Sequence[str]) -> bytes:
    packed = bytearray(struct.pack("<IIQ", ARRAY, STRING, len(values)))
    for value in values:
        packed += text(value)  # one by one: a list of them takes several times the bytes
    return bytes(packed)


def i32s(values: Sequence[int]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}i", ARRAY, I32, len(values), *values)


def f32s(values: Sequence[float]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}f", ARRAY, F32, len(values), *values)


def flags(values: Sequence[bool]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}?", ARRAY, BOOL, len(values), *values)
