"""The quant table: every row against the gguf package, every dot against the written arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import gguf
import native_structs
import numpy as np
import numpy.typing as npt
import pytest
from exact_fma import fma, tree16
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from native_structs import QuantTraits

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

ACTS_F32, ACTS_BF16, ACTS_Q8_32, ACTS_Q8_256 = range(4)


@dataclass(frozen=True)
class Layout:
    """Where a block's float fields lie, so that tests can choose the scales of random blocks."""

    d: int | None = None  # byte offset of the f16 scale
    m: int | None = None  # of the f16 minimum
    m_sign: int = 1  # of the minimum in x = d * w + m_sign * m * mn
    one: tuple[int, ...] = field(default=(0x00, 0x3C))  # the bytes of a scale of 1


# In the table's order: F32 … IQ4_XS.
LAYOUTS = {
    "F32": Layout(),
    "F16": Layout(),
    "BF16": Layout(),
    "Q4_0": Layout(d=0),
    "Q4_1": Layout(d=0, m=2),
    "Q5_0": Layout(d=0),
    "Q5_1": Layout(d=0, m=2),
    "Q8_0": Layout(d=0),
    "IQ4_NL": Layout(d=0),
    "MXFP4": Layout(d=0, one=(128,)),
    "Q2_K": Layout(d=80, m=82, m_sign=-1),
    "Q3_K": Layout(d=108),
    "Q4_K": Layout(d=0, m=2, m_sign=-1),
    "Q5_K": Layout(d=0, m=2, m_sign=-1),
    "Q6_K": Layout(d=208),
    "IQ4_XS": Layout(d=0),
}
EXTREME_F16 = np.array([0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x03FF, 0x0400, 0x0000, 0x8000], np.uint16)


@dataclass
class Acts:
    """An acts struct and the memory behind it, as numpy arrays."""

    struct: native_structs.Acts
    memory: Bytes
    kind: int
    n: int
    n_cols: int

    def array(self, name: str, dtype: npt.DTypeLike, per: int) -> npt.NDArray[np.generic]:
        """One of the arrays as [n_cols, n / per]; integers lie block by block."""
        start = getattr(self.struct, name) - self.memory.ctypes.data
        count = self.n_cols * (self.n // per)
        flat = self.memory[start : start + count * np.dtype(dtype).itemsize].view(dtype)
        if self.kind in (ACTS_F32, ACTS_BF16):
            return flat.reshape(self.n_cols, self.n // per)
        block = self.block_dim
        by_block = flat.reshape(self.n // block, self.n_cols, block // per)
        return np.concatenate(by_block, axis=1)

    @property
    def block_dim(self) -> int:
        return 32 if self.kind == ACTS_Q8_32 else 256

    def numbers(self) -> npt.NDArray[np.float64]:
        """What the activations stand for, [n_cols, n]."""
        if self.kind == ACTS_F32:
            return self.array("f32", np.float32, 1).astype(np.float64)
        if self.kind == ACTS_BF16:
            return from_bf16(self.array("bf16", np.uint16, 1)).astype(np.float64)
        block = self.block_dim
        d = self.array("d", np.float32, block).astype(np.float64)
        q = self.array("q", np.int8, 1).astype(np.float64)
        return q * np.repeat(d, block, axis=1)


def from_bf16(bits: npt.NDArray[np.generic]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.fixture(scope="module")
def lib(internals: ctypes.CDLL) -> ctypes.CDLL:
    internals.quant_find.argtypes = [ctypes.c_uint32]
    internals.quant_find.restype = ctypes.POINTER(QuantTraits)
    internals.acts_bytes.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]
    internals.acts_bytes.restype = ctypes.c_size_t
    acts_pointer = ctypes.POINTER(native_structs.Acts)
    internals.acts_place.argtypes = [
        acts_pointer,
        ctypes.c_int,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    internals.acts_place.restype = None
    internals.acts_quantize.argtypes = [acts_pointer, ctypes.c_size_t, ctypes.c_void_p]
    internals.acts_quantize.restype = None
    return internals


@pytest.fixture(params=list(LAYOUTS))
def traits(request: pytest.FixtureRequest, lib: ctypes.CDLL) -> QuantTraits:
    table = (QuantTraits * len(LAYOUTS)).in_dll(lib, "quant_table")
    return table[list(LAYOUTS).index(request.param)]


def name_of(traits: QuantTraits) -> str:
    return str(traits.name.decode())


def quantized(lib: ctypes.CDLL, kind: int, x: Floats) -> Acts:
    """Activations holding the rows of x as columns, quantized by the scalar truth."""
    n_cols, n = x.shape
    n_bytes = lib.acts_bytes(kind, n, n_cols)
    room = np.full(n_bytes + 128, 0xA5, np.uint8)
    start = -room.ctypes.data % 64
    memory = room[start : start + n_bytes]
    acts = Acts(native_structs.Acts(), memory, kind, n, n_cols)
    lib.acts_place(ctypes.byref(acts.struct), kind, n, n_cols, memory.ctypes.data)
    for col in range(n_cols):
        row = np.ascontiguousarray(x[col])
        lib.acts_quantize(ctypes.byref(acts.struct), col, row.ctypes.data)
    assert (room[:start] == 0xA5).all()
    assert (room[start + n_bytes :] == 0xA5).all()
    return acts


def set_f16(blocks: Bytes, offset: int | None, values: npt.NDArray[np.uint16]) -> None:
    if offset is not None:
        blocks[:, offset : offset + 2] = values[:, None].view(np.uint8)


def random_blocks(name: str, n_blocks: int, rng: np.random.Generator) -> Bytes:
    """Blocks of random codes whose scales are ordinary numbers."""
    layout, n_bytes = LAYOUTS[name], GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    if name in ("F32", "F16", "BF16"):
        values = rng.normal(size=n_blocks).astype(np.float32)
        if name == "F16":
            return values.astype(np.float16)[:, None].view(np.uint8)
        return values[:, None].view(np.uint8)[:, 4 - n_bytes :].copy()
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(120, 136, n_blocks)
        return blocks
    for offset in (layout.d, layout.m):
        scales = (rng.uniform(0.5, 2, n_blocks) * rng.choice([-1, 1], n_blocks)).astype(np.float16)
        set_f16(blocks, offset, scales.view(np.uint16))
    return blocks


def dequantized(traits: QuantTraits, blocks: Bytes) -> Floats:
    blocks = np.ascontiguousarray(blocks)
    out = np.empty(len(blocks) * traits.block_dim, np.float32)
    traits.dequantize(blocks.ctypes.data, out.ctypes.data, out.size)
    return out


def gguf_dequantized(name: str, blocks: Bytes) -> Floats:
    rows = np.ascontiguousarray(blocks).reshape(1, -1)
    with np.errstate(over="ignore"):  # MXFP4's largest scales reach infinity
        values = gguf.quants.dequantize(rows, GGMLQuantizationType[name])
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def test_the_table_agrees_with_ggml(lib: ctypes.CDLL, traits: QuantTraits) -> None:
    name = name_of(traits)
    ggml = GGMLQuantizationType[name]
    assert traits.ggml_id == ggml.value
    assert (traits.block_dim, traits.block_bytes) == GGML_QUANT_SIZES[ggml]
    assert lib.quant_find(ggml.value).contents.name == traits.name


def test_the_table_has_the_rows_the_tests_walk(lib: ctypes.CDLL) -> None:
    table = (QuantTraits * len(LAYOUTS)).in_dll(lib, "quant_table")
    assert [name_of(row) for row in table] == list(LAYOUTS)
    known = [i for i in range(300) if lib.quant_find(i)]
    assert known == sorted(row.ggml_id for row in table)


def test_dequantize_equals_gguf(traits: QuantTraits) -> None:
    name = name_of(traits)
    blocks = random_blocks(name, 4096 if traits.block_dim == 1 else 257, np.random.default_rng(1))
    ours, theirs = dequantized(traits, blocks), gguf_dequantized(name, blocks)
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_dequantize_equals_gguf_at_extreme_scales(traits: QuantTraits) -> None:
    name, rng = name_of(traits), np.random.default_rng(2)
    layout = LAYOUTS[name]
    if layout.d is None:
        bits = 32 if name == "F32" else 16
        words = np.arange(1 << 16, dtype=np.uint32) * (65537 if bits == 32 else 1)
        blocks = words.astype(f"<u{bits // 8}")[:, None].view(np.uint8)
        values = gguf_dequantized(name, blocks)
        blocks = blocks[np.isfinite(values)]
    elif name == "MXFP4":
        blocks = random_blocks(name, 256, rng)
        blocks[:, 0] = np.arange(256)
    else:
        pairs = [(d, m) for d in EXTREME_F16 for m in EXTREME_F16]
        blocks = random_blocks(name, len(pairs), rng)
        set_f16(blocks, layout.d, np.array([d for d, _ in pairs], np.uint16))
        set_f16(blocks, layout.m, np.array([m for _, m in pairs], np.uint16))
    ours, theirs = dequantized(traits, blocks), gguf_dequantized(name, blocks)
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def test_dot_is_the_product_of_what_both_sides_stand_for(
    lib: ctypes.CDLL, traits: QuantTraits
) -> None:
    name, rng = name_of(traits), np.random.default_rng(3)
    n, n_rows, n_cols = 1024, 8, 3
    acts = quantized(lib, traits.acts, rng.normal(size=(n_cols, n)).astype(np.float32))
    a = acts.numbers()
    for _ in range(n_rows):
        blocks = random_blocks(name, n // traits.block_dim, rng)
        w = gguf_dequantized(name, blocks).astype(np.float64)
        for col in range(n_cols):
            got = traits.dot(blocks.ctypes.data, ctypes.byref(acts.struct), col)
            assert abs(got - w @ a[col]) <= 1e-6 * (abs(w) @ abs(a[col]))


def integer_weights(name: str, blocks: Bytes) -> tuple[Floats, Floats]:
    """What multiplies the scale and what multiplies the minimum, one integer a value; gguf tells
    them when one of the two is set to 1 and the other to 0."""
    layout = LAYOUTS[name]
    assert layout.d is not None
    scaled, minimums = blocks.copy(), blocks.copy()
    scaled[:, layout.d : layout.d + len(layout.one)] = layout.one
    if layout.m is None:
        return gguf_dequantized(name, scaled), np.zeros(0, np.float32)
    scaled[:, layout.m : layout.m + 2] = 0
    minimums[:, layout.d : layout.d + 2] = 0
    minimums[:, layout.m : layout.m + 2] = layout.one
    return gguf_dequantized(name, scaled), gguf_dequantized(name, minimums)


def block_scales(name: str, blocks: Bytes) -> Iterator[tuple[np.float32, np.float32]]:
    """(d, signed minimum) of each block."""
    layout = LAYOUTS[name]
    assert layout.d is not None
    for block in blocks:
        if name == "MXFP4":
            yield np.float32(2.0 ** (int(block[0]) - 128)), np.float32(0)
            continue
        d = block[layout.d : layout.d + 2].view(np.float16)[0]
        m = block[layout.m : layout.m + 2].view(np.float16)[0] if layout.m is not None else 0
        yield np.float32(d), np.float32(m)


def written_block_dot(name: str, blocks: Bytes, acts: Acts) -> np.float32:
    """The canonical arithmetic of column 0, with integer sums and exact fmaf."""
    dim = GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]
    codes, minimums = (v.astype(np.int64) for v in integer_weights(name, blocks))
    q = acts.array("q", np.int8, 1)[0].astype(np.int64)
    d_a = acts.array("d", np.float32, dim)[0]
    acc = np.float32(0)
    for b, (d, m) in enumerate(block_scales(name, blocks)):
        span = slice(b * dim, (b + 1) * dim)
        t = np.float32(int(codes[span] @ q[span])) * d
        if minimums.size:
            t = fma(np.float32(int(minimums[span] @ q[span])), m, t)
        acc = fma(t, d_a[b], acc)
    return acc


def written_float_dot(name: str, blocks: Bytes, acts: Acts) -> np.float32:
    w, lanes = gguf_dequantized(name, blocks), [np.float32(0)] * 16
    if name == "BF16":
        x = from_bf16(acts.array("bf16", np.uint16, 1)[0])
        for i in sorted(range(len(w)), key=lambda i: (i // 2, -i)):
            lanes[i // 2 % 16] = fma(w[i], x[i], lanes[i // 2 % 16])
    else:
        x = np.asarray(acts.array("f32", np.float32, 1)[0], np.float32)
        for i in range(len(w)):
            lanes[i % 16] = fma(w[i], x[i], lanes[i % 16])
    return tree16(lanes)


def test_dot_has_the_written_bits(lib: ctypes.CDLL, traits: QuantTraits) -> None:
    name, rng = name_of(traits), np.random.default_rng(4)
    for n_blocks in (1, 2, 7, 1, 3, 11, 13):
        count = n_blocks * 37 if traits.block_dim == 1 else n_blocks
        blocks = random_blocks(name, count, rng)
        # A wide range of magnitudes and sums far from zero leave every rounding its trace.
        wide = rng.normal(1, 1, (1, count * traits.block_dim)) * 10 ** rng.uniform(-3, 0)
        if traits.block_dim == 1:
            wide *= 10 ** rng.uniform(-3, 3, wide.shape)
        acts = quantized(lib, traits.acts, wide.astype(np.float32))
        written = written_float_dot if traits.block_dim == 1 else written_block_dot
        got = np.float32(traits.dot(blocks.ctypes.data, ctypes.byref(acts.struct), 0))
        assert got.view(np.uint32) == written(name, blocks, acts).view(np.uint32)


def test_dot_holds_the_largest_integers(lib: ctypes.CDLL, traits: QuantTraits) -> None:
    """All codes at one end and all activations at 127: integer sums must not wrap."""
    if traits.block_dim == 1:
        x = np.full((1, 64), 3.0, np.float32)
        one = {"F32": np.float32(1).tobytes(), "F16": b"\x00\x3c", "BF16": b"\x80\x3f"}
        blocks = np.frombuffer(one[name_of(traits)] * 64, np.uint8)
        acts = quantized(lib, traits.acts, x)
        assert traits.dot(blocks.ctypes.data, ctypes.byref(acts.struct), 0) == 192.0
        return
    name = name_of(traits)
    layout = LAYOUTS[name]
    assert layout.d is not None
    for fill in (0x00, 0x7F, 0x80, 0xFF):
        blocks = np.full((2, traits.block_bytes), fill, np.uint8)
        blocks[:, layout.d : layout.d + len(layout.one)] = layout.one
        set_f16(blocks, layout.m, np.full(2, 0x3C00, np.uint16))
        for sign in (1, -1):
            x = np.full((1, 2 * traits.block_dim), sign * 127.0, np.float32)
            acts = quantized(lib, traits.acts, x)
            got = np.float32(traits.dot(blocks.ctypes.data, ctypes.byref(acts.struct), 0))
            assert got == written_block_dot(name, blocks, acts)


def test_bf16_dot_takes_subnormals_as_zero(lib: ctypes.CDLL) -> None:
    bf16 = lib.quant_find(GGMLQuantizationType.BF16.value).contents
    tiny = np.array([0x0040, 0x0080], np.uint16)  # a subnormal, and the smallest normal number
    acts = quantized(lib, ACTS_BF16, np.array([[2.0, 2.0]], np.float32))
    got = bf16.dot(tiny.ctypes.data, ctypes.byref(acts.struct), 0)
    assert got == 2.0**-125
    half = quantized(lib, ACTS_BF16, np.array([[2.0, 0.5]], np.float32))
    assert bf16.dot(tiny.ctypes.data, ctypes.byref(half.struct), 0) == 0.0


def quantize_like_the_contract(x: Floats, block: int) -> tuple[Floats, npt.NDArray[np.int8]]:
    rows = x.reshape(-1, block)
    amax = abs(rows).max(axis=1)
    safe = np.where(amax < np.float32(1e-30), np.float32(1), amax)
    zero = (amax < np.float32(1e-30))[:, None]
    q = np.where(zero, 0, np.rint(rows * (np.float32(127) / safe)[:, None])).astype(np.int8)
    d = np.where(zero[:, 0], np.float32(0), amax / np.float32(127))
    return d.astype(np.float32), q.reshape(x.shape)


@pytest.mark.parametrize(("kind", "block"), [(ACTS_Q8_32, 32), (ACTS_Q8_256, 256)])
def test_acts_quantize(lib: ctypes.CDLL, kind: int, block: int) -> None:
    rng = np.random.default_rng(5)
    n, n_cols = 1024, 24
    x = rng.normal(size=(n_cols, n)).astype(np.float32)
    x *= np.exp(rng.uniform(-80, 80, (n_cols, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.float32(1e-30)
    x[2] = np.nextafter(np.float32(1e-30), np.float32(0))
    x[3, ::block] = np.finfo(np.float32).max
    x[4] = np.arange(n) % 253 - 126.5  # ties, as 127 makes the scale 1
    x[4, ::block] = 127
    x[5:9] = x[4] * (np.array([[1.1], [1.3], [1.7], [1.9]], np.float32) / 127)  # almost ties
    acts = quantized(lib, kind, x)
    d, q = quantize_like_the_contract(x, block)
    got_d = acts.array("d", np.float32, block)
    np.testing.assert_array_equal(acts.array("q", np.int8, 1), q)
    np.testing.assert_array_equal(got_d.view(np.uint32), d.reshape(got_d.shape).view(np.uint32))
    assert abs(q.astype(int)).max() == 127
    if kind == ACTS_Q8_32:
        sums, step = acts.array("sum", np.float32, 32), 32
    else:
        sums, step = acts.array("sums", np.int16, 16), 16
    np.testing.assert_array_equal(sums, q.reshape(n_cols, -1, step).sum(axis=2, dtype=np.int64))


@pytest.mark.parametrize(("kind", "block"), [(ACTS_Q8_32, 32), (ACTS_Q8_256, 256)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_shows(
    lib: ctypes.CDLL, kind: int, block: int, bad: float
) -> None:
    x = np.ones((1, 2 * block), np.float32)
    x[0, block + 5] = bad
    acts = quantized(lib, kind, x)
    d = np.asarray(acts.array("d", np.float32, block)[0], np.float32)
    assert d[0] == np.float32(1) / np.float32(127)
    assert np.isnan(d[1])
    assert not acts.array("q", np.int8, 1)[0, block:].any()


@pytest.mark.parametrize("kind", [ACTS_F32, ACTS_BF16, ACTS_Q8_32, ACTS_Q8_256])
def test_the_arrays_are_aligned_and_apart(lib: ctypes.CDLL, kind: int) -> None:
    n, n_cols = 768, 3
    sizes = {
        ACTS_F32: {"f32": 4 * n},
        ACTS_BF16: {"bf16": 2 * n},
        ACTS_Q8_32: {"q": n, "d": 4 * (n // 32), "sum": 4 * (n // 32)},
        ACTS_Q8_256: {"q": n, "d": 4 * (n // 256), "sums": 2 * (n // 16)},
    }[kind]
    acts = quantized(lib, kind, np.ones((n_cols, n), np.float32))
    spans = sorted(
        (getattr(acts.struct, name), getattr(acts.struct, name) + n_cols * n_bytes)
        for name, n_bytes in sizes.items()
    )
    assert all(start % 64 == 0 for start, _ in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[0][0] == acts.memory.ctypes.data
    assert spans[-1][1] <= acts.memory.ctypes.data + acts.memory.size


def test_bf16_activations_round_to_even(lib: ctypes.CDLL) -> None:
    bits = np.random.default_rng(6).integers(0, 1 << 32, 1 << 18, np.uint64).astype(np.uint32)
    bits[: 1 << 16] = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000  # every tie
    x = bits.view(np.float32)
    acts = quantized(lib, ACTS_BF16, x[None, :])
    got = np.asarray(acts.array("bf16", np.uint16, 1)[0], np.uint16)
    nan = np.isnan(x)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(got[~nan], rounded[~nan])
    assert np.isnan(from_bf16(got[nan])).all()
