"""Kept prefixes: the same answer as without, sooner, and no trouble from what lies on the disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from golden.tiny_models import N_VOCAB, TINY_MODELS, hash_words, write_gguf

from localllm import _native, engines
from localllm.answer import prefixes
from localllm.answer.generate import Timeline
from localllm.answer.prefixes import BLOCK_TOKENS, HEADER, LEAST_TOKENS, Prefixes
from localllm.cli import app
from localllm.engines.base import EngineOptions

N_TOKENS = 700
IDS = [int(word % np.uint64(N_VOCAB)) for word in hash_words(77, N_TOKENS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models whose context is long enough; gemma3 has two kinds of layers."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for tiny in TINY_MODELS:
        if tiny.name in ("llama3", "qwen3", "gemma3"):
            paths[tiny.name] = folder / f"{tiny.name}.gguf"
            write_gguf(replace(tiny, n_ctx=4096), paths[tiny.name])
    return paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return prefixes.cache_folder()


class Run:
    """One process's view: a model, its timeline and what it said."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.file = engines.open_model(path)
        self.engine = self.file.open_engine(EngineOptions(n_ctx=1024, **options))
        self.notes: list[str] = []
        self.prefixes = Prefixes(self.file, self.engine, self.notes.append)
        self.timeline = Timeline(self.engine, self.prefixes)

    def feed(self, ids: list[int]) -> tuple[int, bytes]:
        """How many of the tokens it had, and the bits of the last one's logits."""
        n_reused = self.timeline.feed(ids)
        logits = bytes(self.engine.logits())
        self.timeline.finish_keeping()
        return n_reused, logits

    def close(self) -> None:
        self.timeline.close()
        self.engine.close()
        self.file.close()


Open = Callable[..., Run]


@pytest.fixture
def open_run(models: dict[str, Path], folder: Path) -> Iterator[Open]:
    runs: list[Run] = []

    def run(name: str = "llama3", **options: Any) -> Run:
        runs.append(Run(models[name], **options))
        return runs[-1]

    yield run
    for each in runs:
        each.close()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.suffix == prefixes.SUFFIX)


# ---- the engine's blocks -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "qwen3", "gemma3"])
def test_a_block_has_the_same_bytes_in_every_engine(name: str, models: dict[str, Path]) -> None:
    model = _native.Model(str(models[name]))
    found = set()
    for n_threads, n_batch, kernels in ((1, 512, None), (3, 7, None), (2, 64, "scalar")):
        engine = _native.Engine(
            model, n_ctx=512, n_threads=n_threads, n_batch=n_batch, kernels=kernels
        )
        session = engine.session()
        blocks: list[bytes] = []  # read as they fill: layers with a window give theirs back
        for start in range(0, 200, n_batch):
            engine.step([(session, IDS[start : min(start + n_batch, 200)], 1)])
            blocks += [session.get_block(i) for i in range(len(blocks), session.n_tokens // 64)]
        with pytest.raises(_native.ArgumentError, match="block 3 of a session of 200 tokens"):
            session.get_block(3)
        other = _native.Engine(model, n_ctx=512).session()
        for i, block in enumerate(blocks):
            other.put_block(IDS[64 * i : 64 * i + 64], block)
        assert other.n_tokens == 192
        assert [other.get_block(i) for i in range(3)] == blocks
        found.add(b"".join(blocks))
    assert len(found) == 1


def test_blocks_that_cannot_be_put(models: dict[str, Path]) -> None:
    engine = _native.Engine(_native.Model(str(models["llama3"])), n_ctx=100)
    session = engine.session()
    engine.step([(session, IDS[:64], 1)])
    block = session.get_block(0)
    for kv in (block[:-1], b""):
        with pytest.raises(_native.ArgumentError, match=f"a block of {len(kv)} bytes, expected"):
            session.put_block(IDS[:64], kv)
    for ids in (IDS[:63], IDS[:65]):
        with pytest.raises(_native.ArgumentError, match="too many or few tokens"):
            session.put_block(ids, block)
    with pytest.raises(_native.ArgumentError, match="token -1 is outside"):
        session.put_block([*IDS[:63], -1], block)
    with pytest.raises(TypeError):
        session.put_block(["a"] * 64, block)  # type: ignore[list-item]
    with pytest.raises(_native.ContextError, match="128 tokens do not fit a context of 100"):
        session.put_block(IDS[:64], block)
    engine.step([(session, IDS[:1], 1)])
    with pytest.raises(_native.ArgumentError, match="a block behind 65 tokens"):
        session.put_block(IDS[:64], block)
    assert session.n_tokens == 65


# ---- the same answer, sooner ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "qwen3", "gemma3"])
def test_a_second_run_computes_only_the_end(name: str, open_run: Open, folder: Path) -> None:
    cold = open_run(name, n_threads=1).feed(IDS)
    assert cold[0] == 0 and len(files_of(folder)) == N_TOKENS // BLOCK_TOKENS
    warm = open_run(name, n_threads=2, n_batch=96).feed(IDS)
    scalar = open_run(name, kernels="scalar").feed(IDS)
    assert warm == scalar == (N_TOKENS // BLOCK_TOKENS * BLOCK_TOKENS, cold[1])


def test_prompts_share_what_they_begin_with(open_run: Open, folder: Path) -> None:
    open_run().feed(IDS)
    n_files = len(files_of(folder))
    other = [*IDS[:400], *reversed(IDS[400:])]
    plain = open_run()
    plain.timeline.prefixes = None
    assert open_run().feed(other) == (384, plain.feed(other)[1])
    assert len(files_of(folder)) == n_files + N_TOKENS // BLOCK_TOKENS - 6
    assert open_run().feed(IDS)[0] == open_run().feed(other)[0] == 640


@pytest.mark.parametrize("n", [1, 255, 256, 257, 319, 320, 321, 640, 641])
def test_every_length_is_answered_alike(n: int, open_run: Open, folder: Path) -> None:
    cold = open_run().feed(IDS[:n])
    assert len(files_of(folder)) == (n // BLOCK_TOKENS if n >= LEAST_TOKENS else 0)
    n_known, warm = open_run().feed(IDS[:n])
    assert warm == cold[1]
    known = (n - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert n_known == (known if known >= LEAST_TOKENS else 0)


def test_a_conversation_goes_on_from_what_is_known(open_run: Open, folder: Path) -> None:
    open_run().feed(IDS)
    run = open_run()
    assert run.feed(IDS[:300])[0] == 256
    n_held, logits = run.feed(IDS)
    assert n_held == 640, "more is on the disk than the session holds"
    assert run.feed([*IDS[:500], 5, 6, 7])[0] == 500, "more is in the session than on the disk"
    assert open_run().feed(IDS) == (640, logits)


def test_models_do_not_share(open_run: Open, folder: Path) -> None:
    open_run("llama3").feed(IDS)
    assert open_run("qwen3").feed(IDS)[0] == 0
    assert len({path.parent for path in files_of(folder)}) == 2


def test_devices_of_other_bits_do_not_share(open_run: Open, folder: Path) -> None:
    """Another device's KV has the same length and would be taken without a word."""
    first = open_run("qwen3")
    assert first.engine.arithmetic == "canonical-1"
    key = prefixes.fingerprint(first.file, first.engine)
    assert first.feed(IDS)[0] == 0
    other = open_run("qwen3")
    other.engine.arithmetic = "other-1"
    assert prefixes.fingerprint(other.file, other.engine) != key
    n_files = len(files_of(folder))
    assert other.feed(IDS)[0] == 0 and len(files_of(folder)) == 2 * n_files
    again = open_run("qwen3")
    assert again.feed(IDS)[0] > 0


def test_types_of_kv_do_not_share(open_run: Open, folder: Path) -> None:
    open_run().feed(IDS)
    cold = open_run(kv_k="q8_0").feed(IDS)
    assert cold[0] == 0
    assert open_run(kv_k="q8_0", n_threads=1).feed(IDS) == (640, cold[1])
    assert open_run(kv_k="q8_0", kv_v="q8_0").feed(IDS)[0] == 0
    assert len({path.parent for path in files_of(folder)}) == 3


def test_a_changed_model_is_another(models: dict[str, Path], tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(models["llama3"].read_bytes())
    Run(copy).feed(IDS)
    assert Run(copy).feed(IDS)[0] == 640
    os.utime(copy, (1, 1))
    assert Run(copy).feed(IDS)[0] == 0, "another time, perhaps other bytes"
    manifest = {"name": "copy", "n_bytes": copy.stat().st_size, "sha256": "a" * 64}
    (tmp_path / "copy.gguf.json").write_text(json.dumps(manifest))
    Run(copy).feed(IDS)
    os.utime(copy, (2, 2))
    assert Run(copy).feed(IDS)[0] == 640, "its hash is known, so the time says nothing"


# ---- whatever lies on the disk -------------------------------------------------------------------


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)


def foreign(path: Path) -> None:
    others = [other for other in files_of(path.parent.parent) if other != path]
    path.write_bytes(others[0].read_bytes())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "the end missing": lambda path: os.truncate(path, path.stat().st_size - 1),
    "half a header": lambda path: os.truncate(path, HEADER.size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another's": foreign,
    "another version": lambda path: path.write_bytes(b"llkv\2" + path.read_bytes()[5:]),
    "no cache file": lambda path: path.write_bytes(b"GGUF" * 1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_once_and_computed_again(damage: str, open_run: Open, folder: Path) -> None:
    cold = open_run().feed(IDS)
    run = open_run()
    keys = prefixes.keys_of(run.prefixes.first, IDS)
    for i in (3, 7):
        DAMAGES[damage](run.prefixes.path(keys[i]))
    assert run.feed(IDS) == (3 * BLOCK_TOKENS, cold[1])
    assert run.notes == ["a kept prefix is damaged; it is computed again"]
    again = open_run()
    assert again.feed(IDS) == (7 * BLOCK_TOKENS, cold[1])
    assert len(again.notes) == 1
    assert open_run().feed(IDS)[0] == 640


def test_a_block_of_another_length_is_damage(open_run: Open, folder: Path) -> None:
    cold = open_run().feed(IDS)
    run = open_run()
    key = prefixes.keys_of(run.prefixes.first, IDS)[2]
    prefixes.write_block(run.prefixes.path(key), key, b"short")
    assert run.feed(IDS) == (2 * BLOCK_TOKENS, cold[1]) and len(run.notes) == 1


@pytest.mark.parametrize("n_batch", [20, 100])
def test_layers_with_a_window_give_back_what_is_kept_already(
    n_batch: int, open_run: Open, folder: Path
) -> None:
    """Every block is on the disk whole, so a prompt that begins alike may end anywhere."""
    run = open_run("gemma3", n_batch=n_batch)
    assert run.engine.gives_back
    cold = run.feed(IDS)
    n_blocks = N_TOKENS // BLOCK_TOKENS
    assert len(files_of(folder)) == n_blocks
    assert len(run.timeline.session.get_block(0)) < run.engine.block_bytes
    assert open_run("gemma3", n_batch=n_batch).feed(IDS) == (n_blocks * BLOCK_TOKENS, cold[1])
    for n_shared in (320, 333):
        prompt = [*IDS[:n_shared], *IDS[:50]]
        expected = open_run("gemma3", n_batch=1024)
        expected.timeline.prefixes = None
        n_reused, logits = open_run("gemma3", n_batch=n_batch).feed(prompt)
        assert (n_reused, logits) == (320, expected.feed(prompt)[1])


def test_a_prompt_that_was_interrupted_is_kept_as_far_as_it_came(
    open_run: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = open_run(n_batch=100).feed(IDS)
    prefixes.clear(folder)
    run = open_run(n_batch=100)
    step, n_steps = run.timeline.step, iter(range(10))

    def interrupted(ids: Sequence[int], keep_logits: bool = True) -> None:
        if next(n_steps) == 4:
            raise KeyboardInterrupt
        step(ids, keep_logits)

    monkeypatch.setattr(run.timeline, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.timeline.feed(IDS)
    run.timeline.finish_keeping()
    assert len(files_of(folder)) == 400 // BLOCK_TOKENS
    assert open_run().feed(IDS) == (384, cold[1])


def test_a_file_that_goes_meanwhile(open_run: Open, folder: Path) -> None:
    cold = open_run().feed(IDS)
    run = open_run()
    load = run.prefixes.load

    def late(session: Any, key: bytes, ids: Sequence[int]) -> bool:
        if session.n_tokens == 2 * BLOCK_TOKENS:
            run.prefixes.path(key).unlink()
        return load(session, key, ids)

    run.prefixes.load = late  # type: ignore[method-assign]
    assert run.feed(IDS) == (2 * BLOCK_TOKENS, cold[1]) and run.notes == []


def test_a_full_disk_is_said_once(
    open_run: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, key: bytes, kv: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prefixes, "write_block", full)
    run = open_run()
    run.feed(IDS)
    run.feed(IDS[::-1])
    assert run.notes == [f"prefixes are not kept: {os.strerror(errno.ENOSPC)}"]
    assert files_of(folder) == []


def test_a_folder_that_cannot_be_made(open_run: Open, folder: Path) -> None:
    folder.parent.parent.mkdir()
    folder.parent.write_text("a file")
    run = open_run()
    assert run.feed(IDS)[0] == 0
    assert run.notes == [f"prefixes are not kept: {os.strerror(errno.ENOTDIR)}"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="broken"):
        prefixes.write_block(tmp_path / "a.kv", b"k" * 32, b"kv")
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_private(open_run: Open, folder: Path) -> None:
    os.umask(0o022)
    open_run().feed(IDS)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(folder)} == {0o600}


# ---- its size ------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes_first(
    open_run: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run().feed(IDS)
    size = files_of(folder)[0].stat().st_size
    old = set(files_of(folder))
    for i, path in enumerate(old):
        os.utime(path, (1000 + i, 1000 + i))
    open_run().feed(IDS[:400])  # uses six of them
    monkeypatch.setattr(prefixes, "MOST_BYTES", 13 * size)
    open_run().feed(IDS[::-1])  # writes ten more
    left = set(files_of(folder))
    assert len(left) == 13
    used = open_run()
    keys = prefixes.keys_of(used.prefixes.first, IDS)
    assert {used.prefixes.path(key) for key in keys[:3]} <= left, "the beginnings are left"
    assert not {used.prefixes.path(key) for key in keys[6:]} & left
    assert used.feed(IDS[::-1])[0] == 640


def test_a_small_disk_bounds_it(
    open_run: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    run = open_run()
    run.feed(IDS)
    held = sum(kept.n_bytes for kept in prefixes.kept_files(folder))
    usage = shutil.disk_usage(folder)._replace(free=held)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run.feed(IDS[::-1])
    assert sum(k.n_bytes for k in prefixes.kept_files(folder)) <= (held * 3) // 10


def test_a_full_cache_takes_no_memory(tmp_path: Path) -> None:
    """Counted and trimmed without holding what is in it, which no plan of a run knows."""
    folder = tmp_path / "prefixes"
    (folder / "model").mkdir(parents=True)
    for i in range(1500):
        path = folder / "model" / f"{i:040}.kv"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 + i, 1000 + i))
    tracemalloc.start()
    prefixes.make_room(folder, prefixes.held_bytes(folder) - 1990)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 << 10
    assert next(kept.path.stem for kept in prefixes.kept_files(folder)) == f"{199:040}"
    assert prefixes.held_bytes(folder) == 15000 - 1990


def test_what_a_dead_process_left_is_counted(open_run: Open, folder: Path) -> None:
    run = open_run()
    run.feed(IDS)
    left = run.prefixes.model_folder / ".dead.kv.123"
    left.write_bytes(bytes(100))
    assert left in [kept.path for kept in prefixes.kept_files(folder)]
    assert prefixes.clear(folder) > 100 and not any(folder.iterdir())


# ---- the commands --------------------------------------------------------------------------------


def run_command(path: Path, cache: Path, *flags: str) -> subprocess.Popen[str]:
    text = " ".join(f"word{i}" for i in range(60))
    command = [sys.executable, "-m", "localllm", "run", str(path), "--raw", "--temp", "0"]
    return subprocess.Popen(
        [*command, "-n", "8", "--json", *flags, text],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    document = json.loads(out)
    return document["n_reused"], document["text"], err


def test_a_second_process_starts_where_the_first_was(
    models: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first = answer(run_command(models["llama3"], cache))
    second = answer(run_command(models["llama3"], cache))
    without = answer(run_command(models["llama3"], cache, "--no-prefix-cache"))
    assert first[0] == without[0] == 0 and second[0] >= LEAST_TOKENS
    assert first[1:] == second[1:] == without[1:]
    for path in files_of(cache / "localllm" / "prefixes"):
        flip(path)
    damaged = answer(run_command(models["llama3"], cache))
    assert damaged[:2] == first[:2]
    assert damaged[2] == "a kept prefix is damaged; it is computed again\n"


def test_two_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = [run_command(models["llama3"], cache) for _ in range(4)]
    texts = {answer(process)[1] for process in both}
    assert len(texts) == 1
    assert answer(run_command(models["llama3"], cache))[0] >= LEAST_TOKENS
    assert not list(cache.rglob(".*"))


def test_the_cache_is_listed_and_cleared(
    open_run: Open, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["cache", "ls"]) == 0
    assert "0 B in" in capfd.readouterr().out
    open_run("llama3").feed(IDS)
    open_run("gemma3").feed(IDS)
    assert app.main(["cache", "ls", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert {m["model"]: m["tokens"] for m in document["models"]} == {
        "llama3.gguf": 640,
        "gemma3.gguf": 640,
    }
    assert app.main(["cache", "ls"]) == 0
    assert "llama3.gguf" in capfd.readouterr().out
    assert app.main(["cache", "clear", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["removed_bytes"] > 0
    assert prefixes.kept_files(folder) == [] and not any(folder.iterdir())
    assert app.main(["cache", "clear"]) == 0
    assert app.main(["cache", "drop"]) == 2
