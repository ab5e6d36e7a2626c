"""The quantizer: its blocks read by the gguf package, its errors held against llama.cpp's, the same
bytes from every thread count and instruction set, and the command."""

from __future__ import annotations

import ctypes
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from golden import tiny_models

from localllm.convert import gguf_out, gguf_values, requantize
from localllm.engines import native
from localllm.engines.quantizer import QUANTS, Loss, TensorSource, TensorWriter
from localllm.errors import EngineError, UsageError

Floats = np.ndarray[Any, np.dtype[np.float32]]

# What ggml_quantize_chunk of llama.cpp (through llama-cpp-python 0.3.36) leaves of sample(): normal
# values, the same with importance, Student's t, the same with importance.
PEER_ERRORS = {
    "Q4_0": (2.4655e-02, 4.9351e-02, 1.7616e-01, 4.2043e-01),
    "Q4_1": (2.0349e-02, 3.0820e-02, 1.0541e-01, 1.7492e-01),
    "Q5_0": (6.0827e-03, 1.2061e-02, 4.8227e-02, 1.1600e-01),
    "Q5_1": (4.8232e-03, 7.4093e-03, 2.4701e-02, 3.9760e-02),
    "Q8_0": (9.5786e-05, 2.6737e-04, 7.8800e-04, 2.2641e-03),
    "IQ4_NL": (1.9141e-02, 4.0517e-02, 1.1445e-01, 2.5159e-01),
    "MXFP4": (4.2917e-02, 1.3218e-01, 2.2549e-01, 5.9908e-01),
    "Q2_K": (2.8313e-01, 3.9867e-01, 1.3075e00, 1.7498e00),
    "Q3_K": (7.6894e-02, 1.4109e-01, 3.8322e-01, 7.7247e-01),
    "Q4_K": (1.6988e-02, 3.2100e-02, 9.4656e-02, 1.9012e-01),
    "Q5_K": (4.3789e-03, 8.6903e-03, 2.3573e-02, 4.8638e-02),
    "Q6_K": (1.0744e-03, 2.1808e-03, 7.1575e-03, 1.7305e-02),
    "IQ4_XS": (1.9405e-02, 4.1556e-02, 1.1715e-01, 2.6461e-01),
}
FLOATS = ("F32", "F16", "BF16")
N_ROWS, N = 16, 512


def sample(heavy: bool) -> Floats:
    chance = np.random.default_rng(11)
    shape = (N_ROWS, N)
    x = chance.standard_t(3, shape) * 0.02 if heavy else chance.normal(0, 0.02, shape)
    return x.astype(np.float32)


def importance() -> Floats:
    return np.random.default_rng(12).lognormal(0, 1.5, N).astype(np.float32)


def test_what_the_writer_says_of_the_format_is_what_the_gguf_package_says() -> None:
    types, split = gguf.GGUFValueType, gguf.Keys.Split
    numbers = gguf_values.U32, gguf_values.I32, gguf_values.F32
    assert numbers == (types.UINT32, types.INT32, types.FLOAT32)
    numbers = gguf_values.BOOL, gguf_values.STRING, gguf_values.ARRAY
    assert numbers == (types.BOOL, types.STRING, types.ARRAY)
    assert int.from_bytes(gguf_out.MAGIC, "little") == gguf.GGUF_MAGIC
    assert gguf_out.VERSION == gguf.GGUF_VERSION
    assert gguf_out.ALIGNMENT == gguf.GGUF_DEFAULT_ALIGNMENT
    assert requantize.QUANTIZATION_VERSION == gguf.GGML_QUANT_VERSION
    assert requantize.SPLIT_KEYS == (
        split.LLM_KV_SPLIT_NO,
        split.LLM_KV_SPLIT_COUNT,
        split.LLM_KV_SPLIT_TENSORS_COUNT,
    )


class Files:
    """A source and a target beside each other."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "source", folder / "out"

    def write(
        self, data: bytes, kind: str, n_rows: int, n: int, quant: str, threads: int = 2, **more: Any
    ) -> tuple[bytes, Loss]:
        keywords = {k: more.pop(k) for k in ("importance", "measure") if k in more}
        self.source.write_bytes(b"\xee" * 5 + data)
        with self.source.open("rb") as source, self.out.open("w+b") as out:
            tensor = TensorSource(source.fileno(), 5, kind, n_rows, n, **more)
            loss = TensorWriter(threads).write(tensor, quant, out.fileno(), 3, **keywords)
            return out.read()[3:], loss

    def quantize(self, x: Floats, quant: str, **more: Any) -> bytes:
        return self.write(x.tobytes(), "F32", *x.shape, quant, **more)[0]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def read(blocks: bytes, quant: str, n: int) -> Floats:
    raw = np.frombuffer(blocks, np.uint8).reshape(-1, n // QUANTS[quant].block_dim
                                                  * QUANTS[quant].block_bytes)  # fmt: skip
    return dequantize(raw, gguf.GGMLQuantizationType[quant])


@pytest.mark.parametrize("quant", PEER_ERRORS)
@pytest.mark.parametrize("case", range(4))
def test_the_error_is_not_above_llama_cpps(files: Files, quant: str, case: int) -> None:
    x, weights = sample(case >= 2), importance() if case % 2 else None
    blocks, loss = files.write(
        x.tobytes(), "F32", N_ROWS, N, quant, importance=weights, measure=True
    )
    by = 1.0 if weights is None else weights.astype(np.float64)
    error = float((by * (x.astype(np.float64) - read(blocks, quant, N)) ** 2).sum())
    assert error <= PEER_ERRORS[quant][case]
    assert loss.error == pytest.approx(error, rel=1e-6)
    assert loss.total == pytest.approx(float((by * x.astype(np.float64) ** 2).sum()), rel=1e-6)


def test_every_quant_is_compared() -> None:
    assert {*PEER_ERRORS, *FLOATS} == set(QUANTS)


@pytest.mark.parametrize("quant", QUANTS)
def test_what_it_wrote_comes_back_unchanged(files: Files, quant: str) -> None:
    first = files.quantize(sample(True), quant)
    assert files.write(first, quant, N_ROWS, N, quant)[0] == first


@pytest.mark.parametrize("quant", QUANTS)
def test_threads_do_not_change_a_byte(files: Files, quant: str) -> None:
    x = np.random.default_rng(3).normal(0, 1, (700, 256)).astype(np.float32)
    one = files.quantize(x, quant, threads=1)
    assert files.quantize(x, quant, threads=3) == one


@pytest.mark.parametrize("weighted", [False, True])
def test_instruction_sets_do_not_change_a_byte(internals: ctypes.CDLL, weighted: bool) -> None:
    try:
        tables = [
            (ctypes.c_void_p * len(QUANTS)).in_dll(internals, f"encode_table_{name}")
            for name in ("portable", "avx2")
        ]
    except ValueError:
        pytest.skip("this processor has one set of encoders")
    if "avx2" not in native.machine()["kernels"]:
        pytest.skip("no AVX2")
    pointer = ctypes.c_void_p
    encode = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_size_t, pointer)
    extremes = [0, 1e-30, -1e-38, 1e-45, 6e4, -6e4, 1, 1e11]
    for i, (quant, info) in enumerate(QUANTS.items()):
        for scale in (1.0, 1e-6, 1e4):
            x = (sample(True) * scale).reshape(-1)
            x[: len(extremes)] = extremes
            x[512:1024] = 0
            weights = np.tile(importance(), N_ROWS) if weighted else None
            outs = []
            for table in tables:
                out = np.zeros(x.size // info.block_dim * info.block_bytes, np.uint8)
                to = None if weights is None else weights.ctypes.data
                function = encode(table[i])
                function(x.ctypes.data, to, x.size // info.block_dim, out.ctypes.data)
                outs.append(out.tobytes())
            assert outs[0] == outs[1], quant


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q6_K", "IQ4_XS", "MXFP4"])
def test_sources_of_every_kind_are_read(files: Files, kind: str) -> None:
    x = sample(False)
    stored = files.quantize(x, kind)
    floats = read(stored, kind, N)
    assert files.write(stored, kind, N_ROWS, N, "F32")[0] == floats.tobytes()


def test_eight_bit_floats_with_scales(files: Files) -> None:
    bits = np.arange(256, dtype=np.uint8)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    )
    value = np.where(bits & 0x80, -size, size).astype(np.float32)
    data = np.delete(bits, [127, 255]).reshape(2, 127)  # those two are no numbers
    scales = np.array([[1, 2, 0.5], [3, 4, 8]], np.float32)
    expected = value[data] * np.repeat(scales, 50, axis=1)[:, :127]
    blocks, _ = files.write(
        data.tobytes(), "F8_E4M3", 2, 127, "F32", scales=scales, scale_rows=1, scale_cols=50
    )
    assert blocks == expected.astype(np.float32).tobytes()
    with pytest.raises(EngineError, match="row 0, column 0 is not a finite number"):
        files.write(b"\x7f", "F8_E4M3", 1, 1, "F32")


def test_rows_are_taken_in_the_order_asked_for(files: Files) -> None:
    x, order = sample(False), np.array([3, 0, 15, 3], np.uint32)
    blocks, _ = files.write(x.tobytes(), "F32", 4, N, "F32", row_order=order)
    assert blocks == x[order].tobytes()


def test_a_column_that_never_mattered_is_not_lost(files: Files) -> None:
    x, weights = sample(False), np.zeros(N, np.float32)
    weights[::64] = 1
    blocks = files.quantize(x, "Q4_K", importance=weights)
    off = read(blocks, "Q4_K", N) - x
    assert float((off**2).mean()) < 0.1 * float((x**2).mean())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(files: Files, value: float) -> None:
    x = sample(False)
    x[7, 300] = value
    with pytest.raises(EngineError, match="row 7, column 300 is not a finite number"):
        files.quantize(x, "Q4_K")


@pytest.mark.parametrize("quant", ["F16", "Q4_0", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("value", [1e9, 1e38])
def test_what_is_too_large_is_refused(files: Files, quant: str, value: float) -> None:
    x = sample(False)
    x[3, 5] = value
    with pytest.raises(EngineError, match="row 3 has values too large"):
        files.quantize(x, quant)


def test_a_source_that_ends_early(files: Files) -> None:
    with pytest.raises(EngineError, match="the file ends inside the tensor"):
        files.write(bytes(100), "F32", 2, 256, "Q4_K")


def test_a_full_disk_is_the_systems_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1024))
    with (
        source.open("rb") as file,
        Path("/dev/full").open("wb") as full,
        pytest.raises(OSError) as caught,
    ):
        tensor = TensorSource(file.fileno(), 0, "F32", 1, 256)
        TensorWriter(1).write(tensor, "F32", full.fileno(), 0)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quant": "Q4_X"}, "no quant Q4_X"),
        ({"kind": "F4"}, "no type F4"),
        ({"n": 100, "quant": "Q4_0"}, "no whole blocks of Q4_0"),
        ({"n_rows": 0}, "a tensor of 0 rows"),
        ({"importance": np.ones(3, np.float32)}, "importance has 12 bytes, expected 1024"),
        ({"importance": np.full(256, -1, np.float32)}, "importance of column 0 is -1"),
    ],
)
def test_wrong_arguments_are_told(files: Files, wrong: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"data": bytes(4096), "kind": "F32", "n_rows": 2, "n": 256}
    with pytest.raises(UsageError, match=said):
        files.write(**({**given, "quant": "Q4_K"} | wrong))


# ---- files ---------------------------------------------------------------------------------------


def test_the_header_is_what_the_gguf_package_reads(tmp_path: Path, files: Files) -> None:
    metadata = {
        "general.architecture": gguf_values.string("llama"),
        "general.alignment": gguf_values.u32(64),
        "odd.key": b"\x09\0\0\0\x04\0\0\0" + (2).to_bytes(8, "little") + bytes(8),
    }
    files.source.write_bytes(sample(False).tobytes())
    with files.source.open("rb") as file:
        tensors = [
            gguf_out.Tensor(name, dims, quant, TensorSource(file.fileno(), 0, "F32", *rows))
            for name, dims, quant, rows in (
                ("one", (32, 3), "Q8_0", (3, 32)),
                ("two", (256,), "Q2_K", (1, 256)),
                ("three", (5,), "F32", (1, 5)),
            )
        ]
        gguf_out.write_gguf(tmp_path / "out.gguf", metadata, tensors)
    judge = gguf.GGUFReader(tmp_path / "out.gguf")
    assert [(t.name, t.tensor_type.name, [*map(int, t.shape)]) for t in judge.tensors] == [
        ("one", "Q8_0", [32, 3]),
        ("two", "Q2_K", [256]),
        ("three", "F32", [5]),
    ]
    assert all(t.data_offset % 64 == 0 for t in judge.tensors)
    assert (tmp_path / "out.gguf").stat().st_size % 64 == 0
    assert judge.tensors[2].data.tobytes() == sample(False).tobytes()[:20]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    model = next(m for m in tiny_models.TINY_MODELS if m.name == "llama3")
    tiny_models.write_gguf(model, path)
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localllm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_writes_a_file_that_runs(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = run("quantize", tiny, "q8_0", "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    before, after = gguf.GGUFReader(tiny), gguf.GGUFReader(out)
    changed = {"general.file_type", "general.quantization_version"}
    assert set(before.fields) | changed == set(after.fields)
    for key in set(before.fields) - changed:
        if not key.startswith("GGUF."):
            assert before.fields[key].contents() == after.fields[key].contents()
    assert after.fields["general.file_type"].contents() == 7
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert old.name == new.name
        if new.tensor_type.name == "Q8_0":
            off = dequantize(new.data, new.tensor_type) - dequantize(old.data, old.tensor_type)
            assert float(np.abs(off).max()) < 0.02
    assert run("run", out, "--raw", "-n", "3", "hi").returncode == 0


def test_a_split_model_becomes_one_file(tiny: Path, tmp_path: Path) -> None:
    model = next(m for m in tiny_models.TINY_MODELS if m.name == "llama3")
    tiny_models.write_gguf(model, tmp_path / "split.gguf", split_tensors=7)
    files = sorted(tmp_path.glob("split-*.gguf"))
    assert len(files) > 2
    assert run("quantize", files[1], "Q4_K_M", "-o", tmp_path / "one.gguf").returncode == 0
    assert run("quantize", tiny, "Q4_K_M", "-o", tmp_path / "whole.gguf").returncode == 0
    one, whole = (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in ("one", "whole"))
    assert not any(key.startswith("split.") for key in one.fields)
    assert {t.name: t.data.tobytes() for t in one.tensors} == {
        t.name: t.data.tobytes() for t in whole.tensors
    }
    named = run("quantize", files[0], "Q8_0")
    assert named.stdout == f"{tmp_path / 'split-Q8_0.gguf'}\n"
    replaced = run("quantize", files[0], "Q8_0", "-o", files[2], "--force")
    assert replaced.returncode == 2 and "the same file" in replaced.stderr


def test_a_dry_run_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    shown = run("quantize", tiny, "Q4_0", "-o", out, "--dry-run", "--json")
    report = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert report["path"] is None
    assert {t["to"] for t in report["tensors"]} == {"F32", "Q4_0", "Q8_0", "F16"} - {"F16"}
    assert list(tmp_path.iterdir()) == []


def test_measured_losses_are_reported(tiny: Path, tmp_path: Path) -> None:
    shown = run("quantize", tiny, "Q4_0", "-o", tmp_path / "o", "--measure", "--json")
    losses = {t["to"]: t["relative_error"] for t in json.loads(shown.stdout)["tensors"]}
    assert losses["F32"] == 0
    assert 0 < losses["Q8_0"] < losses["Q4_0"] < 0.2


def test_importance_is_taken_from_a_file(tiny: Path, tmp_path: Path) -> None:
    matrix, plain, weighted = (tmp_path / name for name in ("i.gguf", "plain", "weighted"))
    assert run("imatrix", tiny, "-o", matrix, "--chunks", "1", "--ctx", "64").returncode == 0
    assert run("quantize", tiny, "Q4_0", "-o", plain).returncode == 0
    assert run("quantize", tiny, "Q4_0", "-o", weighted, "--imatrix", matrix).returncode == 0
    assert plain.read_bytes() != weighted.read_bytes()
    missing = run("quantize", tiny, "Q4_0", "-o", tmp_path / "x", "--imatrix", tmp_path / "none")
    assert missing.returncode != 0
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["Q4_X"], 2, "there is no quant 'Q4_X'"),
        (["Q4_0", "--tensor", "blk"], 2, "is not PATTERN=QUANT"),
        (["Q4_0", "--tensor", "nothing*=Q8_0"], 2, "is the name of no tensor"),
        (["Q4_0", "-o", "/nowhere/at/all.gguf"], 2, "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused(tiny: Path, arguments: list[str], code: int, said: str) -> None:
    done = run("quantize", tiny, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""


def test_a_destination_is_only_replaced_when_told_to(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    assert run("quantize", tiny, "Q8_0", "-o", out).returncode == 2
    assert out.read_text() == "mine"
    assert run("quantize", tiny, "Q8_0", "-o", out, "--force").returncode == 0
    assert run("quantize", tiny, "Q8_0", "-o", tiny, "--force").returncode == 2


def test_a_failure_leaves_the_destination_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    model = next(m for m in tiny_models.TINY_MODELS if m.name == "llama3")
    tiny_models.write_gguf(model, source)
    name = "blk.0.ffn_down.weight"
    tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == name)
    data = bytearray(source.read_bytes())
    data[tensor.data_offset : tensor.data_offset + 4] = np.float32(np.nan).tobytes()
    source.write_bytes(data)
    out.write_text("mine")
    done = run("quantize", source, "Q8_0", "-o", out, "--force")
    assert done.returncode == 1
    assert f"{name}: row 0, column 0 is not a finite number" in done.stderr
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.gguf", "source.gguf"]
