"""The GGUF reader on valid files: everything is read back, converted or left at its default."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import (
    F32,
    HEADER_BYTES,
    Tensor,
    ValueType,
    build,
    filled,
    kv,
    kv_array,
    rich_entries,
    rich_file,
    rich_tensors,
    string,
    u32,
    u64,
)
from gguf_reader import ARGUMENT, FORMAT, Reader, RefusedError

U32, ARRAY = ValueType.U32, ValueType.ARRAY


@pytest.fixture(scope="module")
def reader(internals: ctypes.CDLL) -> Reader:
    return Reader(internals)


# ---- what is read back ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_every_value_and_tensor_reads_back(reader: Reader, tmp_path: Path, version: int) -> None:
    data = rich_file(version)
    path = tmp_path / "rich.gguf"
    path.write_bytes(data)
    with reader.open(path) as file:
        assert reader.lib.gguf_file_bytes(file.handle) == len(data)
        entries = rich_entries()
        metas = file.metas()
        assert len(metas) == len(entries)
        at = HEADER_BYTES
        for meta, entry in zip(metas, entries, strict=True):
            head = len(entry) - meta.n_bytes
            assert entry.startswith(string(meta.key.value()) + u32(meta.type))
            assert ctypes.string_at(meta.data, meta.n_bytes) == entry[head:]
            if meta.type == ARRAY:
                assert entry[head - 12 : head] == u32(meta.element_type) + u64(meta.n_elements)
            else:
                assert (meta.element_type, meta.n_elements) == (meta.type, 1)
            at += len(entry)
        by_key = {meta.key.value().decode(): reader.values(meta) for meta in metas}
        assert by_key["many.string"] == ["héllo".encode(), b"", b"a\nb"]
        assert by_key["many.bool"] == [True, False, True]
        assert by_key["many.i64"] == [-(2**63), 2**63 - 1]
        assert by_key["one.u64"] == [2**64 - 1]
        assert by_key["one.f64"] == [1e300]
        assert by_key["many.nothing"] == []
        tensors = file.tensors()
        for found, written in zip(tensors, rich_tensors(), strict=True):
            assert found.name.value().decode() == written.name
            assert found.n_dims == len(written.shape)
            assert tuple(found.shape) == written.shape + (1,) * (4 - len(written.shape))
            assert found.ggml_id == written.ggml_type
            assert found.offset % 32 == 0
            assert data[found.offset :].startswith(written.data)
            if written.ggml_type == 999:
                assert not found.quant and found.n_bytes == 0 and found.data is None
            else:
                assert found.quant.contents.ggml_id == written.ggml_type
                assert ctypes.string_at(found.data, found.n_bytes) == written.data


def test_lookup_finds_each_and_nothing_else(reader: Reader) -> None:
    keys = [f"key.{i * 7919 % 1000:03d}" + "x" * (i % 3) for i in range(1000)]
    tensors = [filled(f"t{i * 31 % 100}", (1,), F32) for i in range(100)]
    data = build([kv(key, U32, i) for i, key in enumerate(keys)], tensors)
    with reader.parse(data) as file:
        for i, key in enumerate(keys):
            assert file.read("u32", key) == i
        for tensor in tensors:
            found = file.find_tensor(str(tensor.name))
            assert found is not None and found.name.value().decode() == tensor.name
        for miss in ("", "key", "key.000xxx", "zzz", "t", "t100"):
            assert file.find_key(miss) is None and file.find_tensor(miss) is None
    with reader.parse(build()) as empty:
        assert empty.find_key("a") is None and empty.find_tensor("a") is None


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096, 65536])
def test_alignment_of_the_file_is_used(reader: Reader, alignment: int) -> None:
    tensors = [filled("a", (3,), F32), filled("b", (5,), F32)]
    entries = [kv("general.alignment", U32, alignment)]
    data = build(entries, tensors, alignment=alignment)
    with reader.parse(data) as file:
        for found, written in zip(file.tensors(), tensors, strict=True):
            assert found.offset % alignment == 0
            assert ctypes.string_at(found.data, found.n_bytes) == written.data


def test_gaps_and_trailing_bytes_are_allowed(reader: Reader) -> None:
    second = filled("b", (4,), F32)
    data = build([], [Tensor("a", (4,), F32, bytes(64)), second]) + b"trailing"
    with reader.parse(data) as file:
        assert ctypes.string_at(file.tensors()[1].data, 16) == second.data


def test_agrees_with_the_gguf_package(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "judge.gguf"
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_string("general.name", "naïve")
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü", "", "日本"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.5, 2.0])
    writer.add_array("tokenizer.ggml.token_type", [1, -3, 5])
    writer.add_uint64("a.u64", 2**63 + 1)
    writer.add_int64("a.i64", -5)
    writer.add_float64("a.f64", math.pi)
    writer.add_tensor("plain", rng.standard_normal((3, 5), dtype=np.float32))
    writer.add_tensor("half", rng.standard_normal((2, 3, 8)).astype(np.float16))
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
        rows = gguf.quants.quantize(rng.standard_normal((4, 64), dtype=np.float32), kind)
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    judge = gguf.GGUFReader(path)
    with reader.open(path) as file:
        fields = {k: f for k, f in judge.fields.items() if not k.startswith("GGUF.")}
        metas = {meta.key.value().decode(): meta for meta in file.metas()}
        assert list(metas) == list(fields)
        for key, field in fields.items():
            assert field.types[0] == metas[key].type
            found = [v.decode() if isinstance(v, bytes) else v for v in reader.values(metas[key])]
            expected = field.contents()
            assert found == (expected if isinstance(expected, list) else [expected])
        for mine, theirs in zip(file.tensors(), judge.tensors, strict=True):
            assert mine.name.value().decode() == theirs.name
            assert list(mine.shape)[: mine.n_dims] == theirs.shape.tolist()
            assert mine.ggml_id == theirs.tensor_type
            assert (mine.offset, mine.n_bytes) == (theirs.data_offset, theirs.n_bytes)
            assert ctypes.string_at(mine.data, mine.n_bytes) == theirs.data.tobytes()
        assert file.read("u32", "llama.block_count") == 7
        assert file.read("string", "general.name") == "naïve".encode()


# ---- only the beginning of a file ------------------------------------------------------------


def test_a_header_alone_gives_shapes_but_no_data(reader: Reader) -> None:
    data = rich_file()
    with reader.parse(data) as whole:
        offsets = [t.offset for t in whole.tensors()]
    with reader.parse(data, given=offsets[0], file_bytes=len(data)) as file:
        assert [t.offset for t in file.tensors()] == offsets
        assert all(t.data is None for t in file.tensors())
    with reader.parse(data, given=offsets[1], file_bytes=len(data)) as file:
        assert [t.data is not None for t in file.tensors()] == [True] + [False] * 4
    with reader.parse(data, given=offsets[1] - 13, file_bytes=len(data)) as file:
        assert file.tensors()[0].data is None  # 20 bytes, of which 19 are there


def test_too_little_of_a_header_is_the_callers_mistake_not_the_files(reader: Reader) -> None:
    data = rich_file()
    for given in (0, 3, HEADER_BYTES, 100, 400):
        with (
            pytest.raises(RefusedError) as caught,
            reader.parse(data, given=given, file_bytes=len(data)),
        ):
            pass
        assert caught.value.code == ARGUMENT
        assert "the part of the file that was given ends within" in caught.value.message
    with pytest.raises(RefusedError) as caught, reader.parse(data, file_bytes=10):
        pass
    assert caught.value.code == ARGUMENT


# ---- typed reads ------------------------------------------------------------------------------


def scalars() -> bytes:
    V = ValueType
    return build(
        [
            kv("u8", V.U8, 200), kv("i8", V.I8, -3), kv("u16", V.U16, 65535),
            kv("i16", V.I16, 300), kv("u32", V.U32, 2**32 - 1), kv("i32", V.I32, -(2**31)),
            kv("u64", V.U64, 5), kv("u64.big", V.U64, 2**32), kv("i64", V.I64, -7),
            kv("i64.low", V.I64, -(2**31) - 1), kv("f32", V.F32, 0.5), kv("f64", V.F64, 0.25),
            kv("f64.big", V.F64, 1e39), kv("true", V.BOOL, True), kv("false", V.BOOL, False),
            kv("text", V.STRING, "words"), kv_array("ints", V.I32, [3, -1, 7]),
            kv_array("bools", V.BOOL, [False, True]), kv_array("floats", V.F32, [1.5, 2.5]),
            kv_array("wide", V.I64, [2**40, -(2**40)]),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("u32", "u8", 200), ("u32", "u16", 65535), ("u32", "i16", 300), ("u32", "u32", 2**32 - 1),
        ("u32", "u64", 5), ("i32", "i8", -3), ("i32", "i32", -(2**31)), ("i32", "i64", -7),
        ("i32", "u16", 65535), ("f32", "f32", 0.5), ("f32", "f64", 0.25), ("bool", "true", True),
        ("bool", "false", False), ("string", "text", b"words"),
    ],
)  # fmt: skip
def test_reads_convert_what_fits(reader: Reader, kind: str, key: str, expected: object) -> None:
    with reader.parse(scalars()) as file:
        assert file.read(kind, key) == expected


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("u32", "i8", "'i8' holds a value outside 0 to 4294967295"),
        ("u32", "u64.big", "'u64.big' holds a value outside"),
        ("i32", "u32", "'u32' holds a value outside -2147483648 to 2147483647"),
        ("i32", "i64.low", "'i64.low' holds a value outside"),
        ("f32", "f64.big", "'f64.big' holds a value outside the range of f32"),
        ("u32", "f32", "'f32' is f32; an integer is expected"),
        ("u32", "true", "'true' is bool; an integer is expected"),
        ("i32", "text", "'text' is string; an integer is expected"),
        ("f32", "u32", "'u32' is u32; a float is expected"),
        ("bool", "u8", "'u8' is u8; a bool is expected"),
        ("string", "u8", "'u8' is u8; a string is expected"),
        ("u32", "ints", "'ints' is an array of i32; an integer is expected"),
        ("bool", "bools", "'bools' is an array of bool; a bool is expected"),
        ("string", "ints", "'ints' is an array of i32; a string is expected"),
    ],
)
def test_reads_refuse_what_does_not(reader: Reader, kind: str, key: str, message: str) -> None:
    with reader.parse(scalars()) as file:
        with pytest.raises(RefusedError) as caught:
            file.read(kind, key)
        meta = file.find_key(key)
        first = reader.lib.gguf_meta(file.handle, 0).contents
        assert meta is not None
        expected_offset = meta.data - first.key.data + HEADER_BYTES + 8
    assert caught.value.code == FORMAT
    assert message in caught.value.message
    assert caught.value.offset == expected_offset


def test_an_absent_key_leaves_the_default(reader: Reader) -> None:
    with reader.parse(scalars()) as file:
        assert file.read("u32", "absent", 42) == 42
        assert file.read("i32", "absent", -42) == -42
        assert file.read("f32", "absent", 0.5) == 0.5
        assert file.read("bool", "absent", True) is True
        assert file.read("u32", "absent", 42, at=9) == 42
        assert file.read("bool", "absent", True, at=9) is True


def test_elements_of_arrays_and_scalars_alike(reader: Reader) -> None:
    with reader.parse(scalars()) as file:
        assert file.read("u32", "ints", at=2) == 7
        assert file.read("u32", "u8", at=99) == 200
        assert [file.read("bool", "bools", at=i) for i in range(2)] == [False, True]
        assert file.read("bool", "true", at=5) is True
        for kind, key, at, message in (
            ("u32", "ints", 1, "'ints' holds a value outside 0 to"),
            ("u32", "ints", 3, "'ints' has 3 elements; more than 3 are expected"),
            ("bool", "bools", 2**63, "'bools' has 2 elements"),
            ("u32", "floats", 0, "'floats' is an array of f32; an integer is expected"),
            ("bool", "ints", 0, "'ints' is an array of i32; a bool is expected"),
        ):
            with pytest.raises(RefusedError) as caught:
                file.read(kind, key, at=at)
            assert caught.value.code == FORMAT and message in caught.value.message

        def both(key: str, i: int) -> tuple[float, int]:
            meta = file.find_key(key)
            return reader.lib.gguf_f32_at(meta, i), reader.lib.gguf_i32_at(meta, i)

        assert [both("floats", i)[0] for i in range(3)] == [1.5, 2.5, 0.0]
        assert [both("ints", i) for i in range(4)] == [(3.0, 3), (-1.0, -1), (7.0, 7), (0.0, 0)]
        assert [both("wide", i)[1] for i in range(2)] == [2**31 - 1, -(2**31)]
