"""Every kernel this processor can run returns the scalar kernels' bits.

The tests walk kernels_list and the quant table, so a new instruction set or a new format is
tested by being in them. Weights are random bytes (every code occurs, also those a quantizer would
not write) with chosen f16 scales; results are compared as bytes, without a tolerance.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
from collections.abc import Iterator
from ctypes import POINTER, c_size_t
from ctypes import c_void_p as ptr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from native_structs import (
    MATMUL,
    QUANTS,
    Acts,
    AttendChunk,
    AttendState,
    Kernels,
    Product,
    QuantTraits,
)

SCRATCH_BYTES = 512 * 1024
CHUNK = 64
# Byte offsets of the f16 fields of a block; every other byte may hold anything.
F16_FIELDS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,),
    "MXFP4": (), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
    "Q6_K": (208,), "IQ4_XS": (0,),
}  # fmt: skip
ACTS_F32, ACTS_BF16, ACTS_Q8_32, ACTS_Q8_256 = range(4)
GUARD = -12345.5  # what results must leave alone around them


class Engine(NamedTuple):
    lib: ctypes.CDLL
    table: Any  # [len(QUANTS)] QuantTraits
    scalar: Kernels
    others: list[Kernels]  # every other one this processor has


@pytest.fixture(scope="module")
def engine(internals: ctypes.CDLL) -> Engine:
    internals.acts_bytes.argtypes = (ctypes.c_int, c_size_t, c_size_t)
    internals.acts_bytes.restype = c_size_t
    internals.acts_place.argtypes = (POINTER(Acts), ctypes.c_int, c_size_t, c_size_t, ptr)
    internals.acts_place.restype = None
    table = (QuantTraits * len(QUANTS)).in_dll(internals, "quant_table")
    scalar = Kernels.in_dll(internals, "kernels_scalar")
    others = [k for k in kernels_list(internals) if k.name != b"scalar" and k.is_available()]
    if not others:
        assert not system_names_vectors()
        pytest.skip("this processor runs the scalar kernels alone: there is nothing to compare")
    return Engine(internals, table, scalar, others)


def system_names_vectors() -> bool:
    """Whether Linux lists instructions that some kernels are written for, whatever isa.c says."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and bool({"avx2", "asimd"} & set(cpuinfo.read_text().split()))


def kernels_list(lib: ctypes.CDLL) -> Iterator[Kernels]:
    pointers = (POINTER(Kernels) * 16).in_dll(lib, "kernels_list")
    for pointer in pointers:
        if not pointer:
            return
        yield pointer.contents


def aligned(n_bytes: int) -> np.ndarray:
    memory = np.zeros(n_bytes + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + n_bytes]


def at_the_edge(data: np.ndarray) -> tuple[np.ndarray, mmap.mmap]:
    """A copy that ends where memory ends: one byte more may not be read."""
    n_bytes = -(-data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, n_bytes + mmap.PAGESIZE)
    pages = np.frombuffer(memory, np.uint8)
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes, mprotect.restype = (ptr, c_size_t, ctypes.c_int), ctypes.c_int
    assert mprotect(pages.ctypes.data + n_bytes, mmap.PAGESIZE, 0) == 0  # PROT_NONE
    copy = pages[n_bytes - data.nbytes : n_bytes].reshape(data.shape)
    copy[:] = data
    return copy, memory


SCRATCH = aligned(SCRATCH_BYTES)


# ---- matmul ------------------------------------------------------------------------------------


def random_scales(rng: np.random.Generator, n: int, extreme: bool) -> np.ndarray:
    if extreme:
        # the largest, the smallest normal and subnormals, zeros of both signs
        choices = [0x7BFF, 0xFBFF, 0x0400, 0x0001, 0x8001, 0x03FF, 0x0000, 0x8000]
        return rng.choice(np.array(choices, np.uint16), n)
    scales: np.ndarray = (rng.uniform(0.01, 0.1, n) * rng.choice([-1, 1], n)).astype(np.float16)
    return scales.view(np.uint16)


def random_rows(
    rng: np.random.Generator, name: str, traits: Any, n_rows: int, k: int, extreme: bool
) -> np.ndarray:
    """[n_rows, row bytes] of one format."""
    n = n_rows * k
    if name == "F32":
        x = rng.standard_normal(n) * (10.0 ** rng.integers(-30, 15, n) if extreme else 1)
        return x.astype(np.float32).view(np.uint8).reshape(n_rows, -1)
    if name in ("F16", "BF16"):
        bits = rng.integers(0, 1 << 16, n).astype(np.uint16)
        exponent = 0x7C00 if name == "F16" else 0x7F80
        if name == "BF16" and not extreme:
            bits &= 0xBFFF  # below 2
        if extreme and name == "BF16":
            bits &= 0xDFFF
        bits[bits & exponent == exponent] ^= 0x4000  # finite
        return bits.view(np.uint8).reshape(n_rows, -1)
    n_blocks = n // traits.block_dim
    blocks = rng.integers(0, 256, (n_blocks, traits.block_bytes), dtype=np.uint8)
    if extreme:
        ends = rng.choice(np.array([0x00, 0x80, 0x7F, 0xFF], np.uint8), n_blocks)
        blocks[::2] = ends[::2, None]  # all codes and scales at one end
    if name == "MXFP4":
        blocks[:, 0] = rng.choice([0, 1, 2, 100, 150], n_blocks) if extreme else 120
    for offset in F16_FIELDS[name]:
        scales = random_scales(rng, n_blocks, extreme)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(n_rows, -1)


def random_columns(rng: np.random.Generator, n_cols: int, k: int, extreme: bool) -> np.ndarray:
    x = rng.standard_normal((n_cols, k)).astype(np.float32)
    if extreme:
        x = np.sign(x) * rng.choice(np.array([1.0, 3e-5, 1e-20], np.float32), (n_cols, 1))
        x[:, ::7] *= rng.uniform(0, 1, x[:, ::7].shape).astype(np.float32)
        x[rng.integers(0, n_cols), : k // 2] = 0  # zero blocks
        x[0] = np.abs(x[0])  # every activation at 127 of one sign
        x[0, ::7] = x[0, 1]
        x[-1] = -x[0]
    return np.ascontiguousarray(x, np.float32)


def place_columns(engine: Engine, kind: int, x: np.ndarray) -> tuple[Acts, np.ndarray]:
    n_cols, k = x.shape
    memory = aligned(engine.lib.acts_bytes(kind, k, n_cols))
    a = Acts()
    engine.lib.acts_place(ctypes.byref(a), kind, k, n_cols, memory.ctypes.data)
    for c in range(n_cols):
        engine.scalar.quantize(ctypes.byref(a), c, x[c].ctypes.data)
    return a, memory


def run_matmul(
    function: int, rows: np.ndarray, a: Acts, col0: int, n_cols: int, y_stride: int
) -> np.ndarray:
    y = np.full((n_cols, y_stride), GUARD, np.float32)
    product = Product(
        rows=rows.ctypes.data,
        row_bytes=rows.shape[1],
        n_rows=len(rows),
        a=ctypes.pointer(a),
        col0=col0,
        n_cols=n_cols,
        y=y.ctypes.data,
        y_stride=y_stride,
        scratch=SCRATCH.ctypes.data,
    )
    MATMUL(function)(ctypes.byref(product))
    return y


# rows, superblocks (or 8 blocks of 32), a first column, columns
SHAPES = [
    (1, 1, 0, 1), (3, 2, 1, 2), (7, 1, 0, 3), (8, 5, 0, 4), (9, 3, 2, 5), (16, 4, 0, 1),
    (17, 2, 0, 6), (19, 1, 3, 7), (33, 3, 0, 8), (5, 9, 0, 9), (24, 1, 0, 11), (15, 2, 1, 13),
    (41, 1, 0, 17), (21, 1, 0, 513), (2, 40, 0, 5),
]  # fmt: skip


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("name", QUANTS)
def test_matmul(engine: Engine, name: str, extreme: bool) -> None:
    index = QUANTS.index(name)
    traits = engine.table[index]
    assert traits.name == name.encode()
    kernels = [(k.name, k.matmul[index]) for k in engine.others if k.matmul[index]]
    rng = np.random.default_rng(index)
    for n_rows, n_units, col0, n_cols in SHAPES:
        if traits.block_dim == 256:
            k = n_units * 256
        elif traits.block_dim == 32:  # also numbers of blocks that are no multiple of 8
            k = n_units * 256 - (n_rows % 3) * 32
        else:
            k = n_units * 64 - n_rows % 5
        rows, _pages = at_the_edge(random_rows(rng, name, traits, n_rows, k, extreme))
        x = random_columns(rng, col0 + n_cols, k, extreme)
        a, _memory = place_columns(engine, traits.acts, x)
        stride = n_rows + 3
        expected = run_matmul(engine.scalar.matmul[index], rows, a, col0, n_cols, stride)
        assert np.isfinite(expected).all() and (expected[:, n_rows:] == GUARD).all()
        for kernel, function in kernels:
            y = run_matmul(function, rows, a, col0, n_cols, stride)
            assert y.tobytes() == expected.tobytes(), (kernel, n_rows, k, n_cols)


@pytest.mark.parametrize("name", ["F32", "F16"])
def test_float_tail_leaves_lanes_alone(engine: Engine, name: str) -> None:
    """Lanes that underflowed to -0 stay -0 where the tail does not reach them."""
    index = QUANTS.index(name)
    for k in (17, 33, 47):
        weights = np.full((3, k), 2.0**-20, np.float32 if name == "F32" else np.float16)
        rows = weights.view(np.uint8)
        a, _memory = place_columns(engine, ACTS_F32, np.full((5, k), -1e-44, np.float32))
        expected = run_matmul(engine.scalar.matmul[index], rows, a, 0, 5, 3)
        assert (np.signbit(expected) & (expected == 0)).all()
        for kernels in engine.others:
            if kernels.matmul[index]:
                y = run_matmul(kernels.matmul[index], rows, a, 0, 5, 3)
                assert y.tobytes() == expected.tobytes(), (kernels.name, k)


def test_bf16_where_subnormals_begin(engine: Engine) -> None:
    """A sum just below the smallest normal number rounds up to it, and is not flushed to zero."""
    index = QUANTS.index("BF16")
    for k in (31, 32, 47):
        odd = np.arange(k) % 2 == 1
        bits = np.where(odd, 0x2000, 0x1A00).astype(np.uint16)  # 2^-63 and 2^-75
        rows = np.tile(bits, (5, 1)).view(np.uint8)
        x = np.where(odd, 2.0**-63, -(2.0**-75)).astype(np.float32)
        a, _memory = place_columns(engine, ACTS_BF16, np.tile(x, (13, 1)))
        expected = run_matmul(engine.scalar.matmul[index], rows, a, 0, 13, 5)
        assert (expected[:, 0] >= 15 * 2.0**-126).all()
        for kernels in engine.others:
            if kernels.matmul[index]:
                for n_cols in (1, 2, 13):
                    y = run_matmul(kernels.matmul[index], rows, a, 0, n_cols, 5)
                    assert y.tobytes() == expected[:n_cols].tobytes(), (kernels.name, k, n_cols)


def test_long_rows_and_many_rows(engine: Engine) -> None:
    """Shapes whose tiles do not fit the caches at once."""
    rng = np.random.default_rng(7)
    for name, n_rows, k, n_cols in [("Q4_1", 9, 24608, 6), ("Q6_K", 9, 24576, 5),
                                    ("Q4_1", 530, 64, 7), ("Q4_K", 530, 256, 6)]:  # fmt: skip
        index = QUANTS.index(name)
        rows = random_rows(rng, name, engine.table[index], n_rows, k, False)
        x = random_columns(rng, n_cols, k, False)
        a, _memory = place_columns(engine, engine.table[index].acts, x)
        expected = run_matmul(engine.scalar.matmul[index], rows, a, 0, n_cols, n_rows)
        for kernels in engine.others:
            if kernels.matmul[index]:
                y = run_matmul(kernels.matmul[index], rows, a, 0, n_cols, n_rows)
                assert y.tobytes() == expected.tobytes(), (kernels.name, name, n_rows, k)


# ---- vectors -----------------------------------------------------------------------------------

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 127, 128, 576, 1000, 2053]


def vector(rng: np.random.Generator, n: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(n) * scale).astype(np.float32)


@pytest.mark.parametrize("kind", [ACTS_F32, ACTS_BF16, ACTS_Q8_32, ACTS_Q8_256])
def test_quantize(engine: Engine, kind: int) -> None:
    rng = np.random.default_rng(kind)
    x = rng.standard_normal((12, 768)).astype(np.float32)
    x[1] *= 1e30
    x[2] *= 3.5e-31  # blocks on both sides of the threshold for zero
    x[3] *= 1e-38
    x[4] = 0
    x[5] = -0.0
    x[6] = np.round(x[6] * 40) + 0.5  # ties, where the scale is 1
    x[6, ::32] = 127
    x[7, :300] = 0
    x[8] = 3.0e38 * np.sign(x[8])
    x[9] = np.float32(1e-30)
    x[10, 5] = np.inf
    x[11, 700] = -np.inf
    for k in (256, 768):
        columns = np.ascontiguousarray(x[:, :k])
        n_cols = len(columns)
        n_bytes = engine.lib.acts_bytes(kind, k, n_cols)
        results = []
        for kernels in [engine.scalar, *engine.others]:
            memory = aligned(n_bytes)
            a = Acts()
            engine.lib.acts_place(ctypes.byref(a), kind, k, n_cols, memory.ctypes.data)
            for c in reversed(range(n_cols)):
                kernels.quantize(ctypes.byref(a), c, columns[c].ctypes.data)
            results.append(memory.tobytes())
            assert results[-1] == results[0], (kernels.name, k)
        assert any(results[0])


def test_rms_norm(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    for n in SIZES:
        for scale in (1.0, 1e-12, 1e12):
            x, weight = vector(rng, n, scale), vector(rng, n)
            for w in (weight.ctypes.data, None):
                expected = np.empty_like(x)
                engine.scalar.rms_norm(x.ctypes.data, w, 1e-6, expected.ctypes.data, n)
                for kernels in engine.others:
                    y = x.copy()  # in place, as the contract allows
                    kernels.rms_norm(y.ctypes.data, w, 1e-6, y.ctypes.data, n)
                    assert y.tobytes() == expected.tobytes(), (kernels.name, n, scale)


def test_add(engine: Engine) -> None:
    rng = np.random.default_rng(2)
    for n in SIZES:
        x, y0 = vector(rng, n), vector(rng, n, 1e-3)
        for kernels in engine.others:
            expected, y = y0.copy(), y0.copy()
            engine.scalar.add(x.ctypes.data, expected.ctypes.data, n)
            kernels.add(x.ctypes.data, y.ctypes.data, n)
            assert y.tobytes() == expected.tobytes(), (kernels.name, n)


@pytest.mark.parametrize("function", ["silu_mul", "gelu_mul"])
def test_gates(engine: Engine, function: str) -> None:
    rng = np.random.default_rng(3)
    sweep = np.linspace(-120, 120, 40001, dtype=np.float32)
    edges = np.array([0.0, -0.0, -87, 87, -87.0001, 1e-40, -1e-40, 1e-20, 3e4, -3e4], np.float32)
    gates = [vector(rng, n, 4) for n in SIZES] + [sweep, edges]
    for gate in gates:
        up, expected, y = vector(rng, len(gate)), np.empty_like(gate), gate.copy()
        arguments = (up.ctypes.data, expected.ctypes.data, len(gate))
        getattr(engine.scalar, function)(gate.ctypes.data, *arguments)
        for kernels in engine.others:
            y = gate.copy()  # y may be gate
            getattr(kernels, function)(y.ctypes.data, up.ctypes.data, y.ctypes.data, len(gate))
            assert y.tobytes() == expected.tobytes(), (kernels.name, len(gate))


def test_to_f16(engine: Engine) -> None:
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = np.arange(0, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2  # to even
    edges = np.array([65519.9, 65520, -65520, 1e30, math.inf, -math.inf, 2**-25, 2**-26, -0.0])
    for x in [bits[np.isfinite(bits)], ties, -ties, np.nextafter(ties, np.float32(0)), edges]:
        x = np.ascontiguousarray(x, np.float32)
        for n in [*[s for s in SIZES if s <= len(x)], len(x)]:
            expected = np.zeros(n + 1, np.uint16)
            engine.scalar.to_f16(x.ctypes.data, expected.ctypes.data, n)
            for kernels in engine.others:
                y = np.zeros(n + 1, np.uint16)
                kernels.to_f16(x.ctypes.data, y.ctypes.data, n)
                assert y.tobytes() == expected.tobytes(), (kernels.name, n)


def test_no_kernels_lack_a_function(internals: ctypes.CDLL) -> None:
    """Also those that this processor cannot run; only a quant may be missing."""
    for kernels in kernels_list(internals):
        assert kernels.task_macs > 0
        for name, kind in Kernels._fields_:
            if name not in ("name", "matmul", "task_macs"):
                assert ctypes.cast(getattr(kernels, name), ptr).value, (kernels.name, name, kind)


def test_largest(engine: Engine) -> None:
    rng = np.random.default_rng(8)
    for n in SIZES:
        ties, zeros = np.full(n, -3.5, np.float32), np.zeros(n, np.float32)
        zeros[rng.integers(n)] = -0.0
        for x in (vector(rng, n), vector(rng, n, 5e37), ties, zeros, -zeros, zeros - 1e-44):
            expected = engine.scalar.largest(x.ctypes.data, n)
            assert expected == x.max() and not (expected == 0 and math.copysign(1, expected) < 0)
            for kernels in engine.others:
                largest = kernels.largest(x.ctypes.data, n)
                assert np.float32(largest).tobytes() == np.float32(expected).tobytes(), n
        for bad in (math.inf, -math.inf, math.nan, -math.nan):
            x = vector(rng, n)
            x[rng.integers(n)] = bad
            for kernels in [engine.scalar, *engine.others]:
                assert math.isnan(kernels.largest(x.ctypes.data, n)), (kernels.name, n, bad)


def test_sum_weights(engine: Engine) -> None:
    rng = np.random.default_rng(9)
    log2_e = math.log2(math.e)
    halves = np.arange(-90, 1, dtype=np.float32) / 2  # where the nearest integer changes
    near_the_last = np.nextafter(np.float32(-40), np.float32([-50, 0]))
    sets = [vector(rng, n, scale) for n in SIZES for scale in (0.01, 3, 30, 1e30)]
    sets += [halves, near_the_last, np.linspace(-42, 0, 30011, dtype=np.float32)]
    for x in sets:
        for scale in (log2_e, log2_e / 0.7, 1.0, 1e-9, 1e9):
            best = float(x.max())
            banned = x.copy()
            banned[rng.random(len(x)) < 0.2] = -math.inf
            for values in (x, banned):
                arguments = (values.ctypes.data, len(x), best, scale)
                expected = engine.scalar.sum_weights(*arguments)
                for kernels in engine.others:
                    assert kernels.sum_weights(*arguments) == expected, (kernels.name, len(x))
            assert engine.scalar.sum_weights(x.ctypes.data, len(x), best, scale) >= 1 << 40


# ---- attention ---------------------------------------------------------------------------------


KV_F16, KV_Q8_0, KV_Q4_0 = KV_TYPES = range(3)


class Attention(NamedTuple):
    k: np.ndarray  # u8, the bytes of a chunk of its type
    v: np.ndarray
    k_type: int
    v_type: int
    head_dim: int
    q: np.ndarray  # [n_rows, head_dim + 3] f32, of which head_dim are read
    first: np.ndarray
    last: np.ndarray
    scale: float


def as_bytes(*arrays: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ascontiguousarray(a).view(np.uint8).ravel() for a in arrays])


def draw_side(
    rng: np.random.Generator, kind: int, head_dim: int, seen: np.ndarray, unseen: float
) -> list[np.ndarray]:
    """Keys, or values transposed, as stored; `unseen` is in memory that nobody sees."""
    numbers = rng.standard_normal((head_dim, CHUNK)).astype(np.float16)
    if kind == KV_F16:
        numbers[:, ~seen] = unseen
        return [numbers]
    scales = numbers[: (head_dim + 31) // 32] / np.float16(100)
    scales[:, ~seen] = unseen
    n_rows = head_dim if kind == KV_Q8_0 else head_dim // 2
    return [rng.integers(0, 256, (n_rows, CHUNK)).astype(np.uint8), scales]


def run_attend(kernels: Kernels, t: Attention) -> tuple[bytes, list[AttendState], np.ndarray]:
    n_rows, head_dim = len(t.q), t.head_dim
    o = np.full((n_rows, head_dim), GUARD, np.float32)
    states = (AttendState * n_rows)()
    for r in range(n_rows):
        states[r].o = o[r].ctypes.data
    k, v = t.k.ctypes.data, t.v.ctypes.data
    chunk = AttendChunk(k, v, head_dim, t.k_type, t.v_type, next_k=k, next_v=v)
    kernels.attend(
        ctypes.byref(chunk), t.q.ctypes.data, t.q.shape[1], n_rows, t.scale, t.first.ctypes.data,
        t.last.ctypes.data, ctypes.addressof(states), SCRATCH.ctypes.data,
    )  # fmt: skip
    sums = np.array([[s.m, s.l] for s in states], np.float32)
    return sums.tobytes() + o.tobytes(), list(states), o


def ranges(rng: np.random.Generator, how: str, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    first, last = np.zeros(n_rows, np.uint8), np.full(n_rows, CHUNK, np.uint8)
    if how == "diagonal":
        last = (np.arange(n_rows) % CHUNK + 1).astype(np.uint8)
    elif how == "window":
        first = (np.arange(n_rows) % CHUNK).astype(np.uint8)
    elif how == "any":
        first = rng.integers(0, CHUNK, n_rows).astype(np.uint8)
        last = np.array([rng.integers(f + 1, CHUNK + 1) for f in first], np.uint8)
    elif how == "few":
        last = np.full(n_rows, 3, np.uint8)
    return first, last


def attention(
    rng: np.random.Generator, how: str, n_rows: int, head_dim: int, types: tuple[int, int]
) -> Attention:
    first, last = ranges(rng, how, n_rows)
    seen = np.zeros(CHUNK, bool)
    for a, b in zip(first, last, strict=True):
        seen[a:b] = True
    k = as_bytes(*draw_side(rng, types[0], head_dim, seen, math.nan))
    v = as_bytes(*(a.T for a in draw_side(rng, types[1], head_dim, seen, math.inf)))
    q = rng.standard_normal((n_rows, head_dim + 3)).astype(np.float32)
    return Attention(k, v, *types, head_dim, q, first, last, 1 / math.sqrt(head_dim))


@pytest.mark.parametrize("types", list(itertools.product(KV_TYPES, KV_TYPES)))
@pytest.mark.parametrize("how", ["full", "diagonal", "window", "any", "few"])
def test_attend(engine: Engine, how: str, types: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    for n_rows in (1, 2, 3, 4, 5, 8, 9, 31, 64, 70):
        for head_dim in (8, 24, 64, 72, 128, 256):
            t = attention(rng, how, n_rows, head_dim, types)
            if n_rows == 3:
                t.q[:] *= 50  # exponentials that vanish
            if n_rows == 5:
                t.q[1::2] = 0  # scores of zero
            expected, _, o = run_attend(engine.scalar, t)
            assert np.isfinite(o).all()
            for kernels in engine.others:
                assert run_attend(kernels, t)[0] == expected, (kernels.name, n_rows, head_dim)


def test_attend_zero_of_either_sign(engine: Engine) -> None:
    """Scores that underflow to -0 and +0: the maximum is the first of them."""
    k = np.zeros((8, CHUNK), np.float16)
    k[7] = np.array([2.0**-24, -(2.0**-24)] * (CHUNK // 2), np.float16)
    v = np.ones((CHUNK, 8), np.float16)
    q = np.zeros((2, 8), np.float32)
    q[:, 7] = [1e-44, -1e-44]  # the last dimension: nothing is added to its zero
    seen = np.zeros(2, np.uint8), np.full(2, CHUNK, np.uint8)
    t = Attention(as_bytes(k), as_bytes(v), KV_F16, KV_F16, 8, q, *seen, 1.0)
    expected = run_attend(engine.scalar, t)
    assert [math.copysign(1, s.m) for s in expected[1]] == [1, -1]
    for kernels in engine.others:
        assert run_attend(kernels, t)[0] == expected[0], kernels.name


def test_attend_merge(engine: Engine) -> None:
    rng = np.random.default_rng(6)
    for head_dim in (8, 24, 64, 256):
        for into_m, from_m in [(0.5, 2.0), (2.0, 0.5), (1.0, 1.0), (-90.0, 3.0), (3.0, -90.0)]:
            a, b = vector(rng, head_dim), vector(rng, head_dim)
            results = []
            for kernels in [engine.scalar, *engine.others]:
                o = a.copy()
                into = AttendState(into_m, 1.7, o.ctypes.data)
                other = AttendState(from_m, 40.2, b.ctypes.data)
                kernels.attend_merge(ctypes.byref(into), ctypes.byref(other), head_dim)
                results.append(np.array([into.m, into.l], np.float32).tobytes() + o.tobytes())
                assert results[-1] == results[0], (kernels.name, head_dim, into_m, from_m)


def test_the_list_ends_with_scalar(internals: ctypes.CDLL) -> None:
    names = [k.name.decode() for k in kernels_list(internals)]
    assert names[-1] == "scalar" and len(set(names)) == len(names)
    scalar = Kernels.in_dll(internals, "kernels_scalar")
    assert scalar.is_available() and all(scalar.matmul)
