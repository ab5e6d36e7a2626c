"""One text, one set of logits: the same bytes whatever the threads, the chunks, the neighbours.

Every way of feeding the ids is compared by sha256 with one plain run on the same kernels, and the
kernels with each other. The real models run all their ids on the fast kernels and 32 on scalar.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from golden.compact_reference import load_compact
from golden.tiny_models import TINY_MODELS, TinyModel, token_ids, write_gguf

from localllm import _native

GOLDEN = Path(__file__).resolve().parent / "golden"
KERNELS: list[str] = _native.machine()["kernels"]
FAST_KERNELS = [name for name in KERNELS if name != "scalar"]
CHUNKS = (1, 7, 64, 512)
N_SCALAR = 32
N_CHUNKED = 200
N_LAST = 16
F16 = ("f16", "f16")
QUANTIZED = [("q8_0", "q8_0"), ("f16", "q8_0"), ("q8_0", "f16"), ("q4_0", "q4_0"), ("q8_0", "q4_0")]


@pytest.fixture(scope="module", params=TINY_MODELS, ids=lambda tiny: tiny.name)
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[_native.Model, list[int]]:
    row: TinyModel = request.param
    path = tmp_path_factory.mktemp("tiny") / "model.gguf"
    write_gguf(row, path)
    # Long enough to span three KV blocks, so that windows leave whole blocks behind.
    return _native.Model(str(path)), token_ids(row) * 2 + [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def real(
    request: pytest.FixtureRequest, real_models: dict[str, Path]
) -> tuple[_native.Model, list[int]]:
    name: str = request.param
    if name not in real_models:
        pytest.skip(f"the file of {name} is not on this machine")
    ids = load_compact(GOLDEN / f"{name}_reference.npz").ids.tolist()
    return _native.Model(str(real_models[name])), ids


def open_engine(
    model: _native.Model,
    *,
    kernels: str | None = None,
    threads: int = 2,
    sessions: int = 1,
    n_ctx: int = 1024,
    kv: tuple[str, str] = F16,
) -> _native.Engine:
    n_ctx = min(n_ctx, model.info["n_ctx_train"])
    return _native.Engine(
        model,
        n_ctx=n_ctx,
        n_sessions=sessions,
        n_batch=512,
        n_logits=N_LAST * sessions,
        n_threads=threads,
        kernels=kernels,
        kv_k=kv[0],
        kv_v=kv[1],
    )


def feed(session: _native.Session, engine: _native.Engine, ids: list[int], chunk: int) -> None:
    for start in range(0, len(ids), chunk):
        engine.step([(session, ids[start : start + chunk], 0)])


def last_logits(engine: _native.Engine, session: _native.Session, ids: list[int]) -> str:
    """Feeds the last ids in one step and hashes all their logits."""
    assert engine.step([(session, ids, len(ids))]) == len(ids)
    return hashlib.sha256(engine.logits().cast("B")).hexdigest()


def run(engine: _native.Engine, ids: list[int], chunk: int) -> str:
    """Hash of the logits of the last N_LAST ids, the ones before fed `chunk` at a time."""
    session = engine.session()
    feed(session, engine, ids[:-N_LAST], chunk)
    digest = last_logits(engine, session, ids[-N_LAST:])
    session.close()
    return digest


def row_digests(engine: _native.Engine) -> list[str]:
    logits = engine.logits()
    row_bytes = logits.nbytes // logits.shape[0]
    flat = logits.cast("B")
    starts = range(0, logits.nbytes, row_bytes)
    return [hashlib.sha256(flat[start : start + row_bytes]).hexdigest() for start in starts]


def check_threads_and_chunks(
    model: _native.Model, ids: list[int], kernels: str, kv: tuple[str, str] = F16
) -> str:
    # Each in an engine of its own: one would go on with the blocks that it has already.
    expected = run(open_engine(model, kv=kv, kernels=kernels, threads=2), ids, 512)
    for chunk in CHUNKS[:-1]:
        with_two = open_engine(model, kv=kv, kernels=kernels, threads=2)
        assert run(with_two, ids, chunk) == expected, f"chunks of {chunk}"
    with_one = open_engine(model, kv=kv, kernels=kernels, threads=1)
    assert run(with_one, ids, 64) == expected, "one thread"
    return expected


def check_single_row_steps(
    model: _native.Model, ids: list[int], kernels: str, kv: tuple[str, str] = F16
) -> None:
    """The last rows one at a time, as generation feeds them, against all of them in one step."""
    engine = open_engine(model, kv=kv, kernels=kernels)
    session = engine.session()
    feed(session, engine, ids[:-N_LAST], 512)
    engine.step([(session, ids[-N_LAST:], N_LAST)])
    together = row_digests(engine)
    assert session.truncate(len(ids) - N_LAST) <= len(ids) - N_LAST
    feed(session, engine, ids[session.n_tokens : -N_LAST], 512)
    for token, expected in zip(ids[-N_LAST:], together, strict=True):
        engine.step([(session, [token], 1)])
        assert row_digests(engine) == [expected]


def check_neighbours(
    model: _native.Model, ids: list[int], kernels: str, kv: tuple[str, str] = F16
) -> None:
    """Three sessions of different lengths in one step, each equal to its run alone."""
    texts = [ids, ids[: len(ids) // 2], list(reversed(ids))[: len(ids) // 3]]
    alone = []
    for text in texts:
        engine = open_engine(model, kv=kv, kernels=kernels)
        session = engine.session()
        feed(session, engine, text[:-N_LAST], 512)
        engine.step([(session, text[-N_LAST:], N_LAST)])
        alone += row_digests(engine)
    engine = open_engine(model, kv=kv, kernels=kernels, sessions=3)
    sessions = [engine.session() for _ in texts]
    # Unequal shares of one step, then all the ends in one step.
    for cut in range(0, len(ids), 50):
        rows = [
            (session, text[:-N_LAST][cut : cut + 50], 0)
            for session, text in zip(sessions, texts, strict=True)
        ]
        rows = [row for row in rows if row[1]]
        if rows:
            engine.step(rows)
    engine.step(
        [(session, text[-N_LAST:], N_LAST) for session, text in zip(sessions, texts, strict=True)]
    )
    assert row_digests(engine) == alone


def check_truncate(
    model: _native.Model, ids: list[int], kernels: str, kv: tuple[str, str] = F16
) -> None:
    """Other ids are fed and dropped, then the right ones: as if the others had never been."""
    fresh = open_engine(model, kv=kv, kernels=kernels)
    expected = run(fresh, ids, 512)
    engine = open_engine(model, kv=kv, kernels=kernels)
    session = engine.session()
    for kept in (len(ids) * 2 // 3, len(ids) // 2 + 1, 5, 0):
        feed(session, engine, ids[session.n_tokens : kept], 64)
        feed(session, engine, list(reversed(ids))[:40], 64)
        left = session.truncate(kept)
        assert left <= kept
        assert left == session.n_tokens
        feed(session, engine, ids[left:-N_LAST], 64)
        assert last_logits(engine, session, ids[-N_LAST:]) == expected, f"after keeping {left}"
        session.truncate(kept)


@pytest.mark.parametrize("kernels", KERNELS)
def test_tiny_model(tiny: tuple[_native.Model, list[int]], kernels: str) -> None:
    model, ids = tiny
    digest = check_threads_and_chunks(model, ids, kernels)
    assert run(open_engine(model, kernels="scalar"), ids, 64) == digest, "scalar differs"
    check_single_row_steps(model, ids, kernels)
    check_neighbours(model, ids, kernels)
    check_truncate(model, ids, kernels)


@pytest.mark.parametrize("kv", QUANTIZED, ids="/".join)
def test_tiny_model_with_quantized_keys_and_values(
    tiny: tuple[_native.Model, list[int]], kv: tuple[str, str]
) -> None:
    model, ids = tiny
    digests = {check_threads_and_chunks(model, ids, kernels, kv) for kernels in KERNELS}
    assert len(digests) == 1, "the kernels differ"
    best = KERNELS[0]
    assert digests != {run(open_engine(model, kernels=best), ids, 64)}, "nothing was rounded"
    check_single_row_steps(model, ids, best, kv)
    check_neighbours(model, ids, best, kv)
    check_truncate(model, ids, best, kv)


@pytest.mark.parametrize("kv", [("q8_0", "q8_0"), ("q4_0", "q4_0")], ids="/".join)
@pytest.mark.parametrize("kernels", FAST_KERNELS)
def test_real_model_with_quantized_keys_and_values(
    real: tuple[_native.Model, list[int]], kernels: str, kv: tuple[str, str]
) -> None:
    model, ids = real
    check_threads_and_chunks(model, ids[:N_CHUNKED], kernels, kv)
    check_single_row_steps(model, ids[: N_CHUNKED // 2], kernels, kv)


@pytest.mark.parametrize("kernels", FAST_KERNELS)
def test_real_model_threads_and_chunks(real: tuple[_native.Model, list[int]], kernels: str) -> None:
    model, ids = real
    check_threads_and_chunks(model, ids[:N_CHUNKED], kernels)
    engine = open_engine(model, kernels=kernels)
    assert run(engine, ids, 512) == run(engine, ids, 64), "all ids, chunks of 64"
    check_single_row_steps(model, ids[: N_CHUNKED // 2], kernels)


@pytest.mark.parametrize("kernels", FAST_KERNELS)
def test_real_model_neighbours_and_truncate(
    real: tuple[_native.Model, list[int]], kernels: str
) -> None:
    model, ids = real
    check_neighbours(model, ids[:N_CHUNKED], kernels)
    check_truncate(model, ids[: N_CHUNKED // 2], kernels)


def test_real_model_kernels(real: tuple[_native.Model, list[int]]) -> None:
    model, ids = real
    digests = {
        name: run(open_engine(model, kernels=name), ids[:N_SCALAR], N_SCALAR) for name in KERNELS
    }
    assert len(set(digests.values())) == 1, digests
    longer = {
        name: run(open_engine(model, kernels=name), ids[:N_CHUNKED], 512) for name in FAST_KERNELS
    }
    assert len(set(longer.values())) <= 1, longer
