"""The engine's GGUF reader through ctypes: what it returns as structures, its refusals raised."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf_files import PACKING, ValueType
from native_structs import Error, GgufTensor, Meta, String

OK, ARGUMENT, IO, FORMAT, UNSUPPORTED = range(5)  # ll_error_code


@dataclass(frozen=True)
class RefusedError(Exception):
    code: int
    offset: int
    message: str


class File:
    """An open gguf; every call raises RefusedError where C returns false."""

    def __init__(self, lib: ctypes.CDLL, handle: int) -> None:
        self.lib, self.handle = lib, handle

    def metas(self) -> list[Meta]:
        return [
            self.lib.gguf_meta(self.handle, i).contents
            for i in range(self.lib.gguf_n_meta(self.handle))
        ]

    def tensors(self) -> list[GgufTensor]:
        first = self.lib.gguf_tensors(self.handle)
        return [first[i] for i in range(self.lib.gguf_n_tensors(self.handle))]

    def find_key(self, key: str) -> Meta | None:
        found = self.lib.gguf_find_key(self.handle, key.encode())
        return found.contents if found else None

    def find_tensor(self, name: str) -> GgufTensor | None:
        found = self.lib.gguf_find_tensor(self.handle, name.encode())
        return found.contents if found else None

    def read(self, kind: str, key: str, default: object = None, at: int | None = None) -> object:
        """gguf_read_<kind>, or gguf_read_<kind>_at; `default` is what *out holds before."""
        out = READ_TYPES[kind]()
        if default is not None:
            out.value = default
        err = Error()
        name = key.encode()
        if at is None:
            read = getattr(self.lib, f"gguf_read_{kind}")
            done = read(self.handle, name, ctypes.byref(out), ctypes.byref(err))
        else:
            read = getattr(self.lib, f"gguf_read_{kind}_at")
            done = read(self.handle, name, at, ctypes.byref(out), ctypes.byref(err))
        if not done:
            raise refused(err)
        assert err.code == OK
        return out.value() if isinstance(out, String) else out.value


READ_TYPES: dict[str, type] = {
    "u32": ctypes.c_uint32,
    "i32": ctypes.c_int32,
    "f32": ctypes.c_float,
    "bool": ctypes.c_bool,
    "string": String,
}


def refused(err: Error) -> RefusedError:
    return RefusedError(err.code, err.offset, err.message.decode())


class Reader:
    """Opens files and bytes with the engine's reader."""

    def __init__(self, lib: ctypes.CDLL) -> None:
        self.lib = lib
        handle, err = ctypes.c_void_p, ctypes.POINTER(Error)
        meta, tensor = ctypes.POINTER(Meta), ctypes.POINTER(GgufTensor)
        u64_type = ctypes.c_uint64
        signatures: dict[str, tuple[object, list[object]]] = {
            "gguf_open": (handle, [ctypes.c_char_p, err]),
            "gguf_parse": (handle, [ctypes.c_void_p, ctypes.c_size_t, u64_type, err]),
            "gguf_close": (None, [handle]),
            "gguf_file_bytes": (u64_type, [handle]),
            "gguf_n_meta": (u64_type, [handle]),
            "gguf_meta": (meta, [handle, u64_type]),
            "gguf_n_tensors": (u64_type, [handle]),
            "gguf_tensors": (tensor, [handle]),
            "gguf_find_key": (meta, [handle, ctypes.c_char_p]),
            "gguf_find_tensor": (tensor, [handle, ctypes.c_char_p]),
            "gguf_next_string": (String, [ctypes.POINTER(ctypes.c_void_p)]),
            "gguf_f32_at": (ctypes.c_float, [meta, u64_type]),
            "gguf_i32_at": (ctypes.c_int32, [meta, u64_type]),
        }
        for kind, out in READ_TYPES.items():
            pointer: object = ctypes.POINTER(out)
            signatures[f"gguf_read_{kind}"] = (
                ctypes.c_bool,
                [handle, ctypes.c_char_p, pointer, err],
            )
            if kind in ("u32", "bool"):
                signatures[f"gguf_read_{kind}_at"] = (
                    ctypes.c_bool,
                    [handle, ctypes.c_char_p, u64_type, pointer, err],
                )
        for name, (restype, argtypes) in signatures.items():
            function = getattr(lib, name)
            function.restype = restype
            function.argtypes = argtypes

    @contextmanager
    def parse(
        self, data: bytes, *, given: int | None = None, file_bytes: int | None = None
    ) -> Iterator[File]:
        """The first `given` bytes of data as the beginning of a file of `file_bytes`."""
        buffer = data[:given]
        err = Error()
        handle = self.lib.gguf_parse(
            buffer,
            len(buffer),
            len(data) if file_bytes is None else file_bytes,
            ctypes.byref(err),
        )
        if not handle:
            raise refused(err)
        assert err.code == OK
        try:
            yield File(self.lib, handle)
        finally:
            self.lib.gguf_close(handle)

    @contextmanager
    def open(self, path: Path) -> Iterator[File]:
        err = Error()
        handle = self.lib.gguf_open(bytes(path), ctypes.byref(err))
        if not handle:
            raise refused(err)
        try:
            yield File(self.lib, handle)
        finally:
            self.lib.gguf_close(handle)

    def refusal(self, data: bytes) -> RefusedError:
        with pytest.raises(RefusedError) as caught, self.parse(data):
            pass
        return caught.value

    def values(self, meta: Meta) -> list[object]:
        """Every value of an entry, decoded in Python, strings through the engine's own walk."""
        if meta.element_type == ValueType.STRING:
            cursor = ctypes.c_void_p(meta.data)
            walked = [
                self.lib.gguf_next_string(ctypes.byref(cursor)).value()
                for _ in range(meta.n_elements)
            ]
            assert cursor.value == meta.data + meta.n_bytes
            return list(walked)
        raw = ctypes.string_at(meta.data, meta.n_bytes)
        packing = PACKING[ValueType(meta.element_type)]
        return [value for (value,) in struct.iter_unpack(packing, raw)]
