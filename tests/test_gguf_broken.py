"""The GGUF reader on broken files: each is refused with what was found and where, at once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import processor_time
import pytest
from gguf_files import (
    F32,
    Q4_K,
    Q8_0,
    Tensor,
    ValueType,
    build,
    filled,
    kv,
    kv_array,
    rich_entries,
    rich_tensors,
    string,
    u32,
    u64,
)
from gguf_reader import FORMAT, IO, UNSUPPORTED, Reader, RefusedError

U32, STRING, BOOL, ARRAY = ValueType.U32, ValueType.STRING, ValueType.BOOL, ValueType.ARRAY


@pytest.fixture(scope="module")
def reader(internals: ctypes.CDLL) -> Reader:
    return Reader(internals)


# ---- what is refused --------------------------------------------------------------------------

# The first entry's key length lies at 24, its key at 32; with a one-byte key its type is at 33.
# The first tensor of a file without entries: name length at 24, name at 32.
KEY, TYPE, VALUE = 32, 33, 37


def tensor_file(tensor: Tensor) -> bytes:
    return build([], [tensor])


def entry(raw: bytes) -> bytes:
    return build([raw])


TWO = [filled("a", (32,), F32), filled("b", (32,), F32)]
INFO_BYTES = len(TWO[0].info(0))
ALIGN_VALUE = 24 + len(string("general.alignment")) + 4


def alignment_file(raw: bytes) -> bytes:
    return entry(string("general.alignment") + raw)


@dataclass(frozen=True)
class Broken:
    name: str
    data: bytes
    code: int
    offset: int
    message: str


BROKEN = [
    Broken("empty", b"", FORMAT, 0, "the file is empty"),
    Broken("three bytes", b"GGU", FORMAT, 0, "ends within the letters GGUF"),
    Broken("magic", build(magic=b"GGUX"), FORMAT, 0, "begins with bytes 47 47 55 58"),
    Broken("web page", b"<!doctype html>", FORMAT, 0, "looks like a web page"),
    Broken("pointer", b"version https://example.org/v1\n", FORMAT, 0, "a Git LFS pointer"),
    Broken("checkpoint", b"PK\3\4 and more", FORMAT, 0, "a zip archive or a PyTorch checkpoint"),
    Broken("older", b"tjgg and more", FORMAT, 0, "older than GGUF"),
    Broken("version 0", build(version=0), FORMAT, 4, "version 0 does not exist"),
    Broken("version 1", build(version=1), UNSUPPORTED, 4, "version 1 is no longer read"),
    Broken("version 4", build(version=4), UNSUPPORTED, 4, "version 4 is newer"),
    Broken("big-endian", build(version=3 << 24), UNSUPPORTED, 4, "the file is big-endian"),
    Broken("no counts", build()[:20], FORMAT, 16, "within the number of metadata keys"),
    Broken("2^60 keys", build(n_entries=2**60), FORMAT, 24, "1152921504606846976 metadata keys"),
    Broken("negative keys", build(n_entries=2**64 - 1), FORMAT, 24, "at most 1048576"),
    Broken("keys absent", build(n_entries=9), FORMAT, 24, "within metadata keys: 126 bytes"),
    Broken("2^60 tensors", build(n_tensors=2**60), FORMAT, 24, "1152921504606846976 tensors"),
    Broken("tensors absent", build(n_tensors=9), FORMAT, 24, "within tensors: 297 bytes"),
    Broken("key length", entry(u64(60000) + bytes(20)), FORMAT, 32, "within a metadata key: 60000"),
    Broken("key cap", entry(string("k" * 65536) + u32(0) + b"1"), FORMAT, 24,
           "declared 65536 bytes long; at most 65535"),
    Broken("key length 2^64-1", entry(u64(2**64 - 1) + bytes(20)), FORMAT, 24, "at most 65535"),
    Broken("key empty", entry(kv("", U32, 1)), FORMAT, 32, "a metadata key is empty"),
    Broken("key NUL", entry(kv(b"a\0b", U32, 1)), FORMAT, 33, "holds byte 0x00"),
    Broken("key escape", entry(kv(b"\x1b[31m", U32, 1)), FORMAT, 32, "holds byte 0x1b"),
    Broken("key not ASCII", entry(kv(b"a\xff", U32, 1)), FORMAT, 33, "holds byte 0xff"),
    Broken("key twice", build([kv(k, U32, 1) for k in "cabca"]), FORMAT,
           32 + 4 * len(kv("a", U32, 1)), "metadata key 'a' occurs twice"),
    Broken("type 13", entry(string("a") + u32(13) + bytes(8)), FORMAT, TYPE,
           "key 'a' has value type 13; types are 0 to 12"),
    Broken("type 2^32-1", entry(string("a") + u32(2**32 - 1) + bytes(8)), FORMAT, TYPE,
           "value type 4294967295"),
    Broken("value cut", entry(kv("abc", ValueType.U64, 1)[:-1]), FORMAT, VALUE + 2,
           "within the value of key 'abc': 8 bytes are expected, 7 are left"),
    Broken("bool 2", entry(string("a") + u32(BOOL) + b"\2"), FORMAT, VALUE,
           "key 'a' holds 2 as a bool"),
    Broken("bool 255 in an array", entry(kv_array("a", BOOL, [True, False])[:-1] + b"\xff"), FORMAT,
           VALUE + 13, "key 'a' holds 255 as a bool"),
    Broken("string length", entry(string("a") + u32(STRING) + u64(100) + b"abc"), FORMAT,
           VALUE + 8, "within a string of key 'a': 100 bytes are expected, 3 are left"),
    Broken("string length 2^64-1", entry(string("a") + u32(STRING) + u64(2**64 - 1)), FORMAT,
           VALUE, "a string of key 'a' is declared 18446744073709551615 bytes long"),
    Broken("array of arrays", entry(string("a") + u32(ARRAY) + u32(ARRAY) + u64(0)), FORMAT,
           VALUE, "key 'a' is an array of arrays"),
    Broken("array type", entry(string("a") + u32(ARRAY) + u32(77) + u64(0)), FORMAT, VALUE,
           "value type 77"),
    Broken("array length 2^63", entry(string("a") + u32(ARRAY) + u32(U32) + u64(2**63)), FORMAT,
           VALUE + 4, "key 'a' declares 9223372036854775808 elements"),
    Broken("array length wraps",
           entry(string("a") + u32(ARRAY) + u32(ValueType.U64) + u64(2**61 + 1)), FORMAT,
           VALUE + 4, "key 'a' declares 2305843009213693953 elements"),
    Broken("array of a gigabyte", entry(string("a") + u32(ARRAY) + u32(U32) + u64(2**28)), FORMAT,
           VALUE + 12, "within the value of key 'a': 1073741824 bytes"),
    Broken("strings of a gigabyte", entry(string("a") + u32(ARRAY) + u32(STRING) + u64(2**30)),
           FORMAT, VALUE + 12, "within the strings of key 'a': 8589934592 bytes"),
    Broken("string in array", entry(kv_array("a", STRING, ["xy", "zzzz"])[:-1]), FORMAT,
           VALUE + 12 + 10 + 8, "within a string of key 'a': 4 bytes are expected, 3 are left"),
    Broken("alignment 0", alignment_file(u32(U32) + u32(0)), FORMAT, ALIGN_VALUE,
           "general.alignment is 0; a power of two from 8 to 65536"),
    Broken("alignment 24", alignment_file(u32(U32) + u32(24)), FORMAT, ALIGN_VALUE,
           "general.alignment is 24"),
    Broken("alignment 2^30", alignment_file(u32(U32) + u32(2**30)), FORMAT, ALIGN_VALUE,
           "general.alignment is 1073741824"),
    Broken("alignment type", alignment_file(u32(ValueType.U64) + u64(32)), FORMAT, ALIGN_VALUE,
           "general.alignment is u64; u32 is expected"),
    Broken("alignment array", alignment_file(u32(ARRAY) + u32(U32) + u64(0)), FORMAT,
           ALIGN_VALUE + 12, "general.alignment is array"),
    Broken("name empty", tensor_file(filled("", (2,), F32)), FORMAT, 32, "tensor's name is empty"),
    Broken("name of 64", tensor_file(filled("n" * 64, (2,), F32)), FORMAT, 24,
           "declared 64 bytes long; at most 63"),
    Broken("name newline", tensor_file(filled("a\nb", (2,), F32)), FORMAT, 33, "holds byte 0x0a"),
    Broken("name twice", build([], [filled("a", (2,), F32)] * 2), FORMAT, 32 + INFO_BYTES,
           "tensor name 'a' occurs twice"),
    Broken("no dimensions", tensor_file(Tensor("abcdefgh", (), F32, b"1234")), FORMAT, 40,
           "tensor 'abcdefgh' has 0 dimensions; 1 to 4"),
    Broken("five dimensions", tensor_file(Tensor("a", (1,) * 5, F32, b"1234")), FORMAT, 33,
           "tensor 'a' has 5 dimensions"),
    Broken("dimension 0", tensor_file(Tensor("a", (4, 0), F32, b"")), FORMAT, 45,
           "tensor 'a' has 0 as dimension 1"),
    Broken("negative dimension", tensor_file(Tensor("a", (2**64 - 1,), F32, b"")), FORMAT, 37,
           "tensor 'a' has more than 2^63 - 1 elements"),
    Broken("elements wrap", tensor_file(Tensor("a", (2**32, 2**32), F32, b"")), FORMAT, 45,
           "dimension 1 is 4294967296"),
    Broken("bytes wrap", tensor_file(Tensor("a", (2**31, 2**31), F32, b"")), FORMAT, 53,
           "tensor 'a' of type F32 takes more than 2^64 - 1 bytes"),
    Broken("exabytes", tensor_file(Tensor("a", (2**30, 2**30), F32, b"1")), FORMAT, 32,
           "but the file ends at 97"),
    Broken("row of 100", tensor_file(Tensor("a", (100,), Q4_K, bytes(144))), FORMAT, 45,
           "tensor 'a' has rows of 100 values, but Q4_K comes in blocks of 256"),
    Broken("row of 48", tensor_file(Tensor("a", (48, 2), Q8_0, bytes(144))), FORMAT, 53,
           "tensor 'a' has rows of 48 values, but Q8_0 comes in blocks of 32"),
    Broken("offset unaligned", tensor_file(Tensor("a", (2,), F32, bytes(99), 4)), FORMAT, 49,
           "tensor 'a' lies at offset 4, which is not a multiple of the alignment 32"),
    Broken("offset wraps", tensor_file(Tensor("a", (2,), F32, bytes(8), 2**64 - 32)), FORMAT, 32,
           "tensor 'a' would end beyond byte 2^64"),
    Broken("offset into the header", tensor_file(Tensor("a", (2,), F32, bytes(8), 2**64 - 64)),
           FORMAT, 32, "tensor 'a' would end beyond byte 2^64"),
    Broken("offset beyond the end", tensor_file(Tensor("a", (2,), F32, bytes(8), 2**40)), FORMAT,
           32, "tensor 'a' needs bytes 1099511627840 to 1099511627848, but the file ends at 72"),
    Broken("unknown type beyond the end", tensor_file(Tensor("a", (2,), 999, bytes(8), 64)),
           FORMAT, 32, "tensor 'a' needs bytes 128 to 129"),
    Broken("weights cut off", build([], TWO)[:-1], FORMAT, 32 + INFO_BYTES,
           "tensor 'b' needs bytes 224 to 352, but the file ends at 351"),
    Broken("same place", build([], [TWO[0], Tensor("b", (32,), F32, bytes(128), 0)]), FORMAT,
           32 + INFO_BYTES, "tensor 'b' begins at byte 96, inside tensor 'a', which ends at 224"),
    Broken("overlap", build([], [Tensor("a", (32,), F32, bytes(128), 32), TWO[1],
                                 Tensor("c", (8,), F32, bytes(32), 64)]), FORMAT,
           32 + 2 * INFO_BYTES, "tensor 'c' begins at byte 192, inside tensor 'a'"),
    Broken("unknown type inside another", build([], [TWO[0], Tensor("b", (1,), 999, b"1", 96)]),
           FORMAT, 32 + INFO_BYTES, "inside tensor 'a'"),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_broken_files_say_what_and_where(reader: Reader, broken: Broken) -> None:
    error = reader.refusal(broken.data)
    assert broken.message in error.message
    assert (error.code, error.offset) == (broken.code, broken.offset)
    assert error.message.endswith(f"(at byte {broken.offset})")
    assert error.message.isprintable()


def test_the_longest_key_and_name_are_read(reader: Reader) -> None:
    data = build([kv("k" * 65535, U32, 5)], [filled("n" * 63, (2,), F32)])
    with reader.parse(data) as file:
        assert file.read("u32", "k" * 65535) == 5
        assert file.find_tensor("n" * 63) is not None


def test_a_hostile_key_is_cut_in_the_message(reader: Reader) -> None:
    error = reader.refusal(build([kv("k" * 60000, U32, 5)] * 2))
    assert error.message.startswith("the metadata key '" + "k" * 80 + "' occurs twice")


@pytest.mark.parametrize("version", [2, 3])
def test_every_shorter_file_is_refused(reader: Reader, version: int) -> None:
    data = build(rich_entries(), rich_tensors()[:3], version=version)
    for n in range(len(data)):
        error = reader.refusal(data[:n])
        assert error.code == FORMAT
        assert error.offset <= n
        assert f"(at byte {error.offset})" in error.message
    with reader.parse(data) as file:
        assert len(file.tensors()) == 3


def test_files_that_cannot_be_mapped(reader: Reader, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(RefusedError) as caught, reader.open(path):
            pass
        assert caught.value.code == IO
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(RefusedError) as caught, reader.open(tmp_path / "empty.gguf"):
        pass
    assert (caught.value.code, caught.value.offset) == (FORMAT, 0)


# ---- time -------------------------------------------------------------------------------------


def many_keys() -> bytes:
    return build([kv(f"{i:06x}", ValueType.U8, 0) for i in range(200_000)])


def many_tensors() -> bytes:
    n = 100_000
    tensors = [Tensor(f"{i}", (8,), F32, b"", 32 * (i * 7919 % n)) for i in range(n)]
    return build([], tensors) + bytes(32 * n)


HOSTILE: dict[str, tuple[Callable[[], bytes], bool]] = {
    "2^60 tensors in a megabyte": (lambda: build(n_tensors=2**60) + bytes(1 << 20), False),
    "2^20 tensors in a megabyte": (lambda: build(n_tensors=2**20) + bytes(1 << 20), False),
    "2^60 keys in a megabyte": (lambda: build(n_entries=2**60) + bytes(1 << 20), False),
    "2^30 strings in a megabyte": (
        lambda: entry(string("a") + u32(ARRAY) + u32(STRING) + u64(2**30)) + bytes(1 << 20),
        False,
    ),
    "200000 keys in order": (many_keys, True),
    "100000 tensors out of order": (many_tensors, True),
}


@pytest.mark.clock
@pytest.mark.parametrize("name", HOSTILE)
def test_time_stays_in_proportion_to_the_bytes(reader: Reader, name: str) -> None:
    make, valid = HOSTILE[name]
    data = make()

    def read() -> None:
        if valid:
            with reader.parse(data):
                pass
        else:
            assert reader.refusal(data).code == FORMAT

    assert processor_time.turns(read) < (1000 if valid else 100)
