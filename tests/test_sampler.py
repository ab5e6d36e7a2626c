"""The sampler against a slow, plain model of its documented order, and its generator's vectors."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import native_structs
import numpy as np
import numpy.typing as npt
import pytest
from golden.tiny_models import TINY_MODELS, write_gguf
from native_structs import Error, LogitBias

import localllm
from localllm import _native
from localllm.errors import UsageError

F32 = np.float32
FloatArray = npt.NDArray[np.float32]

ARGUMENT, NUMERIC = 1, 8
STRIP_LOGITS = 32  # of sample/strips.h
GUARDED = 64  # bytes behind the scratch
OFF = {name: off for name, _, _, off in _native.sampling()}


@dataclass
class Sampling:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int = 0
    biases: list[tuple[int, float]] = field(default_factory=list)


class SampleError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def peaks_of(logits: FloatArray) -> FloatArray:
    """The largest of each STRIP_LOGITS logits, as the engine leaves them."""
    padded = np.full(-(-len(logits) // STRIP_LOGITS) * STRIP_LOGITS, -np.inf, F32)
    padded[: len(logits)] = logits
    peaks: FloatArray = padded.reshape(-1, STRIP_LOGITS).max(axis=1) + F32(0)
    return peaks


class Sampler:
    """sampler_draw with Python's types."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.call = library.sampler_draw
        self.call.restype = ctypes.c_bool
        self.call.argtypes = [
            ctypes.POINTER(native_structs.Sampling),
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_uint64,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_int32),
            ctypes.POINTER(Error),
        ]
        self.scratch_bytes = library.sampler_scratch_bytes
        self.scratch_bytes.restype = ctypes.c_size_t
        self.scratch_bytes.argtypes = [ctypes.c_uint32]
        self.uniform = library.sampler_uniform
        self.uniform.restype = ctypes.c_double
        self.uniform.argtypes = [ctypes.c_uint64, ctypes.c_uint64]

    def __call__(
        self, s: Sampling, logits: FloatArray, recent: Sequence[int] = (), position: int = 0
    ) -> int:
        """The token, which is the same with the row's peaks and without."""
        without = self.draw(s, logits, None, recent, position)
        assert self.draw(s, logits, peaks_of(logits), recent, position) == without
        return without

    def draw(
        self,
        s: Sampling,
        logits: FloatArray,
        peaks: FloatArray | None,
        recent: Sequence[int],
        position: int,
    ) -> int:
        n_bytes = self.scratch_bytes(len(logits))
        scratch = np.full(n_bytes + GUARDED, 0xA5, np.uint8)  # whatever lay there before
        recent_ids = np.array(recent, np.int32)
        biases = (LogitBias * len(s.biases))(*(LogitBias(*pair) for pair in s.biases))
        values = OFF | vars(s) | {"biases": biases, "n_biases": len(biases)}
        settings = native_structs.Sampling(**values)
        chosen, error = ctypes.c_int32(-1), Error()
        ok = self.call(
            settings,
            logits.ctypes.data,
            None if peaks is None else peaks.ctypes.data,
            len(logits),
            recent_ids.ctypes.data,
            len(recent_ids),
            position,
            scratch.ctypes.data,
            chosen,
            error,
        )
        assert (scratch[n_bytes:] == 0xA5).all(), "wrote behind its scratch"
        if not ok:
            raise SampleError(error.code, error.message.decode())
        return chosen.value


@pytest.fixture(scope="session")
def sampler(internals: ctypes.CDLL) -> Sampler:
    return Sampler(internals)


# ---- the generator ------------------------------------------------------------------------------


def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """Philox4x32-10 as the paper's section 5.3 states it."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        low = 0xFFFFFFFF
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def uniform(seed: int, position: int) -> float:
    low = 0xFFFFFFFF
    out = philox([position & low, position >> 32, 0, 0], [seed & low, seed >> 32])
    return float((out[1] << 32 | out[0]) >> 11) * 2.0**-53


# Known answers of the generator's reference implementation (Random123, kat_vectors).
KNOWN_PHILOX = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_PHILOX)
def test_the_model_of_the_generator_has_the_known_answers(
    counter: list[int], key: list[int], expected: str
) -> None:
    assert philox(counter, key) == [int(word, 16) for word in expected.split()]


def test_uniform_is_philox_of_seed_and_position(sampler: Sampler) -> None:
    assert sampler.uniform(0, 0) == (0xE169C58D6627E8D5 >> 11) * 2.0**-53
    rng = np.random.default_rng(1)
    for seed, position in rng.integers(0, 2**64, (500, 2), dtype=np.uint64).tolist():
        assert sampler.uniform(seed, position) == uniform(seed, position)


# ---- the model ----------------------------------------------------------------------------------


def weights(y: npt.NDArray[np.float64]) -> list[int]:
    """2^40 * 2^y rounded down, in the documented operations: a series in x to x^8."""
    whole = np.trunc(y - 0.5)
    x = y - whole
    p = np.full_like(x, math.log(2) ** 8 / math.factorial(8))
    for k in range(7, -1, -1):
        p = p * x + math.log(2) ** k / math.factorial(k)
    fixed = (p * 2.0**52).tolist()
    return [
        int(f) >> int(12 - w) if yi > -40 else 0
        for f, w, yi in zip(fixed, whole.tolist(), y.tolist(), strict=True)
    ]


def adjusted(s: Sampling, logits: FloatArray, recent: Sequence[int]) -> FloatArray:
    result = logits.copy()
    for token, bias in s.biases:
        result[token] += F32(bias)
    window = list(recent)[-s.penalty_last_n :] if s.penalty_last_n else []
    for token in set(window):
        value = result[token]
        repeat = F32(s.repeat_penalty)
        value = value / repeat if value > 0 else value * repeat
        count = F32(window.count(token))
        result[token] = value - (count * F32(s.frequency_penalty) + F32(s.presence_penalty))
    return result


def first_to_reach(ids: list[int], weight: dict[int, int], target: int) -> int:
    """How many of the ids, in this order, it takes for their weights to reach the target."""
    total = sum(weight[i] for i in ids)
    target = min(max(target, 1), total)
    reached = 0
    for n, i in enumerate(ids, 1):
        reached += weight[i]
        if reached >= target:
            return n
    raise AssertionError("a sum of weights that does not reach itself")


def model(s: Sampling, logits: FloatArray, recent: Sequence[int], position: int) -> int:
    """The documented order, step by step, with full sorts."""
    values = adjusted(s, logits, recent)
    ids = [i for i in range(len(values)) if values[i] > -math.inf]
    ids.sort(key=lambda i: (-values[i], i))
    if s.temperature == 0:
        return ids[0]
    log2_e = 1.4426950408889634

    def weigh(tokens: list[int], scale: float) -> dict[int, int]:
        best = np.float64(values[tokens].max())
        return dict(
            zip(tokens, weights((values[tokens].astype(np.float64) - best) * scale), strict=True)
        )

    if s.top_k:
        ids = ids[: s.top_k]
    if s.typical_p < 1:
        weight = weigh(ids, log2_e)
        best = float(values[ids].max())
        total = sum_x = 0.0
        for i in sorted(ids):
            total += float(weight[i])
            sum_x += float(weight[i]) * (float(values[i]) - best)
        mean = best + sum_x / total
        ids.sort(key=lambda i: (F32(abs(float(values[i]) - mean)), i))
        share = float(F32(s.typical_p)) * float(sum(weight.values()))
        ids = ids[: first_to_reach(ids, weight, int(share))]
        ids.sort(key=lambda i: (-values[i], i))
    if s.top_p < 1:
        weight = weigh(ids, log2_e)
        share = float(F32(s.top_p)) * float(sum(weight.values()))
        ids = ids[: first_to_reach(ids, weight, int(share))]
    if s.min_p > 0:
        weight = weigh(ids, log2_e)
        ids = [i for i in ids if float(weight[i]) >= float(F32(s.min_p)) * 2.0**40]
    weight = weigh(ids, log2_e / float(F32(s.temperature)))
    drawn = int(uniform(s.seed, position) * float(sum(weight.values()))) + 1
    return ids[first_to_reach(ids, weight, drawn) - 1]


def random_logits(rng: np.random.Generator, n: int) -> FloatArray:
    """Of several shapes: peaked, flat, with ties, with bans, of large magnitude."""
    shape = rng.integers(0, 6)
    x = rng.normal(0, 1, n)
    if shape == 0:
        x *= 3
    elif shape == 1:
        x = np.round(x * 2) / 2
    elif shape == 2:
        x = np.where(rng.random(n) < 0.3, -np.inf, x)
        x[rng.integers(n)] = 0
    elif shape == 3:
        x *= 1000
    elif shape == 4:
        x = np.zeros(n) * np.sign(x)
    else:
        x += 20
    return x.astype(F32)


def random_sampling(rng: np.random.Generator, n: int) -> Sampling:
    def maybe(off: float, values: Sequence[float]) -> float:
        return off if rng.random() < 0.5 else float(rng.choice(values))

    n_biases = int(rng.integers(0, 4)) if rng.random() < 0.3 else 0
    return Sampling(
        temperature=maybe(1.0, [0.0, 0.01, 0.3, 0.7, 2.0, 100.0]),
        top_k=int(maybe(0, [1, 2, 5, 40, 256, n, n + 7])),
        top_p=maybe(1.0, [0.0, 0.1, 0.5, 0.9, 0.95, 0.999]),
        min_p=maybe(0.0, [0.01, 0.05, 0.3, 1.0]),
        typical_p=maybe(1.0, [0.0, 0.2, 0.5, 0.9, 0.99]),
        repeat_penalty=maybe(1.0, [1.1, 1.5, 0.8]),
        frequency_penalty=maybe(0.0, [0.5, -0.5]),
        presence_penalty=maybe(0.0, [0.7, -0.3]),
        penalty_last_n=int(rng.choice([0, 1, 5, 64])),
        seed=int(rng.integers(0, 2**64, dtype=np.uint64)),
        biases=[
            (int(rng.integers(n)), float(rng.choice([1.5, -2.25, 10.0]))) for _ in range(n_biases)
        ],
    )


def test_ids_equal_the_plain_model(sampler: Sampler) -> None:
    rng = np.random.default_rng(2)
    for _ in range(1500):
        n = int(rng.choice([1, 2, 3, 17, 200, 1000]))
        logits = random_logits(rng, n)
        s = random_sampling(rng, n)
        recent = rng.integers(0, n, rng.integers(0, 80)).tolist()
        position = int(rng.integers(0, 2**40))
        assert sampler(s, logits, recent, position) == model(s, logits, recent, position), s


@pytest.mark.parametrize("shape", ["rising", "falling", "equal", "random", "two values"])
def test_ids_equal_the_plain_model_on_a_large_vocabulary(sampler: Sampler, shape: str) -> None:
    n = 20_000
    rng = np.random.default_rng(3)
    logits = {
        "rising": np.arange(n) / 100,
        "falling": -np.arange(n) / 100,
        "equal": np.full(n, 2.5),
        "random": rng.normal(0, 3, n),
        "two values": rng.integers(0, 2, n),
    }[shape].astype(F32)
    settings = [
        Sampling(),
        Sampling(top_k=40),
        Sampling(top_k=1000, top_p=0.9),
        Sampling(top_p=0.95, temperature=0.7),
        Sampling(min_p=0.05),
        Sampling(typical_p=0.9),
        Sampling(temperature=0),
        Sampling(temperature=5.0),
        Sampling(top_p=0.95, biases=[(7, 3.0), (n - 1, -math.inf), (40, -math.inf)]),
        Sampling(top_k=40, repeat_penalty=1.3, presence_penalty=0.5),
        Sampling(min_p=1e-9, temperature=2.0),
        Sampling(min_p=1e-20, repeat_penalty=0.8),
    ]
    recent = [int(logits.argmax()), 3, n - 1, 3, *range(500, 540)]
    for s in settings:
        for position in range(3):
            drawn = sampler(s, logits, recent, position)
            assert drawn == model(s, logits, recent, position), s


# ---- logits made to mislead whoever looks at peaks -----------------------------------------------


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 1000])
def test_strips_whose_peaks_biases_and_penalties_change(sampler: Sampler, n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        logits = random_logits(rng, n)
        best = int(logits.argmax())
        biases = [(best, -50.0), (n - 1, 60.0), (int(rng.integers(n)), 5.0)]
        for base in (Sampling(temperature=0), Sampling(top_k=5), Sampling(top_p=0.9), Sampling()):
            for s in (
                replace(base, biases=biases),
                replace(base, repeat_penalty=1.5, frequency_penalty=2.0),
                replace(base, biases=biases[1:], presence_penalty=-30.0),
            ):
                recent = [best, 0, n - 1, best]
                assert sampler(s, logits, recent) == model(s, logits, recent, 0), s


def test_the_same_peak_in_every_strip(sampler: Sampler) -> None:
    logits = np.full(640, -60, F32)
    logits[31::32] = 1.5
    for s in (Sampling(temperature=0), Sampling(top_k=3), Sampling(top_p=0.5), Sampling()):
        for position in range(20):
            assert sampler(s, logits, (), position) == model(s, logits, (), position), s


def test_weights_at_the_edge_of_nothing(sampler: Sampler) -> None:
    """Logits around 40 ln 2 below the best, where a weight becomes 0, at several temperatures."""
    edge = 40 * math.log(2)
    for temperature in (0.5, 1.0, 2.0):
        logits = np.full(4096, -edge * temperature, F32)
        logits[::3] = np.nextafter(logits[::3], F32(0))
        logits[100:200] = np.nextafter(logits[100:200], F32(-1000))
        logits[2000] = 0
        for s in (
            Sampling(temperature=temperature),
            Sampling(temperature=temperature, top_p=1.0 - 1e-7),
        ):
            for position in range(5):
                assert sampler(s, logits, (), position) == model(s, logits, (), position), s


# ---- what a user relies on ----------------------------------------------------------------------


def test_greedy_takes_the_lowest_id_of_equal_logits(sampler: Sampler) -> None:
    logits = np.array([1, 5, -2, 5, 5], F32)
    assert sampler(Sampling(temperature=0), logits) == 1
    assert sampler(Sampling(temperature=0, biases=[(1, -1.0)]), logits) == 3
    assert sampler(Sampling(temperature=0, biases=[(1, -math.inf), (3, -0.5)]), logits) == 4
    zeros = np.array([-0.0, 0.0], F32)
    assert sampler(Sampling(temperature=0), zeros) == 0
    assert sampler(Sampling(top_k=1), zeros) == 0


def test_penalties_see_the_last_n_tokens_only(sampler: Sampler) -> None:
    logits = np.array([3.0, 2.9, -1.0], F32)
    s = Sampling(temperature=0, repeat_penalty=1.2, penalty_last_n=2)
    assert sampler(s, logits, [0, 2, 2]) == 0
    assert sampler(s, logits, [2, 0, 2]) == 1
    negative = np.array([-1.0, -1.1], F32)
    assert sampler(s, negative, [0]) == 1
    counted = Sampling(temperature=0, frequency_penalty=0.04)
    assert sampler(counted, logits, [0, 0]) == 0
    assert sampler(counted, logits, [0, 0, 0]) == 1


def test_draws_follow_the_distribution(sampler: Sampler) -> None:
    """Chi-square over 20,000 draws of 8 tokens; 24.32 is the 0.999 quantile for 7 degrees."""
    logits = np.log(np.array([0.3, 0.2, 0.15, 0.12, 0.1, 0.07, 0.05, 0.01])).astype(F32)
    n_draws = 20_000
    for temperature in (0.5, 1.0, 2.0):
        p = np.exp(logits.astype(np.float64) / temperature)
        p /= p.sum()
        s = Sampling(temperature=temperature, seed=7)
        drawn = [sampler(s, logits, (), position) for position in range(n_draws)]
        counts = np.bincount(drawn, minlength=8)
        chi_square = float((((counts - n_draws * p) ** 2) / (n_draws * p)).sum())
        assert chi_square < 24.32, (temperature, counts)


def test_banned_tokens_are_never_drawn(sampler: Sampler) -> None:
    logits = np.array([-math.inf, 1, -math.inf, 1, 0], F32)
    s = Sampling(temperature=100, biases=[(4, -math.inf)])
    drawn = {sampler(s, logits, (), position) for position in range(200)}
    assert drawn == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "logits",
    [
        [math.nan, 1.0],
        [1.0, math.nan],
        [math.inf, 1.0],
        [-math.inf, -math.inf],
        [math.nan, math.nan],
    ],
)
def test_logits_that_are_not_finite_fail(
    sampler: Sampler, logits: list[float], temperature: float
) -> None:
    with pytest.raises(SampleError) as error:
        sampler(Sampling(temperature=temperature), np.array(logits, F32))
    assert error.value.code == NUMERIC


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"typical_p": 2.0},
        {"repeat_penalty": 0.0},
        {"frequency_penalty": math.inf},
        {"biases": [(4, 1.0)]},
        {"biases": [(-1, 1.0)]},
        {"biases": [(0, math.nan)]},
        {"biases": [(0, math.inf)]},
    ],
)
def test_settings_out_of_range_fail(sampler: Sampler, settings: dict[str, object]) -> None:
    with pytest.raises(SampleError) as error:
        sampler(Sampling(**settings), np.zeros(4, F32))  # type: ignore[arg-type]
    assert error.value.code == ARGUMENT


def test_recent_tokens_outside_the_vocabulary_fail(sampler: Sampler) -> None:
    with pytest.raises(SampleError) as error:
        sampler(Sampling(repeat_penalty=1.1), np.zeros(4, F32), [4])
    assert error.value.code == ARGUMENT


# ---- the list of settings -----------------------------------------------------------------------


ROWS = {name: (low, high, off) for name, low, high, off in _native.sampling()}
GIVEN = {"temperature": 0.7, "top_p": 0.95, "penalty_last_n": 64, "seed": None}  # the defaults


def test_python_has_a_field_for_each_setting_and_it_is_off_unless_said() -> None:
    assert vars(localllm.Sampling()) == {**OFF, **GIVEN, "biases": ()}


@pytest.mark.parametrize("name", ROWS)
def test_ranges_are_the_same_in_python_and_in_the_engine(name: str, sampler: Sampler) -> None:
    low, high, _ = ROWS[name]
    logits = np.zeros(4, F32)
    for end in (low, high):
        localllm.Sampling(**{name: end})  # type: ignore[arg-type]
        sampler(replace(Sampling(), **{name: end}), logits)  # type: ignore[arg-type]
    whole = isinstance(high, int)
    beyond = [low - 1, high + 1] if whole else [low - 1e-3, high + 1e-3]
    for value in beyond:
        with pytest.raises(UsageError, match=re.escape(f"must lie between {low:g} and {high:g}")):
            localllm.Sampling(**{name: value})  # type: ignore[arg-type]
        if name == "seed":
            continue  # whose type has no others
        with pytest.raises(SampleError) as error:
            sampler(replace(Sampling(), **{name: value}), logits)  # type: ignore[arg-type]
        assert error.value.code == ARGUMENT and f"expected {low:g} to {high:g}" in str(error.value)


# ---- the engine's draws -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> _native.Model:
    path = tmp_path_factory.mktemp("draws") / "tiny.gguf"
    write_gguf(next(tiny for tiny in TINY_MODELS if tiny.name == "llama3"), path)
    return _native.Model(str(path))


def step_sessions(
    engine: _native.Engine, lengths: Sequence[int], rng: np.random.Generator
) -> tuple[list[_native.Session], list[list[int]]]:
    """Sessions of so many tokens, the last one's logits kept, in this order; and their tokens."""
    texts = [rng.integers(0, 250, n).tolist() for n in lengths]
    sessions = [engine.session() for _ in texts]
    engine.step([(s, text, 1) for s, text in zip(sessions, texts, strict=True)])
    return sessions, texts


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_engine_draws_as_the_sampler_does(
    model_file: _native.Model, sampler: Sampler, n_threads: int
) -> None:
    """Of a session's tokens and their number, whoever draws beside it and on which thread."""
    rng = np.random.default_rng(n_threads)
    lengths = [1, 2, 7, 40, 64, 65, 70]
    engine = _native.Engine(
        model_file, n_ctx=128, n_sessions=7, n_batch=512, n_logits=7, n_threads=n_threads
    )
    sessions, texts = step_sessions(engine, lengths, rng)
    logits = np.array(engine.logits())
    for _ in range(40):
        chosen = rng.integers(0, 7, rng.integers(1, 30)).tolist()  # also more than rows are kept
        settings = [random_sampling(rng, logits.shape[1]) for _ in chosen]
        expected = [
            sampler(s, logits[i], texts[i], len(texts[i]))
            for i, s in zip(chosen, settings, strict=True)
        ]
        draws = [(sessions[i], i, vars(s)) for i, s in zip(chosen, settings, strict=True)]
        assert engine.sample(draws) == expected
        assert engine.sample(draws[:1]) == expected[:1]
    assert engine.sample([]) == []


def test_of_several_draws_the_first_error_is_told(model_file: _native.Model) -> None:
    engine = _native.Engine(model_file, n_ctx=64, n_sessions=4, n_logits=4, n_threads=3)
    (one, *others), _ = step_sessions(engine, [3, 4, 5, 6], np.random.default_rng(1))
    good: dict[str, Any] = {"top_p": 0.9}
    draws = [(one, 0, good), *((s, 1, {"top_p": 2.0 + i}) for i, s in enumerate(others))]
    for _ in range(20):
        with pytest.raises(_native.ArgumentError, match="top_p is 2, expected 0 to 1"):
            engine.sample(draws * 3)
    assert engine.sample([(one, 0, good)] * 3) == engine.sample([(one, 0, good)]) * 3


def test_draws_that_cannot_be(model_file: _native.Model) -> None:
    engine, other = (_native.Engine(model_file, n_ctx=64) for _ in range(2))
    session, stranger = engine.session(), other.session()
    with pytest.raises(_native.ArgumentError, match="no logits are kept for row 0, of 0"):
        engine.sample([(session, 0, {})])
    engine.step([(session, [1, 2], 1)])
    for row in (1, -1, 2**40):
        with pytest.raises(_native.ArgumentError, match="no logits are kept for row"):
            engine.sample([(session, row, {})])
    with pytest.raises(_native.ArgumentError, match="belongs to another engine"):
        engine.sample([(stranger, 0, {})])
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"top_q": 1}, TypeError),
        ({"temperature": "hot"}, TypeError),
        ({"top_k": 1.5}, TypeError),
        ({"top_k": 2**31}, OverflowError),
        ({"penalty_last_n": -1}, OverflowError),
        ({"seed": None}, TypeError),
        ({"seed": -1}, OverflowError),
        ({"biases": [5]}, TypeError),
        ({"biases": [(1 << 20, 1.0)]}, _native.ArgumentError),
    ]
    for settings, error in wrong:
        with pytest.raises(error):
            engine.sample([(session, 0, {}), (session, 0, settings)])
    with pytest.raises(TypeError):
        engine.sample([(session, 0)])  # type: ignore[list-item]
    session.close()
    with pytest.raises(_native.ArgumentError, match="the session is closed"):
        engine.sample([(session, 0, {})])


def test_scratch_is_planned_for_each_draw_that_may_be_made_at_once(
    model_file: _native.Model, sampler: Sampler
) -> None:
    n_bytes = sampler.scratch_bytes(model_file.info["n_vocab"])

    def tables(n_threads: int, n_logits: int) -> int:
        return model_file.plan(n_ctx=64, n_threads=n_threads, n_logits=n_logits)["tables_bytes"]

    alone = tables(1, 1)
    assert tables(8, 1) == tables(1, 8) == alone
    assert 3 * n_bytes <= tables(4, 8) - alone == tables(8, 4) - alone < 3 * (n_bytes + 64)
