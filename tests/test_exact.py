"""The scalar truth of float work: conversions, functions, ordered sums, attention."""

from __future__ import annotations

import ctypes
import math
import struct
import zlib
from collections.abc import Callable
from decimal import Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt
import pytest
from exact_fma import fma, tree16
from native_structs import AttendChunk, AttendState, Kernels

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]

CHUNK = 64
Q8_0, Q4_0 = 1, 2  # of enum kv_type


POINTER, SIZE, FLOAT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float


@pytest.fixture(scope="module")
def lib(internals: ctypes.CDLL) -> ctypes.CDLL:
    for name in ("exp", "sigmoid", "silu", "gelu"):
        function = getattr(internals, f"exact_{name}")
        function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    for name, source, target in (
        ("f16_to_f32", ctypes.c_uint16, ctypes.c_float),
        ("f32_to_f16", ctypes.c_float, ctypes.c_uint16),
        ("bf16_to_f32", ctypes.c_uint16, ctypes.c_float),
        ("f32_to_bf16", ctypes.c_float, ctypes.c_uint16),
        ("log", ctypes.c_double, ctypes.c_double),
    ):
        function = getattr(internals, f"exact_{name}")
        function.argtypes, function.restype = [source], target
    internals.exact_pow.argtypes = [ctypes.c_double, ctypes.c_double]
    internals.exact_pow.restype = ctypes.c_double
    double_pointer = ctypes.POINTER(ctypes.c_double)
    internals.exact_sincos.argtypes = [ctypes.c_double, double_pointer, double_pointer]
    internals.exact_sincos.restype = None
    internals.exact_tree16.argtypes = [ctypes.c_void_p]
    internals.exact_tree16.restype = ctypes.c_float
    internals.exact_sum_squares.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    internals.exact_sum_squares.restype = ctypes.c_float
    internals.exact_rms_norm.argtypes = [POINTER, POINTER, FLOAT, POINTER, SIZE]
    internals.exact_rms_norm.restype = None
    internals.kernels_find.argtypes = [ctypes.c_char_p]
    internals.kernels_find.restype = ctypes.POINTER(Kernels)
    internals.kernels_matmul.argtypes = [ctypes.POINTER(Kernels), ctypes.c_int]
    internals.kernels_matmul.restype = ctypes.c_void_p
    return internals


@pytest.fixture(scope="module")
def scalar(lib: ctypes.CDLL) -> Kernels:
    found = lib.kernels_find(b"scalar")
    assert found
    scalar: Kernels = found.contents
    return scalar


def apply(function: Callable[[float], float], x: Floats) -> Doubles:
    return np.array([function(float(v)) for v in x], np.float64)


def worst(got: Doubles, expected: Doubles) -> float:
    return float((abs(got - expected) / abs(expected)).max())


# ---- the list of kernels ----------------------------------------------------------------------


def test_the_list_of_kernels(lib: ctypes.CDLL, scalar: Kernels) -> None:
    assert scalar.name == b"scalar"
    assert not lib.kernels_find(b"no such kernels")
    listed = (ctypes.POINTER(Kernels) * 8).in_dll(lib, "kernels_list")
    names = []
    for entry in listed:
        if not entry:
            break
        names.append(entry.contents)
    usable = [k.name for k in names if k.is_available()]
    assert usable[-1] == b"scalar"
    assert lib.kernels_find(None).contents.name == usable[0]
    for k in names:
        assert bool(lib.kernels_find(k.name)) == (k.name in usable)


def test_a_missing_matmul_falls_back_to_the_scalar_one(lib: ctypes.CDLL, scalar: Kernels) -> None:
    assert all(scalar.matmul)
    own = Kernels.from_buffer_copy(scalar)
    own.matmul[3] = None
    own.matmul[4] = scalar.matmul[5]
    assert lib.kernels_matmul(ctypes.byref(own), 3) == scalar.matmul[3]
    assert lib.kernels_matmul(ctypes.byref(own), 4) == scalar.matmul[5]


# ---- conversions ------------------------------------------------------------------------------


def test_every_f16_widens_like_numpy(lib: ctypes.CDLL) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    got = np.array([lib.exact_f16_to_f32(int(b)) for b in bits], np.float32)
    expected = bits.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(got[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert np.isnan(got[nan]).all()


def test_every_bf16_widens_by_its_bits(lib: ctypes.CDLL) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    got = np.array([lib.exact_bf16_to_f32(int(b)) for b in bits], np.float32)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(got[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert np.isnan(got[nan]).all()
    back = [lib.exact_f32_to_bf16(float(v)) for v in expected[~nan]]
    np.testing.assert_array_equal(np.array(back, np.uint16), bits[~nan])


def test_f32_narrows_to_f16_like_numpy(scalar: Kernels) -> None:
    """Random bits, and around every f16 number and every midpoint between two of them."""
    rng = np.random.default_rng(1)
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    halves[-1] = 65536.0  # what infinity rounds from
    points = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2]).astype(np.float32)
    near = [points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(np.inf))]
    random_bits = rng.integers(0, 1 << 32, 1 << 20, np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([*near, *(-v for v in near), random_bits])
    got = np.empty(x.size, np.uint16)
    scalar.to_f16(x.ctypes.data, got.ctypes.data, x.size)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(got[~nan], expected[~nan].view(np.uint16))
    assert np.isnan(got[nan].view(np.float16)).all()


# ---- functions --------------------------------------------------------------------------------


def test_exp(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate(
        [rng.uniform(-87, 88, 150_000), rng.normal(size=50_000) * 1e-3, [-87.0, 88.0, 1e-40]]
    ).astype(np.float32)
    assert worst(apply(lib.exact_exp, x), np.exp(x.astype(np.float64))) < 1e-7
    assert lib.exact_exp(0.0) == lib.exact_exp(-0.0) == 1.0
    below = float(np.nextafter(np.float32(-87), np.float32(-np.inf)))
    assert lib.exact_exp(below) == lib.exact_exp(-3e38) == lib.exact_exp(-math.inf) == 0.0
    assert math.isnan(lib.exact_exp(math.nan))


def test_sigmoid_and_silu(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(3).uniform(-86.9, 86.9, 100_000).astype(np.float32)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert worst(apply(lib.exact_sigmoid, x), sigmoid) < 2.5e-7
    assert worst(apply(lib.exact_silu, x), x * sigmoid) < 3e-7
    assert lib.exact_sigmoid(0.0) == 0.5
    assert lib.exact_sigmoid(200.0) == 1.0
    assert lib.exact_sigmoid(-200.0) == 0.0
    assert lib.exact_silu(-200.0) == 0.0
    assert lib.exact_silu(1e30) == np.float32(1e30)


def test_gelu(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(4).uniform(-8, 12, 100_000).astype(np.float32)
    wide = x.astype(np.float64)
    z = 2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    got, expected = apply(lib.exact_gelu, x), wide / (1 + np.exp(-z))
    # The rounding of z, relative to z, becomes a relative error of e^z as large as z times that.
    assert (abs(got - expected) <= 2e-7 * (1 + abs(z)) * abs(expected)).all()
    tanh_form = 0.5 * wide * (1 + np.tanh(z / 2))
    assert (abs(got - tanh_form) <= 2e-7 * (1 + abs(wide))).all()
    assert lib.exact_gelu(0.0) == 0.0
    assert lib.exact_gelu(-1e30) == 0.0
    assert lib.exact_gelu(1e30) == np.float32(1e30)


def test_log(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [
            10.0 ** rng.uniform(-300, 300, 1000),
            rng.uniform(0.5, 2, 1000),
            1 + rng.normal(size=1000) * 1e-6,
            [5e-324, 1e-310, 2.0**-1022, 1.7e308, 10000.0, 1e6],
        ]
    )
    with localcontext(Context(prec=40)):
        for value in map(float, x[x != 1]):
            exact = Decimal(value).ln()
            assert abs((Decimal(lib.exact_log(value)) - exact) / exact) < Decimal("3e-16")
    assert lib.exact_log(1.0) == 0.0


def test_pow(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(6)
    cases = [(1e4, -i / 64) for i in range(65)] + [(1e6, -i / 128) for i in range(129)]
    bases = 10.0 ** rng.uniform(-8, 8, 1000)
    cases += [
        (float(b), float(y))
        for b, y in zip(bases, rng.uniform(-60, 60, bases.size), strict=True)
        if abs(y * math.log2(b)) < 1000
    ]
    assert len(cases) > 1000
    with localcontext(Context(prec=40)):
        for base, y in cases:
            exact = (Decimal(y) * Decimal(base).ln()).exp()
            assert abs(Decimal(lib.exact_pow(base, y)) / exact - 1) < Decimal("5e-16")
    assert lib.exact_pow(10000.0, 0.0) == 1.0
    assert lib.exact_pow(2.0, 10.0) == 1024.0
    assert lib.exact_pow(2.0, -999.0) == 2.0**-999
    assert lib.exact_pow(10.0, 400.0) == math.inf
    assert lib.exact_pow(10.0, -400.0) == 0.0


def sincos(lib: ctypes.CDLL, x: float) -> tuple[float, float]:
    sin_x, cos_x = ctypes.c_double(), ctypes.c_double()
    lib.exact_sincos(x, ctypes.byref(sin_x), ctypes.byref(cos_x))
    return sin_x.value, cos_x.value


def test_sincos(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(7)
    x = np.concatenate(
        [
            rng.uniform(-1, 1, 20_000) * 2.0 ** rng.uniform(-40, 30, 20_000),
            rng.integers(0, 2**30, 20_000),
            rng.integers(-(6 * 10**8), 6 * 10**8, 20_000) * (math.pi / 2),  # close to a zero
            [2.0**30, -(2.0**30), 1e-300],
        ]
    )
    got = np.array([sincos(lib, float(v)) for v in x])
    assert worst(got[:, 0], np.sin(x)) < 5e-16
    assert worst(got[:, 1], np.cos(x)) < 5e-16
    assert sincos(lib, 0.0) == (0.0, 1.0)
    for outside in (math.inf, math.nan, 2.0**31):
        assert all(math.isnan(v) for v in sincos(lib, outside))


def test_functions_have_the_same_bits_on_every_system(lib: ctypes.CDLL) -> None:
    """A checksum over all of them, of inputs made from integers alone; a processor or a C library
    that computes one of them differently changes it."""
    sum_of_bits = 0
    for i in range(1, 20_001):
        small = (i * 7919 % 20011 - 10005) / 128
        floats = [
            lib.exact_exp(-abs(small)),
            lib.exact_sigmoid(small),
            lib.exact_silu(small),
            lib.exact_gelu(small / 8),
        ]
        doubles = [
            lib.exact_log(i * 977 / 1024),
            lib.exact_pow(10000.0, -i / 20011),
            *sincos(lib, i * 7919 % 20011 * 977 / 1024),
        ]
        sum_of_bits = zlib.crc32(struct.pack("<4f4d", *floats, *doubles), sum_of_bits)
    assert sum_of_bits == 0x31210436


# ---- ordered sums -----------------------------------------------------------------------------


def test_tree16_adds_by_halves(lib: ctypes.CDLL) -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        lanes = (rng.normal(size=16) * 10.0 ** rng.uniform(-6, 6, 16)).astype(np.float32)
        assert np.float32(lib.exact_tree16(lanes.ctypes.data)) == tree16(lanes)


@pytest.mark.parametrize("n", [1, 15, 64, 65, 150, 576])
def test_sum_of_squares_has_the_written_order(lib: ctypes.CDLL, n: int) -> None:
    rng = np.random.default_rng(n)
    x = (rng.normal(size=n) * 10.0 ** rng.uniform(-3, 3, n)).astype(np.float32)
    lanes = [np.float32(0)] * 64
    for i in range(n):
        lanes[i % 64] = fma(x[i], x[i], lanes[i % 64])
    groups = [lanes[16 * g : 16 * (g + 1)] for g in range(4)]
    combined = [(a + b) + (c + d) for a, b, c, d in zip(*groups, strict=True)]
    assert np.float32(lib.exact_sum_squares(x.ctypes.data, n)) == tree16(combined)


@pytest.mark.parametrize("n", [1, 63, 64, 640])
def test_rms_norm(lib: ctypes.CDLL, scalar: Kernels, n: int) -> None:
    rng = np.random.default_rng(n)
    x, weight = (rng.normal(size=n).astype(np.float32) for _ in range(2))
    eps = float(np.float32(1e-5))
    y, plain = np.empty_like(x), x.copy()
    scalar.rms_norm(x.ctypes.data, weight.ctypes.data, eps, y.ctypes.data, n)
    lib.exact_rms_norm(plain.ctypes.data, None, eps, plain.ctypes.data, n)  # in place
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean() + eps)
    assert worst(plain.astype(np.float64), expected) < 1e-6
    np.testing.assert_array_equal(y, plain * weight)


def test_elementwise_kernels(lib: ctypes.CDLL, scalar: Kernels) -> None:
    rng = np.random.default_rng(9)
    gate, up = (rng.normal(size=77).astype(np.float32) for _ in range(2))
    y = up.copy()
    scalar.add(gate.ctypes.data, y.ctypes.data, y.size)
    np.testing.assert_array_equal(y, gate + up)
    for kernel, function in ((scalar.silu_mul, lib.exact_silu), (scalar.gelu_mul, lib.exact_gelu)):
        y = gate.copy()
        kernel(y.ctypes.data, up.ctypes.data, y.ctypes.data, y.size)  # in place
        np.testing.assert_array_equal(y, apply(function, gate).astype(np.float32) * up)


# ---- attention --------------------------------------------------------------------------------


def nibbles(codes: npt.NDArray[np.int8]) -> bytes:
    """Two neighbours of the last axis to a byte, the first one low."""
    shifted = (codes + 8).astype(np.uint8)
    return (shifted[..., ::2] | shifted[..., 1::2] << 4).tobytes()


@pytest.mark.parametrize("kind", [Q8_0, Q4_0])
@pytest.mark.parametrize("head_dim", [8, 64, 80])
def test_elements_of_rounded_keys_and_values(lib: ctypes.CDLL, head_dim: int, kind: int) -> None:
    """Where codes and scales lie, and their exact product."""
    rng = np.random.default_rng(head_dim)
    limit = 128 if kind == Q8_0 else 8
    codes = rng.integers(-limit, limit, (head_dim, CHUNK)).astype(np.int8)
    scales = rng.normal(size=((head_dim + 31) // 32, CHUNK)).astype(np.float16)
    block = np.arange(head_dim) // 32
    expected = codes.astype(np.float64) * scales[block].astype(np.float64)
    if kind == Q8_0:
        keys, values = codes.tobytes(), codes.T.tobytes()
    else:  # of keys, two channels of one position
        keys = nibbles(codes.reshape(-1, 2, CHUNK).transpose(0, 2, 1))
        values = nibbles(np.ascontiguousarray(codes.T))
    for read, stored in (
        (lib.kv_key, keys + scales.tobytes()),
        (lib.kv_value, values + scales.T.tobytes()),
    ):
        read.restype = FLOAT
        read.argtypes = (ctypes.c_int, POINTER, SIZE, SIZE, SIZE)
        for j, channel in ((0, 0), (63, head_dim - 1), (17, head_dim // 2), (40, 3)):
            assert read(kind, stored, head_dim, j, channel) == expected[channel, j]


@pytest.mark.parametrize("head_dim", [8, 24, 64, 80, 256])
def test_rotation_is_a_hadamard_matrix_and_its_own_inverse(lib: ctypes.CDLL, head_dim: int) -> None:
    lib.kv_rotate.restype, lib.kv_rotate.argtypes = None, (POINTER, SIZE)
    group = head_dim & -head_dim
    i = np.arange(head_dim)
    signs = np.array([[(-1) ** (int(a & b & (group - 1)).bit_count()) for a in i] for b in i])
    matrix = signs * (i[:, None] // group == i // group) / group**0.5
    x = np.random.default_rng(head_dim).normal(size=head_dim).astype(np.float32)
    y = x.copy()
    lib.kv_rotate(y.ctypes.data, head_dim)
    np.testing.assert_allclose(y, matrix @ x.astype(np.float64), rtol=0, atol=2e-6)
    lib.kv_rotate(y.ctypes.data, head_dim)
    np.testing.assert_allclose(y, x, rtol=0, atol=2e-6)


def test_rounding_to_four_bits(lib: ctypes.CDLL) -> None:
    """The extreme is -8 exactly; nothing else is off by more than half a step, or by one where the
    other end of the range is cut."""
    lib.kv_round_q4.restype, lib.kv_round_q4.argtypes = FLOAT, (POINTER, POINTER)
    rng = np.random.default_rng(4)
    codes = np.zeros(32, np.int8)
    for scale in (1e-20, 1.0, 1e20):
        x = (rng.normal(size=32) * scale).astype(np.float32)
        d = lib.kv_round_q4(x.ctypes.data, codes.ctypes.data)
        extreme = int(np.abs(x).argmax())
        assert d == x[extreme] / np.float32(-8)
        assert codes[extreme] == -8 and codes.max() <= 7
        steps = x.astype(np.float64) / d
        assert (abs(codes - steps) <= np.where(steps > 7.5, 1, 0.5) + 1e-5).all()
    for x0, expected in ((0.0, 0.0), (1e-31, 0.0), (np.inf, np.nan), (np.nan, np.nan)):
        x = np.zeros(32, np.float32)
        x[7] = x0
        np.testing.assert_equal(lib.kv_round_q4(x.ctypes.data, codes.ctypes.data), expected)
        assert not codes.any()


class Chunk:
    """Random keys and values of one chunk and the result of attending to them."""

    def __init__(self, k_dim: int, v_dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.k_dim, self.v_dim = k_dim, v_dim
        self.k: Halves = rng.normal(size=(k_dim, CHUNK)).astype(np.float16)
        self.v: Halves = rng.normal(size=(CHUNK, v_dim)).astype(np.float16)

    def attend(
        self, scalar: Kernels, q: Floats, spans: list[tuple[int, int]], scale: float
    ) -> tuple[list[AttendState], Floats]:
        """Row r of q attends to the positions of spans[r]; o is [n_rows, v_dim]."""
        n_rows = len(spans)
        o = np.full((n_rows, self.v_dim), np.nan, np.float32)
        states = (AttendState * n_rows)()
        for r in range(n_rows):
            states[r].o = o[r].ctypes.data
        first = np.array([a for a, _ in spans], np.uint8)
        last = np.array([b for _, b in spans], np.uint8)
        chunk = AttendChunk(self.k.ctypes.data, self.v.ctypes.data, self.k_dim, self.v_dim)
        scalar.attend(
            ctypes.byref(chunk),
            q.ctypes.data,
            q.shape[1],
            n_rows,
            scale,
            first.ctypes.data,
            last.ctypes.data,
            states,
            None,
        )
        return list(states), o


def softmax_average(scores: Doubles, v: Doubles) -> Doubles:
    p = np.exp(scores - scores.max())
    return np.asarray((p @ v) / p.sum(), np.float64)


@pytest.mark.parametrize(
    ("k_dim", "v_dim"), [(8, 8), (64, 64), (80, 80), (256, 256), (24, 72), (96, 40)]
)
def test_attend_is_softmax_attention(scalar: Kernels, k_dim: int, v_dim: int) -> None:
    chunk = Chunk(k_dim, v_dim, k_dim)
    spans = [(0, 1), (0, 64), (63, 64), (5, 37), (17, 18), (30, 64)]
    rng = np.random.default_rng(10)
    q = rng.normal(size=(len(spans), k_dim + 24)).astype(np.float32)  # rows lie apart
    scale = float(np.float32(k_dim**-0.5))
    states, o = chunk.attend(scalar, q, spans, scale)
    for r, (a, b) in enumerate(spans):
        scores = q[r, :k_dim].astype(np.float64) @ chunk.k[:, a:b].astype(np.float64) * scale
        v = chunk.v[a:b].astype(np.float64)
        assert abs(states[r].m - scores.max()) < 1e-5
        expected = softmax_average(scores, v)
        assert abs(o[r] / np.float64(states[r].l) - expected).max() < 2e-6 * abs(v).max()


def test_attend_has_the_written_bits(lib: ctypes.CDLL, scalar: Kernels) -> None:
    chunk = Chunk(8, 8, 11)
    q = np.random.default_rng(11).normal(size=(1, 8)).astype(np.float32)
    scale, (a, b) = np.float32(0.3), (3, 41)
    (state,), o = chunk.attend(scalar, q, [(a, b)], float(scale))
    k, v = chunk.k.astype(np.float32), chunk.v.astype(np.float32)
    scores = {}
    for j in range(a, b):
        s = np.float32(0)
        for d in range(8):
            s = fma(q[0, d], k[d, j], s)
        scores[j] = s * scale
    m = max(scores.values())
    lanes, weighted = [np.float32(0)] * 16, [np.float32(0)] * 8
    for j, s in scores.items():
        p = np.float32(lib.exact_exp(float(s - m)))
        lanes[j % 16] += p
        weighted = [fma(p, v[j, d], weighted[d]) for d in range(8)]
    assert np.float32(state.m) == m
    assert np.float32(state.l) == tree16(lanes)
    np.testing.assert_array_equal(o[0], np.array(weighted))


def test_merged_chunks_are_one_attention(scalar: Kernels) -> None:
    head_dim, n_chunks, scale = 64, 4, 0.125
    chunks = [Chunk(head_dim, head_dim, 20 + i) for i in range(n_chunks)]
    q = np.random.default_rng(12).normal(size=(1, head_dim)).astype(np.float32) * 4
    spans = [(9, 64), (0, 64), (0, 64), (0, 13)]
    parts = [c.attend(scalar, q, [s], scale) for c, s in zip(chunks, spans, strict=True)]
    ((into,), o), rest = parts[0], parts[1:]
    for (state,), _ in rest:
        scalar.attend_merge(ctypes.byref(into), ctypes.byref(state), head_dim)
    k = np.concatenate([c.k[:, a:b] for c, (a, b) in zip(chunks, spans, strict=True)], axis=1)
    v = np.concatenate([c.v[a:b] for c, (a, b) in zip(chunks, spans, strict=True)])
    scores = q[0].astype(np.float64) @ k.astype(np.float64) * scale
    expected = softmax_average(scores, v.astype(np.float64))
    assert abs(into.m - scores.max()) < 1e-5
    assert abs(o[0] / np.float64(into.l) - expected).max() < 2e-6 * float(abs(v).max())


def test_merge_has_the_written_bits(lib: ctypes.CDLL, scalar: Kernels) -> None:
    rng = np.random.default_rng(13)
    maxima = rng.normal(size=(50, 2)).astype(np.float32)
    maxima[0], maxima[1] = (1, 1), (100, -100)
    for m_into, m_from in maxima:
        l_into, l_from = rng.uniform(1, 64, 2).astype(np.float32)
        o_into, o_from = (rng.normal(size=8).astype(np.float32) for _ in range(2))
        before = o_into.copy()
        into = AttendState(m_into, l_into, o_into.ctypes.data)
        source = AttendState(m_from, l_from, o_from.ctypes.data)
        scalar.attend_merge(ctypes.byref(into), ctypes.byref(source), 8)
        m = max(m_into, m_from)
        a, b = (np.float32(lib.exact_exp(float(v - m))) for v in (m_into, m_from))
        assert into.m == m
        assert np.float32(into.l) == fma(l_from, b, l_into * a)
        expected = [fma(y, b, x * a) for x, y in zip(before, o_from, strict=True)]
        np.testing.assert_array_equal(o_into, np.array(expected))
