"""The engine's contract as its Python module keeps it: all or nothing, no order of closing that
hurts, a plan that is what is used, and an answer to Ctrl-C.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from golden.tiny_models import TINY_MODELS, TinyModel, token_ids, write_gguf
from numpy.typing import NDArray

from localllm import _native

BLOCK = 64  # positions of one KV block


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("engine") / "tiny.gguf"
    write_gguf(next(tiny for tiny in TINY_MODELS if tiny.name.startswith("llama")), file)
    return file


@pytest.fixture
def model(path: Path) -> _native.Model:
    return _native.Model(str(path))


def kept(engine: _native.Engine) -> NDArray[np.float32]:
    return np.array(engine.logits(), dtype=np.float32)


def ids_of(n: int, seed: int = 1) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 250, n)]


def test_logits_of_the_rows_that_ask_and_of_no_other(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=128, n_logits=4, n_sessions=2)
    a, b = engine.session(), engine.session()
    assert engine.step([(a, ids_of(9), 0), (b, ids_of(5, 2), 0)]) == 0
    assert engine.logits().shape == (0, model.info["n_vocab"])
    assert engine.step([(a, [1], 1), (b, [2, 3], 2)]) == 3
    together = kept(engine)
    assert (a.n_tokens, b.n_tokens) == (10, 7)
    alone = engine_of(model, [*ids_of(5, 2), 2, 3])
    assert np.array_equal(together[2], alone[0])


def test_kept_rows_anywhere_in_a_batch(model: _native.Model) -> None:
    """In the middle of a prompt, several of one session, beside sessions that keep none."""
    engine = _native.Engine(model, n_ctx=128, n_logits=24, n_sessions=3)
    a, b, c = (engine.session() for _ in range(3))
    ids = ids_of(90)
    engine.step([(b, ids_of(70, 3), 0)])
    steps = [
        (a, ids[:30], 18), (b, ids_of(5, 4), 0), (a, ids[30:50], 1), (c, ids_of(3, 5), 2),
        (a, ids[50:], 0), (b, [7], 1), (a, [9], 1),
    ]  # fmt: skip
    assert engine.step(steps) == 23
    together = kept(engine)
    texts = [ids[: n + 1] for n in (*range(12, 30), 49)]
    texts += [ids_of(3, 5)[:2], ids_of(3, 5), [*ids_of(70, 3), *ids_of(5, 4), 7], [*ids, 9]]
    for row, text in zip(together, texts, strict=True):
        assert np.array_equal(row, engine_of(model, text)[0]), len(text)


def test_the_last_layer_runs_only_for_rows_whose_logits_are_wanted(path: Path) -> None:
    """With its last matrix poisoned, a row that goes through it ends the step."""
    poisoned = path.with_name("poisoned.gguf")
    poisoned.write_bytes(path.read_bytes())
    reader = gguf.GGUFReader(poisoned, "r+")
    n_layers = _native.Model(str(path)).info["n_layers"]
    name = f"blk.{n_layers - 1}.ffn_down.weight"
    next(tensor for tensor in reader.tensors if tensor.name == name).data[:] = np.inf
    reader.data.flush()
    engine = _native.Engine(_native.Model(str(poisoned)), n_ctx=128)
    session = engine.session()
    assert engine.step([(session, ids_of(40), 0)]) == 0
    with pytest.raises(_native.NumericError, match="not finite"):
        engine.step([(session, [1], 1)])


@pytest.mark.parametrize("n_rows", [1, 3, 20])
def test_the_likeliest_token_of_each_row_is_found_by_the_peaks(
    model: _native.Model, n_rows: int
) -> None:
    engine = _native.Engine(model, n_ctx=64, n_logits=n_rows)
    session = engine.session()
    engine.step([(session, ids_of(30), n_rows)])
    logits = kept(engine)
    for row, expected in enumerate(logits):
        (drawn,) = engine.sample([(session, row, {"temperature": 0.0})])
        assert drawn == int(expected.argmax())
        banned = {"temperature": 0.0, "biases": [(drawn, -np.inf)]}
        expected[drawn] = -np.inf
        assert engine.sample([(session, row, banned)]) == [int(expected.argmax())]


def engine_of(model: _native.Model, ids: list[int]) -> NDArray[np.float32]:
    engine = _native.Engine(model, n_ctx=max(len(ids), 1))
    engine.step([(engine.session(), ids, 1)])
    return kept(engine)


def test_interleaved_rows_of_one_session_follow_each_other(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=64, n_sessions=2)
    a, b = engine.session(), engine.session()
    engine.step([(a, [10, 11], 0), (b, [20], 0), (a, [12], 1)])
    assert np.array_equal(kept(engine), engine_of(model, [10, 11, 12]))


@pytest.mark.parametrize("n_left", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_what_follows_a_truncation_is_as_if_the_rest_had_never_been(
    model: _native.Model, n_left: int
) -> None:
    ids = ids_of(2 * BLOCK + 7)
    engine = _native.Engine(model, n_ctx=256)
    session = engine.session()
    engine.step([(session, ids, 1)])
    assert session.truncate(n_left) == n_left == session.n_tokens
    engine.step([(session, [7, 8, 9], 1)])
    assert np.array_equal(kept(engine), engine_of(model, [*ids[:n_left], 7, 8, 9]))


def test_a_full_context_changes_nothing(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=70)
    session = engine.session()
    engine.step([(session, ids_of(60), 1)])
    with pytest.raises(_native.ContextError, match="71 tokens do not fit a context of 70"):
        engine.step([(session, ids_of(11), 1)])
    assert session.n_tokens == 60
    engine.step([(session, ids_of(10), 1)])
    assert session.n_tokens == 70


def test_sessions_give_their_blocks_back(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=BLOCK, n_sessions=1)
    for _ in range(3):
        session = engine.session()
        with pytest.raises(_native.ContextError, match="room for 1 session"):
            engine.session()
        engine.step([(session, ids_of(BLOCK), 1)])
        session.close()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[-1]], "outside the vocabulary"),
        ([[1 << 40]], "outside the vocabulary"),
        ([[]], "a step of 0 rows"),
        ([[1] * 65], "a step of 65 rows"),
    ],
)
def test_a_bad_step_is_refused_whole(
    model: _native.Model, rows: list[list[int]], message: str
) -> None:
    engine = _native.Engine(model, n_ctx=128, n_batch=64)
    session = engine.session()
    with pytest.raises(_native.ArgumentError, match=message):
        engine.step([(session, ids, 0) for ids in rows])
    assert session.n_tokens == 0
    engine.step([(session, [1], 1)])


def test_more_logits_than_the_engine_keeps_are_refused(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=64, n_logits=2)
    session = engine.session()
    with pytest.raises(_native.ArgumentError, match="keeps the logits of 2 rows"):
        engine.step([(session, [1, 2, 3], 3)])
    assert session.n_tokens == 0


def test_a_session_of_another_engine_is_refused(model: _native.Model) -> None:
    one, other = _native.Engine(model, n_ctx=64), _native.Engine(model, n_ctx=64)
    with pytest.raises(_native.ArgumentError, match="another engine"):
        one.step([(other.session(), [1], 1)])


def test_unknown_kernels_are_refused(model: _native.Model) -> None:
    with pytest.raises(
        _native.ArgumentError, match=r'no kernels "abacus" on this processor; it has .*scalar'
    ):
        _native.Engine(model, kernels="abacus")


@pytest.mark.parametrize("side", ["kv_k", "kv_v"])
def test_unknown_types_of_keys_and_values_are_refused(model: _native.Model, side: str) -> None:
    expected = r'no type "q9" of keys and values; there are f16, q8_0, q4_0'
    for open_or_plan in (lambda **o: _native.Engine(model, **o), model.plan):
        with pytest.raises(_native.ArgumentError, match=expected):
            open_or_plan(**{side: "q9"})


def test_no_order_of_closing_hurts(path: Path) -> None:
    model = _native.Model(str(path))
    engine = _native.Engine(model, n_ctx=64)
    session = engine.session()
    model.close()  # put off: the engine still reads the weights
    engine.step([(session, [1, 2], 1)])
    view = engine.logits()
    expected = bytes(view)
    engine.close()  # put off: a session and a view borrow from it
    with pytest.raises(_native.ArgumentError, match="the engine is closed"):
        engine.step([(session, [3], 1)])
    del session, engine, model
    gc.collect()
    assert bytes(view) == expected
    view.release()
    with pytest.raises(_native.ArgumentError, match="the model is closed"):
        _ = closed_model(path).tokenize(b"text")


def closed_model(path: Path) -> _native.Model:
    model = _native.Model(str(path))
    model.close()
    return model


def test_a_cancelled_step_leaves_its_session_as_before(model: _native.Model) -> None:
    engine = _native.Engine(model, n_ctx=512)
    session = engine.session()
    engine.step([(session, ids_of(40), 1)])
    engine.cancel()
    with pytest.raises(_native.CancelledError):
        engine.step([(session, ids_of(400, 2), 1)])
    assert session.n_tokens == 40
    engine.step([(session, [5], 1)])
    assert np.array_equal(kept(engine), engine_of(model, [*ids_of(40), 5]))


@pytest.mark.clock
def test_an_interrupt_ends_a_long_prompt_within_200_ms(real_models: dict[str, Path]) -> None:
    model = _native.Model(str(real_models["gemma3"]))
    n_prompt = 4096  # takes seconds
    engine = _native.Engine(model, n_ctx=n_prompt, n_batch=n_prompt)
    session = engine.session()
    sent: list[float] = []

    def interrupt() -> None:
        time.sleep(0.3)
        sent.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        engine.step([(session, [5] * n_prompt, 1)])
    answered = time.monotonic()
    thread.join()
    assert answered - sent[0] < 0.2
    assert session.n_tokens == 0


def test_memory_is_touched_only_as_positions_are_used(path: Path) -> None:
    def anonymous_bytes() -> int:
        text = Path("/proc/self/smaps_rollup").read_text()
        return 1024 * int(text.split("Anonymous:")[1].split()[0])

    model = _native.Model(str(path))
    before = anonymous_bytes()
    engine = _native.Engine(model, n_ctx=1 << 20, n_threads=1)
    plan = model.plan(n_ctx=1 << 20, n_threads=1)
    session = engine.session()
    engine.step([(session, [1], 1)])
    grown = anonymous_bytes() - before
    assert plan["kv_bytes"] > 200 << 20
    used = plan["scratch_bytes"] + plan["logits_bytes"] + plan["tables_bytes"]
    assert grown < used + (4 << 20)


def test_what_is_resident_is_told_apart(path: Path) -> None:
    model = _native.Model(str(path))
    engine = _native.Engine(model, n_ctx=1 << 16, n_threads=1)
    plan = model.plan(n_ctx=1 << 16, n_threads=1)
    block = plan["kv_bytes"] // ((1 << 16) // 64)
    page = mmap.PAGESIZE
    assert engine.resident()["kv_bytes"] == engine.resident()["logits_bytes"] == 0
    session = engine.session()
    for n_blocks in (1, 2, 7):
        engine.step([(session, [1] * (64 * n_blocks - session.n_tokens), 1)])
        resident = engine.resident()
        # A block of each layer group begins and ends within a page.
        assert abs(resident["kv_bytes"] - n_blocks * block) <= 2 * 2 * page
        assert plan["logits_bytes"] <= resident["logits_bytes"] < plan["logits_bytes"] + page
        assert 0 < resident["scratch_bytes"] < plan["scratch_bytes"] + page


def test_the_plan_grows_with_the_context_alone(model: _native.Model) -> None:
    small, large = model.plan(n_ctx=64), model.plan(n_ctx=640)
    assert large["kv_bytes"] == 10 * small["kv_bytes"]
    assert large["weight_bytes"] == small["weight_bytes"] == model.info["weight_bytes"]


# Bytes of one position of a head of 16 channels: codes, and one scale of F16.
KV_BYTES = {"f16": 32, "q8_0": 16 + 2, "q4_0": 8 + 2}


@pytest.mark.parametrize("types", list(itertools.product(KV_BYTES, KV_BYTES)), ids="/".join)
def test_the_plan_and_the_work_know_the_types_of_keys_and_values(
    model: _native.Model, types: tuple[str, str]
) -> None:
    options: dict[str, Any] = {"n_ctx": 2 * BLOCK, "kv_k": types[0], "kv_v": types[1]}
    info = model.info
    assert info["head_dim"] == 16
    per_position = info["n_layers"] * info["n_kv_heads"] * sum(KV_BYTES[t] for t in types)
    assert model.plan(**options)["kv_bytes"] == 2 * BLOCK * per_position
    engine = _native.Engine(model, **options)
    assert (engine.kv_k, engine.kv_v) == types
    assert engine.work([(9, 1, 1)])["kv_bytes"] == 10 * per_position


# How far logits may move, over their own spread. A scale belongs to 32 channels, of which the
# largest is some 2 to 3 times what is usual: a code is off by 0.3 of 1/127 of that, or of 1/8.
MOST_MOVED = {"q8_0": 0.01, "q4_0": 0.16}


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("side", ["kv_k", "kv_v"])
@pytest.mark.parametrize("kind", MOST_MOVED)
def test_rounded_keys_and_values_move_the_logits_a_little(
    tiny: TinyModel, side: str, kind: str, tmp_path: Path
) -> None:
    write_gguf(tiny, tmp_path / "tiny.gguf")
    model, ids = _native.Model(str(tmp_path / "tiny.gguf")), token_ids(tiny) * 2
    found = []
    for options in ({}, {side: kind}):
        engine = _native.Engine(model, n_ctx=len(ids), n_logits=len(ids), **options)
        engine.step([(engine.session(), ids, len(ids))])
        found.append(kept(engine))
    moved = float((found[1] - found[0]).std() / found[0].std())
    assert 0 < moved < MOST_MOVED[kind]
