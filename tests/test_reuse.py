"""KV blocks: shared by the tokens that lead to them, given back behind a window, never wrong.

The judge is an engine that has computed nothing before: whatever a session was given, it must go on
with the bits of one that computed all itself.
"""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from localllm import _native

sys.path.append(str(ROOT / "tests" / "golden"))

from tiny_models import N_VOCAB, TINY_MODELS, write_gguf

BLOCK = 64
CTX = 1024
IDS = [(37 * i + i * i // 5) % N_VOCAB for i in range(1024)]
WINDOWS = {"gemma3": 16, "gemma3-keys": 9}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _native.Model]:
    folder = tmp_path_factory.mktemp("reuse")
    found = {}
    for tiny in TINY_MODELS:
        if tiny.name in ("llama3", *WINDOWS):
            write_gguf(replace(tiny, n_ctx=4096), folder / f"{tiny.name}.gguf")
            found[tiny.name] = _native.Model(str(folder / f"{tiny.name}.gguf"))
    return found


class Judge:
    """The logits behind ids, computed by an engine without a past."""

    def __init__(self, model: _native.Model) -> None:
        self.model = model
        self.known: dict[tuple[int, ...], bytes] = {}

    def __call__(self, ids: list[int]) -> bytes:
        key = tuple(ids)
        if key not in self.known:
            engine = _native.Engine(self.model, n_ctx=CTX, n_batch=CTX)
            engine.step([(engine.session(), ids, 1)])
            self.known[key] = bytes(engine.logits())
        return self.known[key]


def feed(engine: _native.Engine, session: _native.Session, ids: list[int]) -> bytes:
    for start in range(0, len(ids), engine.n_batch):
        engine.step([(session, ids[start : start + engine.n_batch], 1)])
    return bytes(engine.logits())


def kv_bytes(model: _native.Model, **options: int) -> int:
    return model.plan(**options)["kv_bytes"]


# ---- found by tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_shared", [1, 63, 64, 65, 128, 200, 299])
@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_sessions_share_what_they_begin_with(
    name: str, n_shared: int, models: dict[str, _native.Model]
) -> None:
    """Whole blocks, from a session that is open or closed; neither writes into the other's."""
    model = models[name]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=CTX, n_batch=CTX, n_sessions=2)
    one, two = engine.session(), engine.session()
    feed(engine, one, IDS[:300])
    prompt = [*IDS[:n_shared], *IDS[500:540]]
    assert two.reuse(prompt) == two.n_tokens == n_shared // BLOCK * BLOCK
    assert feed(engine, two, prompt[two.n_tokens :]) == judge(prompt)
    assert feed(engine, one, IDS[300:310]) == judge(IDS[:310])
    one.close()
    three = engine.session()
    assert three.reuse(IDS[:310]) == 256
    assert feed(engine, three, IDS[256:320]) == judge(IDS[:320])
    assert feed(engine, two, IDS[:3]) == judge([*prompt, *IDS[:3]])


def test_a_session_keeps_what_it_has_in_common_with_new_ids(
    models: dict[str, _native.Model],
) -> None:
    model = models["llama3"]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=CTX)
    session = engine.session()
    feed(engine, session, IDS[:200])
    other = [*IDS[:150], *IDS[700:740]]
    assert session.reuse(other) == 150  # not only whole blocks: they are its own
    assert feed(engine, session, other[150:]) == judge(other)
    # 128 to 150 are in a block that was written over since.
    assert session.reuse(IDS[:200]) == 150
    assert feed(engine, session, IDS[150:200]) == judge(IDS[:200])
    assert session.reuse(IDS[:70]) == 70
    assert session.reuse([]) == 0
    assert session.reuse(IDS[:200]) == 192  # what was dropped is found, as nothing was taken since
    assert feed(engine, session, IDS[192:201]) == judge(IDS[:201])


def test_ids_that_are_none_are_not_found(models: dict[str, _native.Model]) -> None:
    engine = _native.Engine(models["llama3"], n_ctx=CTX)
    session = engine.session()
    feed(engine, session, IDS[:200])
    assert session.reuse([*IDS[:100], -5, 1 << 40]) == 100
    with pytest.raises(TypeError):
        session.reuse(["a"])  # type: ignore[list-item]


def test_equal_prompts_fill_memory_once(models: dict[str, _native.Model]) -> None:
    """Also where both are computed, side by side: behind each block both go on with one."""
    engine = _native.Engine(models["llama3"], n_ctx=CTX, n_sessions=4)
    sessions = [engine.session() for _ in range(4)]
    for start in range(0, 768, BLOCK):
        engine.step([(session, IDS[start : start + BLOCK], 0) for session in sessions])
    n_blocks = engine.resident()["kv_bytes"] / engine.block_bytes
    assert n_blocks <= 12 + 2 * 4, "each has kept its own"
    judge = Judge(models["llama3"])
    for i, session in enumerate(sessions):
        ending = IDS[800 + i : 830 + i]
        assert feed(engine, session, ending) == judge([*IDS[:768], *ending])


def test_blocks_in_use_are_never_taken(models: dict[str, _native.Model]) -> None:
    """A pool that is full of other prompts' blocks serves new ones."""
    model = models["llama3"]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=256, n_sessions=2)
    held = engine.session()
    feed(engine, held, IDS[:192])
    for i in range(20):
        session = engine.session()
        prompt = [*IDS[: 64 * (i % 4)], *IDS[i : i + 50]]
        session.reuse(prompt[:-1])
        feed(engine, session, prompt[session.n_tokens :])
        assert bytes(engine.logits()) == judge(prompt)
        session.close()
    assert feed(engine, held, IDS[192:256]) == judge(IDS[:256])


# ---- given back behind a window ------------------------------------------------------------------


@pytest.mark.parametrize("name", list(WINDOWS))
def test_windowed_layers_take_no_more_than_they_see(
    name: str, models: dict[str, _native.Model]
) -> None:
    model = models[name]
    one, two, four = (kv_bytes(model, n_ctx=n, n_batch=32) for n in (1024, 2048, 4096))
    assert four - two == 2 * (two - one), "the rest grows with the context"
    full = kv_bytes(model, n_ctx=4096, n_batch=4096)
    assert four < full / 2
    engine = _native.Engine(model, n_ctx=1024, n_batch=32)
    assert engine.gives_back
    feed(engine, engine.session(), IDS)
    assert 0.9 * one < engine.resident()["kv_bytes"] <= one + 2 * 4096
    assert not _native.Engine(model, n_ctx=1024, n_batch=1024).gives_back


@pytest.mark.parametrize("n_batch", [1, 7, 64, 100])
@pytest.mark.parametrize("name", list(WINDOWS))
def test_what_left_the_window_is_not_missed(
    name: str, n_batch: int, models: dict[str, _native.Model]
) -> None:
    model = models[name]
    engine = _native.Engine(model, n_ctx=CTX, n_batch=n_batch)
    assert feed(engine, engine.session(), IDS[:700]) == Judge(model)(IDS[:700])


@pytest.mark.parametrize("name", list(WINDOWS))
def test_truncating_goes_as_far_as_the_window_is_there(
    name: str, models: dict[str, _native.Model]
) -> None:
    model, window, n_batch = models[name], WINDOWS[name], 128
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=CTX, n_batch=n_batch)
    session = engine.session()
    feed(engine, session, IDS[:700])
    near = 700 - n_batch // 2
    assert session.truncate(near) == near
    assert feed(engine, session, IDS[:20]) == judge([*IDS[:near], *IDS[:20]])
    assert session.truncate(100 + window) == session.n_tokens == 0
    assert feed(engine, session, IDS[:300]) == judge(IDS[:300])


@pytest.mark.parametrize("name", list(WINDOWS))
def test_blocks_that_were_given_back_leave_the_other_layers(
    name: str, models: dict[str, _native.Model]
) -> None:
    """What get_block leaves of them is enough to go on at the end, and only there."""
    model = models[name]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=CTX, n_batch=32)
    session = engine.session()
    feed(engine, session, IDS[:640])
    blocks = [session.get_block(i) for i in range(10)]
    sizes = [len(block) for block in blocks]
    assert sizes[0] < sizes[-1] == engine.block_bytes and sizes == sorted(sizes)
    other = _native.Engine(model, n_ctx=CTX, n_batch=32)
    target = other.session()
    for i, block in enumerate(blocks):
        target.put_block(IDS[BLOCK * i : BLOCK * (i + 1)], block)
    assert target.truncate(640) == 640
    assert feed(other, target, IDS[640:660]) == judge(IDS[:660])
    assert [target.get_block(i) for i in range(8)] == blocks[:8]

    target.truncate(0)
    for i in range(3):
        target.put_block(IDS[BLOCK * i : BLOCK * (i + 1)], blocks[i])
    with pytest.raises(_native.ArgumentError, match="lacks what token 192 sees"):
        other.step([(target, [1], 1)])
    assert target.truncate(192) == 0
    assert feed(other, target, IDS[:20]) == judge(IDS[:20])


# ---- all of it together --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_sessions_that_do_all_sorts_of_things(
    name: str, seed: int, models: dict[str, _native.Model]
) -> None:
    """Texts that often begin alike are fed, cut, dropped, copied as blocks and taken up again in
    three sessions of a small pool, beside a list of what each must hold."""
    model, draw = models[name], random.Random(seed)
    judge = Judge(model)
    n_batch = draw.choice([16, 48, 200])
    engine = _native.Engine(model, n_ctx=448, n_batch=n_batch, n_sessions=3)
    sessions = [engine.session() for _ in range(3)]
    texts: list[list[int]] = [[], [], []]
    pieces = [[draw.randrange(N_VOCAB) for _ in range(BLOCK)] for _ in range(3)]

    def write_text() -> list[int]:
        chosen = (draw.choice(pieces) for _ in range(draw.randrange(6)))
        return [*itertools.chain(*chosen), *draw.choice(pieces)[: draw.randrange(1, BLOCK)]]

    n_reused = 0
    for _ in range(40):
        i = draw.randrange(3)
        session, text = sessions[i], texts[i]
        match draw.choice(["prompt", "prompt", "more", "cut", "close", "copy"]):
            case "prompt":
                prompt = write_text()
                n_held = session.reuse(prompt[:-1])
                n_reused += n_held
                assert feed(engine, session, prompt[n_held:]) == judge(prompt)
                texts[i] = prompt
            case "more" if 0 < len(text) <= 400:
                more = draw.choice(pieces)[: draw.randrange(1, 40)]
                assert feed(engine, session, more) == judge([*text, *more])
                texts[i] = [*text, *more]
            case "cut" if text:
                texts[i] = text[: session.truncate(draw.randrange(len(text)))]
            case "close":
                session.close()
                sessions[i], texts[i] = engine.session(), []
            case "copy" if len(text) >= BLOCK:
                blocks = [session.get_block(j) for j in range(len(text) // BLOCK)]
                session.truncate(0)
                for j, block in enumerate(blocks):
                    session.put_block(text[BLOCK * j : BLOCK * (j + 1)], block)
                texts[i] = text[: session.truncate(session.n_tokens)]
        assert [session.n_tokens for session in sessions] == [len(text) for text in texts]
    assert n_reused > 0 or name in WINDOWS  # of which little may be left to find


# ---- a pool with room for less than all contexts -------------------------------------------------


def text_of(i: int, n: int) -> list[int]:
    """Texts that begin differently."""
    return [(i + 1) % N_VOCAB, *IDS[: n - 1]]


def holdings(sessions: list[_native.Session]) -> list[tuple[list[int], list[bytes]]]:
    """All that sessions are: their tokens, and the KV of their whole blocks."""
    return [(s.ids(), [s.get_block(i) for i in range(s.n_tokens // BLOCK)]) for s in sessions]


@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_the_pool_is_planned_apart_from_the_sessions(
    name: str, models: dict[str, _native.Model]
) -> None:
    model = models[name]
    for n_batch in (32, 512):
        own = kv_bytes(model, n_ctx=512, n_batch=n_batch, n_sessions=2)
        assert kv_bytes(model, n_ctx=512, n_batch=n_batch, n_sessions=2, kv_tokens=1024) == own
        many = kv_bytes(model, n_ctx=512, n_batch=n_batch, n_sessions=8, kv_tokens=1024)
        all_of = kv_bytes(model, n_ctx=512, n_batch=n_batch, n_sessions=8)
        assert all_of == 4 * own
        assert many == own if name == "llama3" or n_batch == 512 else own < many < all_of
    rounded = kv_bytes(model, n_ctx=512, n_batch=512, n_sessions=8, kv_tokens=1024 - BLOCK + 1)
    assert rounded == many
    with pytest.raises(_native.ArgumentError, match="a KV pool of 511 tokens, expected at least"):
        model.plan(n_ctx=512, n_sessions=8, kv_tokens=511)


@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_a_step_without_room_changes_nothing(name: str, models: dict[str, _native.Model]) -> None:
    model = models[name]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=256, n_sessions=8, kv_tokens=512, n_logits=8)
    sessions = [engine.session() for _ in range(8)]
    with pytest.raises(_native.ContextError, match="room for 8 sessions"):
        engine.session()
    texts = [text_of(i, 60 if i == 7 else BLOCK) for i in range(8)]
    engine.step([(s, text, 1) for s, text in zip(sessions, texts, strict=True)])
    logits, before = bytes(engine.logits()), holdings(sessions)
    assert [ids for ids, _ in before] == texts
    refused: list[tuple[list[tuple[_native.Session, list[int], int]], int]] = [
        ([(sessions[0], [9], 1)], 1),
        ([(sessions[7], [9, 9], 1), (sessions[1], [9], 1)], 1),  # the first one alone could
        ([(sessions[7], [9], 1), (sessions[2], [9], 0), (sessions[7], [9] * 80, 0)], 3),
        ([(s, [9], 1) for s in sessions], 7),
    ]
    for step, n_needed in refused:
        said = f"the KV pool has 0 free blocks of 64 tokens, expected {n_needed}"
        with pytest.raises(_native.ContextError, match=said):
            engine.step(step)
        assert holdings(sessions) == before and bytes(engine.logits()) == logits
    with pytest.raises(_native.ContextError, match="0 free blocks of 64 tokens, expected 1"):
        sessions[0].put_block(IDS[:BLOCK], before[1][1][0])
    assert holdings(sessions) == before

    sessions.pop(1).close()
    del texts[1]
    assert feed(engine, sessions[0], IDS[:50]) == judge([*texts[0], *IDS[:50]])
    with pytest.raises(_native.ContextError, match="0 free blocks"):
        engine.step([(sessions[1], [9], 1)])
    assert holdings(sessions[1:]) == before[2:]
    sessions[0].truncate(BLOCK)
    sessions[1].put_block(IDS[:BLOCK], before[1][1][0])  # as though these tokens had that KV
    assert sessions[1].ids(BLOCK) == IDS[:BLOCK] and sessions[1].ids(1000) == []
    for i in (2, 6):
        sessions[1].truncate(BLOCK)
        assert feed(engine, sessions[i], IDS[:4]) == judge([*texts[i], *IDS[:4]])


@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_a_block_that_is_copied_before_it_is_written_counts(
    name: str, models: dict[str, _native.Model]
) -> None:
    """Two sessions go on in one block that both hold: one copies it, and the other keeps it."""
    model = models[name]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=256, n_sessions=4, kv_tokens=256, n_logits=4)
    one, two, three = (engine.session() for _ in range(3))
    feed(engine, one, IDS[:128])
    assert two.reuse(IDS[:128]) == 128
    assert one.truncate(100) == two.truncate(100) == 100
    feed(engine, three, text_of(1, 65))
    before = holdings([one, two, three])
    both: list[tuple[_native.Session, list[int], int]] = [(one, [7], 1), (two, [8], 1)]
    for step in (both[:1], both[1:], both):
        with pytest.raises(_native.ContextError, match="0 free blocks of 64 tokens, expected 1"):
            engine.step(step)
        assert holdings([one, two, three]) == before
    three.truncate(64)
    engine.step(both)
    assert bytes(engine.logits()) == judge([*IDS[:100], 7]) + judge([*IDS[:100], 8])


@pytest.mark.parametrize("name", list(WINDOWS))
def test_what_leaves_a_window_makes_room_once_nobody_holds_it(
    name: str, models: dict[str, _native.Model]
) -> None:
    """Two sessions begin alike and go on differently, with as many blocks of the windowed layers
    as they hold at most: a step takes what both of them give back in it."""
    model = models[name]
    judge = Judge(model)
    engine = _native.Engine(model, n_ctx=512, n_sessions=2, n_batch=64, n_logits=2)
    sessions = [engine.session(), engine.session()]
    for n_shared in (64, 128, 192):
        texts: list[list[int]] = []
        for s in sessions:
            s.truncate(0)
        for at in range(0, 512, 32):
            other = at if at < n_shared else 500 - at
            parts = [IDS[at : at + 32], IDS[other : other + 32]]
            texts = [[*s.ids(), *part] for s, part in zip(sessions, parts, strict=True)]
            engine.step([(s, part, 1) for s, part in zip(sessions, parts, strict=True)])
        assert bytes(engine.logits()) == judge(texts[0]) + judge(texts[1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["llama3", *WINDOWS])
def test_many_sessions_in_a_pool_that_is_often_full(
    name: str, seed: int, models: dict[str, _native.Model]
) -> None:
    """Steps of several sessions are taken whole or refused whole, and never for want of blocks that
    there are; what is taken has the bits of a session that computes alone."""
    model, draw = models[name], random.Random(seed)
    judge = Judge(model)
    n_blocks, n_taken, n_refused = 8, 0, 0
    n_batch = draw.choice([48, 64, 200])
    engine = _native.Engine(
        model, n_ctx=320, n_batch=n_batch, n_sessions=6, n_logits=6, kv_tokens=n_blocks * BLOCK
    )
    sessions = [engine.session() for _ in range(6)]
    texts: list[list[int]] = [[] for _ in sessions]
    pieces = [[draw.randrange(N_VOCAB) for _ in range(BLOCK)] for _ in range(3)]
    for _ in range(150):
        i = draw.randrange(6)
        match draw.choice([*["step"] * 8, "cut", "close", "reuse"]):
            case "step":
                chosen = draw.sample(range(6), draw.randrange(1, 5))
                n = n_batch // len(chosen)
                parts = [
                    draw.choice(pieces)[at : at + draw.randrange(1, n + 1)]
                    for at in (len(texts[j]) % BLOCK for j in chosen)
                ]
                longer = [[*texts[j], *part] for j, part in zip(chosen, parts, strict=True)]
                if any(len(text) > 320 for text in longer):
                    continue
                before = holdings(sessions)
                try:
                    engine.step(
                        [(sessions[j], part, 1) for j, part in zip(chosen, parts, strict=True)]
                    )
                except _native.ContextError:
                    n_refused += 1
                    assert holdings(sessions) == before
                    others = [texts[j] for j in range(6) if j not in chosen]
                    assert sum(-(-len(text) // BLOCK) for text in [*longer, *others]) > n_blocks
                    continue
                n_taken += 1
                assert bytes(engine.logits()) == b"".join(map(judge, longer))
                for j, text in zip(chosen, longer, strict=True):
                    texts[j] = text
            case "cut":
                texts[i] = texts[i][: sessions[i].truncate(draw.randrange(len(texts[i]) + 1))]
            case "close":
                sessions[i].close()
                sessions[i], texts[i] = engine.session(), []
            case "reuse":
                prompt = [*pieces[0], *draw.choice(pieces), *pieces[1]]
                texts[i] = prompt[: sessions[i].reuse(prompt[: draw.randrange(len(prompt))])]
        assert [session.ids() for session in sessions] == texts
    assert n_taken > 20 and n_refused > 3
