"""Importance: the sums against numpy's, the same bits however a text is fed, and the files.

The inputs of a layer are not to be seen from outside, but those of a model's first matrices are:
the embedding, normed. gguf's own reader and writer judge the files.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from golden.tiny_models import TINY_MODELS, write_gguf
from hollow_models import Hollow, write_hollow

from localllm import _native, engines
from localllm.cli.app import main
from localllm.engines.options import EngineOptions
from localllm.errors import IntegrityError, UsageError
from localllm.evaluate import imatrix, imatrix_file, texts
from localllm.evaluate.imatrix_file import Importance, Sums
from localllm.memory.limits import Limit
from localllm.memory.need import Kind, need_of

KERNELS: list[str] = _native.machine()["kernels"]
IDS = [int(i) for i in np.random.default_rng(5).integers(3, 250, 100)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("imatrix") / "tiny.gguf"
    write_gguf(next(tiny for tiny in TINY_MODELS if tiny.name.startswith("llama")), file)
    return file


def sums_of(path: Path, step: int = 100, **options: Any) -> list[tuple[str, int, bytes]]:
    model = _native.Model(str(path))
    engine = _native.Engine(model, n_ctx=128, n_batch=100, n_logits=100, **options)
    session = engine.session()
    engine.set_importance(True)
    for start in range(0, len(IDS), step):
        rows = IDS[start : start + step]
        engine.step([(session, rows, len(rows))])
    return engine.importance()


def test_the_first_inputs_are_what_numpy_makes_of_the_embedding(path: Path) -> None:
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    eps = _native.Model(str(path)).meta("llama.attention.layer_norm_rms_epsilon")
    x = tensors["token_embd.weight"].astype(np.float64)[IDS]
    x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    expected = ((x * tensors["blk.0.attn_norm.weight"]) ** 2).sum(axis=0)
    found = {name: (n, np.frombuffer(sums)) for name, n, sums in sums_of(path)}
    for role in ("attn_q", "attn_k", "attn_v"):
        n_rows, sums = found[f"blk.0.{role}.weight"]
        assert n_rows == len(IDS)
        np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_every_matrix_has_as_many_columns_as_in_the_file(path: Path) -> None:
    found = {name: len(sums) // 8 for name, _, sums in sums_of(path)}
    matrices = {
        t.name: int(t.shape[0])
        for t in gguf.GGUFReader(path).tensors
        if len(t.shape) == 2 and t.name != "token_embd.weight"
    }
    assert found == matrices
    assert all(n == len(IDS) for _, n, _ in sums_of(path))


@pytest.mark.parametrize(
    ("step", "options"),
    [(1, {}), (7, {"n_threads": 1}), (64, {"n_threads": 3}), (100, {"kernels": "scalar"})],
)
def test_the_same_bits_however_it_is_fed(path: Path, step: int, options: dict[str, Any]) -> None:
    assert sums_of(path, step, **options) == sums_of(path, n_threads=2)


def test_asking_again_starts_from_zero_and_off_stops(path: Path) -> None:
    engine = _native.Engine(_native.Model(str(path)), n_ctx=64)
    assert engine.importance() == []
    session = engine.session()
    engine.set_importance(True)
    engine.step([(session, IDS[:5], 1)])
    engine.set_importance(False)
    once = engine.importance()
    engine.step([(session, IDS[:5], 1)])
    assert engine.importance() == once
    assert once[0][1] == 5 and once[-1][1] == 1  # the last layer ran for the row that was wanted
    engine.set_importance(True)
    assert all(n == 0 and not any(sums) for _, n, sums in engine.importance())


# ---- memory ------------------------------------------------------------------------------------


def test_the_plan_says_what_the_sums_take(path: Path) -> None:
    sizes = {name: len(sums) for name, _, sums in sums_of(path)}
    shared = ("attn_k.weight", "attn_v.weight", "ffn_up.weight")  # read what others read
    inputs = sum(n_bytes for name, n_bytes in sizes.items() if not name.endswith(shared))
    planned = _native.Model(str(path)).plan()["importance_bytes"] - inputs
    assert 0 < planned <= 128 * len(sizes), "and one small record a matrix"
    assert planned % len(sizes) == 0


def test_what_reading_them_out_takes(tmp_path: Path) -> None:
    """Python counts its own bytes, and numpy's."""
    model = Hollow(n_layers=64, dim=256, ffn_dim=4096, n_vocab=512, quant="Q2_K")
    file = engines.open_model(write_hollow(tmp_path / "deep.gguf", model))
    engine = file.open_engine(EngineOptions(n_ctx=64, n_batch=1, n_threads=1))
    expected = imatrix.memory(file).touched_bytes - file.plan(EngineOptions()).importance_bytes
    tracemalloc.start()
    found = imatrix.collect(engine, [[0]])
    imatrix_file.write(tmp_path / "sums", imatrix_file.merge([found]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    engine.close()
    file.close()
    assert 0.9 * expected < peak < expected + (1 << 20)


def test_the_sums_are_checked_before_anything_is_computed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = engines.open_model(path)
    options = EngineOptions(n_ctx=64, n_batch=64, n_logits=64)
    engine_needs = need_of(file, options).missing_bytes(Kind.anonymous)
    sums = imatrix.memory(file).touched_bytes
    file.close()
    (tmp_path / "text").write_text(TEXT)
    out = tmp_path / "out.gguf"
    asked = ["imatrix", str(path), "--text", str(tmp_path / "text"), "-o", str(out), "-c", "64"]
    for left, code in ((engine_needs + sums - 1, 7), (engine_needs + sums, 0)):
        monkeypatch.setattr(texts, "find_limits", lambda left=left, **_: [Limit("this test", left)])
        assert main(asked) == code
        said = capfd.readouterr()
        assert out.exists() == (code == 0) and "Traceback" not in said.err
        assert ("this test leaves" in said.err) == (code == 7)


# ---- files -------------------------------------------------------------------------------------


def sample() -> Importance:
    rng = np.random.default_rng(1)
    dense = Sums(rng.random((1, 64), np.float32), np.array([512], np.float32))
    experts = Sums(rng.random((3, 32), np.float32), np.array([5, 0, 7], np.float32))
    return Importance({"blk.0.a.weight": dense, "blk.0.e.weight": experts}, ["text"], 1, 512)


def test_a_file_comes_back_and_experts_without_data_are_ones(tmp_path: Path) -> None:
    file = tmp_path / "out.gguf"
    imatrix_file.write(file, sample())
    again = imatrix_file.load(file)
    assert (again.datasets, again.n_chunks, again.chunk_tokens) == (["text"], 1, 512)
    means = imatrix_file.read(file)
    wanted = sample().sums
    assert np.array_equal(means["blk.0.a.weight"], wanted["blk.0.a.weight"].squares[0] / 512)
    experts = means["blk.0.e.weight"].reshape(3, 32)
    assert np.array_equal(experts[1], np.ones(32))
    assert np.array_equal(experts[2], wanted["blk.0.e.weight"].squares[2] / 7)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_the_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    file = tmp_path / "out.gguf"
    imatrix_file.write(file, sample())
    reader = gguf.GGUFReader(file)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == 1
    tensors = {t.name: t for t in reader.tensors}
    assert list(tensors["blk.0.e.weight.in_sum2"].shape) == [32, 3]
    assert list(tensors["blk.0.e.weight.counts"].shape) == [1, 3]
    assert np.array_equal(
        tensors["blk.0.e.weight.in_sum2"].data, sample().sums["blk.0.e.weight"].squares
    )


def test_a_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a", "b"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 256)
    writer.add_tensor("w.weight.counts", np.array([[4]], np.float32))
    writer.add_tensor("w.weight.in_sum2", np.arange(8, dtype=np.float32).reshape(1, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert np.array_equal(imatrix_file.read(tmp_path / "in.gguf")["w.weight"], np.arange(8) / 4)
    assert imatrix_file.load(tmp_path / "in.gguf").chunk_tokens == 256


def legacy(name: bytes = b"w.weight", calls: int = 2) -> bytes:
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii4f", calls, 4, 2, 4, 6, 8)
    return struct.pack("<i", 1) + entry + struct.pack("<ii", 9, 4) + b"text"


def test_the_older_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "old.dat").write_bytes(legacy())
    assert imatrix_file.read(tmp_path / "old.dat")["w.weight"].tolist() == [1, 2, 3, 4]
    found = imatrix_file.load(tmp_path / "old.dat")
    assert (found.n_chunks, found.datasets) == (9, ["text"])


def test_merging_adds(tmp_path: Path) -> None:
    other = sample()
    del other.sums["blk.0.e.weight"]
    merged = imatrix_file.merge([sample(), other])
    assert merged.n_chunks == 2 and merged.datasets == ["text"]
    assert merged.sums["blk.0.a.weight"].counts[0] == 1024
    wanted = 2 * sample().sums["blk.0.a.weight"].squares
    assert np.array_equal(merged.sums["blk.0.a.weight"].squares, wanted)
    other.sums["blk.0.a.weight"].squares = np.zeros((1, 8), np.float32)
    with pytest.raises(UsageError, match="different models"):
        imatrix_file.merge([sample(), other])


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    imatrix_file.write(tmp_path / "whole.gguf", sample())
    whole = (tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut"
    for n in [*range(0, len(whole) - 32, 13)]:
        cut.write_bytes(whole[:n])
        with pytest.raises(IntegrityError, match="no importance matrix"):
            imatrix_file.read(cut)
    for n in range(0, 37, 3):
        cut.write_bytes(legacy()[:n])
        with pytest.raises(IntegrityError, match="no importance matrix"):
            imatrix_file.read(cut)


def test_any_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    imatrix_file.write(tmp_path / "whole.gguf", sample())
    whole = bytearray((tmp_path / "whole.gguf").read_bytes())
    rng = np.random.default_rng(3)
    broken = tmp_path / "broken"
    n_read = n_refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        data[int(rng.integers(0, 420))] = int(rng.integers(0, 256))
        broken.write_bytes(data)
        try:
            imatrix_file.read(broken)
            n_read += data != whole
        except IntegrityError:
            n_refused += 1
    assert n_read > 0 and n_refused > 0


def test_values_that_are_no_squares_are_refused(tmp_path: Path) -> None:
    bad = sample()
    bad.sums["blk.0.a.weight"].squares[0, 3] = np.nan
    imatrix_file.write(tmp_path / "bad.gguf", bad)
    with pytest.raises(IntegrityError, match=r"blk\.0\.a\.weight has values"):
        imatrix_file.read(tmp_path / "bad.gguf")


# ---- the whole of it ---------------------------------------------------------------------------

TEXT = "An old mill stands beside the stream, and its wheel turns when the rain has come. " * 20


def test_collecting_over_chunks_counts_every_token(path: Path) -> None:
    file = engines.open_model(path)
    chunks = texts.cut(file, TEXT, 64, 3)
    engine = file.open_engine(EngineOptions(n_ctx=64, n_batch=32, n_logits=32))
    seen: list[tuple[int, int]] = []
    found = imatrix.collect(engine, chunks, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(entry.counts[0] == 192 for entry in found.sums.values())
    assert all(name.startswith("blk.") for name in found.sums)
    with pytest.raises(UsageError, match="less than one chunk"):
        texts.cut(file, "short", 64)


def test_the_command_writes_a_file_and_says_where(
    path: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "text").write_text(TEXT)
    arguments = ["imatrix", str(path), "--text", str(tmp_path / "text"), "--ctx", "64"]
    out = tmp_path / "out.gguf"
    assert main([*arguments, "-o", str(out), "--json"]) == 0
    report = json.loads(capfdbinary.readouterr().out)
    assert report["schema_version"] == 1 and report["path"] == str(out)
    assert report["n_tokens"] == 64 * report["n_chunks"]
    once = imatrix_file.load(out)
    assert main([*arguments, "-o", str(out), "--merge", str(out)]) == 0
    assert capfdbinary.readouterr().out == f"{out}\n".encode()
    name = "blk.0.attn_q.weight"
    assert np.array_equal(imatrix_file.load(out).sums[name].squares, 2 * once.sums[name].squares)


@pytest.mark.parametrize(
    ("extra", "code"), [(["--ctx", "1"], 2), (["--ctx", "8k"], 2), (["-o", "/none/x"], 2)]
)
def test_what_cannot_be_is_refused(path: Path, tmp_path: Path, extra: list[str], code: int) -> None:
    (tmp_path / "text").write_text(TEXT)
    text = ["--text", str(tmp_path / "text")]
    assert main(["imatrix", str(path), "-o", str(tmp_path / "x"), *text, *extra]) == code
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    assert main(["imatrix", str(path), "-o", str(tmp_path / "x"), *text]) == 2
    assert not (tmp_path / "x").exists()


def test_our_own_text_ships(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert main(["imatrix", str(path), "--ctx", "32", "--chunks", "2", "-o", str(out)]) == 0
    assert imatrix_file.load(out).datasets == ["calibration.txt"]
