"""Models that are split over several files: joined from any of them, or refused by name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import F32, Tensor, ValueType, build, filled, kv, split_entries, split_name
from gguf_reader import FORMAT, Reader, RefusedError
from golden.tiny_models import TINY_MODELS, TinyModel, write_gguf

from localllm import engines
from localllm.engines.options import EngineOptions
from localllm.errors import IntegrityError

TENSORS = [filled(name, (32,), F32) for name in ("d", "a", "c", "b")]
# The first of three holds no tensor, as the usual writer can be asked to do.
SHARES: list[list[Tensor]] = [[], TENSORS[:3], TENSORS[3:]]
FAMILY = kv("general.architecture", ValueType.STRING, "test")

Files = dict[int, bytes]


@pytest.fixture(scope="module")
def reader(internals: ctypes.CDLL) -> Reader:
    return Reader(internals)


def part(no: int, tensors: list[Tensor], *, count: int = 3, n: int = 4) -> bytes:
    extra = [FAMILY] if no == 0 else []
    return build([*extra, *split_entries(no, count, n)], tensors)


def sound() -> Files:
    return {no + 1: part(no, share) for no, share in enumerate(SHARES)}


def write(folder: Path, files: Files) -> list[Path]:
    paths = [folder / split_name("m", number, 3) for number in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return paths


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_file_opens_the_whole_model(reader: Reader, tmp_path: Path, number: int) -> None:
    files = sound()
    paths = write(tmp_path, files)
    with reader.open(paths[number - 1]) as file:
        assert reader.lib.gguf_file_bytes(file.handle) == sum(map(len, files.values()))
        assert file.read("string", "general.architecture") == b"test"
        assert file.read("u32", "split.no") == 0
        assert [t.name.value() for t in file.tensors()] == [b"d", b"a", b"c", b"b"]
        for tensor in TENSORS:
            found = file.find_tensor(str(tensor.name))
            assert found is not None
            assert ctypes.string_at(found.data, found.n_bytes) == tensor.data
        assert file.find_tensor("e") is None


def replaced(number: int, data: bytes) -> Callable[[Files], Files]:
    return lambda files: files | {number: data}


def without(number: int) -> Callable[[Files], Files]:
    return lambda files: {at: data for at, data in files.items() if at != number}


BROKEN: dict[str, tuple[Callable[[Files], Files], str]] = {
    "the last is missing": (without(3), "m-00003-of-00003.gguf is missing: the model is split"),
    "the first is missing": (without(1), "m-00001-of-00003.gguf is missing"),
    "another's number": (
        replaced(3, part(1, SHARES[2])),
        "m-00003-of-00003.gguf: split.no is 1, but 2 is expected",
    ),
    "another count": (
        replaced(3, part(2, SHARES[2], count=4)),
        "m-00003-of-00003.gguf: split.count is 4, but 3 is expected",
    ),
    "another total": (
        replaced(3, part(2, SHARES[2], n=9)),
        "m-00003-of-00003.gguf: split.tensors.count is 9, but 4 is expected",
    ),
    "too few tensors": (
        replaced(3, part(2, [])),
        "its 3 files hold 3 tensors, but 4 are expected",
    ),
    "a tensor twice": (
        replaced(3, part(2, [TENSORS[0]])),
        "m-00003-of-00003.gguf: the tensor 'd' is in file 2 of the model too",
    ),
    "no keys": (
        replaced(3, build([], SHARES[2])),
        "m-00003-of-00003.gguf: the key split.count is missing",
    ),
    "a key of another type": (
        replaced(3, build([kv("split.count", ValueType.STRING, "3")])),
        "m-00003-of-00003.gguf: key 'split.count' is string; an integer is expected",
    ),
    "of another model": (
        replaced(
            3,
            build(
                [kv("general.architecture", ValueType.STRING, "x"), *split_entries(2, 3, 4)],
                SHARES[2],
            ),
        ),
        "m-00003-of-00003.gguf belongs to another model: it is x, not test",
    ),
    "cut off": (
        replaced(3, part(2, SHARES[2])[:-1]),
        "m-00003-of-00003.gguf: tensor 'b' needs bytes",
    ),
    "no GGUF file": (
        replaced(3, b"<!doctype html>"),
        "m-00003-of-00003.gguf: the file looks like a web page",
    ),
    "empty": (replaced(3, b""), "m-00003-of-00003.gguf: the file is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_does_not_fit_is_named(reader: Reader, tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    write(tmp_path, change(sound()))
    with pytest.raises(RefusedError) as caught, reader.open(tmp_path / split_name("m", 2, 3)):
        pass
    assert message in caught.value.message and caught.value.message.isprintable()
    assert caught.value.code == FORMAT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.gguf", "its name does not end as -00001-of-00003.gguf does"),
        ("-of-00003.gguf", "does not end as"),
        ("m-0001x-of-00003.gguf", "does not end as"),
        ("m-00000-of-00003.gguf", "does not end as"),
        ("m-00004-of-00003.gguf", "does not end as"),
        ("m-00001-of-00002.gguf", "split over 2 files, the file says 3"),
        ("x" * 220 + "-00001-of-00003.gguf", "x-00001"),
    ],
)
def test_a_name_that_says_something_else(
    reader: Reader, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_bytes(part(0, []))
    with pytest.raises(RefusedError) as caught, reader.open(tmp_path / name):
        pass
    assert caught.value.code == FORMAT
    assert message in caught.value.message or "x" * 100 in caught.value.message


def test_a_count_of_one_is_a_single_file(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(build(split_entries(0, 1, 4), TENSORS))
    with reader.open(path) as file:
        assert len(file.tensors()) == 4


def test_every_shorter_file_is_refused(reader: Reader, tmp_path: Path) -> None:
    whole = part(2, SHARES[2])
    paths = write(tmp_path, sound())
    for n in range(len(whole)):
        paths[2].write_bytes(whole[:n])
        with pytest.raises(RefusedError) as caught, reader.open(paths[0]):
            pass
        assert caught.value.message.startswith("m-00003-of-00003.gguf")


# ---- whole models, split by the gguf package -----------------------------------------------------


def logits_of(path: Path) -> tuple[bytes, int, int]:
    file = engines.open_model(path)
    engine = file.open_engine(EngineOptions(n_ctx=64, n_threads=1))
    engine.step([(engine.session(), list(range(20)), 1)])
    got = bytes(engine.logits()), file.plan(EngineOptions(n_ctx=64)).weight_bytes
    n_bytes = int(file.info["file_bytes"])
    engine.close()
    file.close()
    return *got, n_bytes


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_a_split_model_computes_what_the_single_file_does(tiny: TinyModel, tmp_path: Path) -> None:
    write_gguf(tiny, tmp_path / "one.gguf")
    write_gguf(tiny, tmp_path / "many.gguf", split_tensors=7)
    parts = sorted(tmp_path.glob("many-*.gguf"))
    assert len(parts) > 2
    logits, weight_bytes, _ = logits_of(tmp_path / "one.gguf")
    n_bytes = sum(path.stat().st_size for path in parts)
    for path in (parts[0], parts[-1]):
        assert logits_of(path) == (logits, weight_bytes, n_bytes)
    parts[1].unlink()
    with pytest.raises(IntegrityError, match=f"{parts[1].name} is missing"):
        engines.open_model(parts[0])
