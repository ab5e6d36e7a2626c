"""Conversations in files: going on from one gives the bytes that a whole run gives."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import localllm
from localllm.answer import snapshots
from localllm.answer.prefixes import BLOCK_TOKENS
from localllm.cli import app
from localllm.errors import IntegrityError, UsageError

SYSTEM = "You answer in verse. " * 30
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def model_path(real_models: dict[str, Path]) -> Path:
    return real_models["smollm2"]


@pytest.fixture(scope="module")
def made(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots")
    (folder / "system.txt").write_text(SYSTEM)
    out = folder / "bot.kv"
    done = run(["snapshot", str(model_path), "-s", str(folder / "system.txt"), "-o", str(out)])
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    said = re.fullmatch(r"(\d+) of (\d+) tokens are kept\n", done.stderr)
    assert said is not None
    n_kept, n_fed = int(said[1]), int(said[2])
    assert n_kept == len(snapshots.read(out).ids) == n_fed // BLOCK_TOKENS * BLOCK_TOKENS
    return out


def run(arguments: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "localllm", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def answer(path: Path, *flags: str) -> dict[str, Any]:
    common = ["--temp", "0", "-n", "12", "--json", "--no-prefix-cache"]
    done = run(["run", str(path), *common, *flags, QUESTION])
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document | {"said": done.stderr}


def test_a_run_goes_on_from_it_with_the_same_words(model_path: Path, made: Path) -> None:
    whole = answer(model_path, "-s", SYSTEM)
    short = answer(model_path, "--snapshot", str(made))
    assert short["text"] == whole["text"] and short["n_prompt"] == whole["n_prompt"]
    assert whole["n_reused"] == 0
    assert short["n_reused"] == len(snapshots.read(made).ids) >= 2 * BLOCK_TOKENS
    assert short["said"] == ""


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "is damaged; what is missing is computed again"),
        (lambda path: os.truncate(path, path.stat().st_size - 5000), "is damaged; what is missing"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'"key": "', b'"key": "0')), ""),
    ],
)
def test_what_does_not_fit_is_computed(
    change: Callable[[Path], object], said: str, model_path: Path, made: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.kv"
    copy.write_bytes(made.read_bytes())
    change(copy)
    if not said:  # the length before the JSON is wrong by the one letter that came in
        raw = bytearray(copy.read_bytes())
        at = len(snapshots.MAGIC)
        n = int.from_bytes(raw[at : at + 8], "little") + 1
        raw[at : at + 8] = n.to_bytes(8, "little")
        copy.write_bytes(raw)
        said = "was made by another model or KV type"
    whole = answer(model_path, "--snapshot", str(made))
    again = answer(model_path, "--snapshot", str(copy))
    assert again["text"] == whole["text"] and again["n_reused"] < whole["n_reused"]
    assert said in again["said"] and again["said"].count("\n") == 1


def test_layers_with_a_window_keep_what_is_seen_at_the_end(
    real_models: dict[str, Path], tmp_path: Path
) -> None:
    """Of a long text the early blocks are smaller, and an answer goes on as if they were not."""
    path, prompt = tmp_path / "long.kv", SYSTEM * 10 + QUESTION
    with localllm.load(real_models["gemma3"], ctx=4096) as model:
        sampling = model.settle(temperature=0)
        assert model.engine.gives_back
        text = "".join(model.generate(prompt, sampling, max_tokens=12))
        n_kept = model.save(path, [])
        assert n_kept >= 1280
        assert path.stat().st_size < n_kept // BLOCK_TOKENS * model.engine.block_bytes * 0.95
    with localllm.load(real_models["gemma3"], ctx=4096) as model:
        notes: list[str] = []
        assert model.restore(path, notes.append) == [] and not notes
        again = model.generate(prompt, sampling, max_tokens=12)
        assert "".join(again) == text
        assert again.result.n_reused == min(n_kept, again.result.n_prompt - 1)


def test_another_models_snapshot(real_models: dict[str, Path], made: Path) -> None:
    with localllm.load(real_models["gemma3"], ctx=1024) as model:
        notes: list[str] = []
        assert model.restore(made, notes.append) == [{"role": "system", "content": SYSTEM}]
        assert "made by another model" in notes[0] and model.timeline.ids == []


def test_a_snapshot_of_other_bits_gives_its_messages(model_path: Path, made: Path) -> None:
    with localllm.load(model_path, ctx=2048) as model:
        engine: Any = model.engine
        engine.arithmetic = "other-1"
        notes: list[str] = []
        assert model.restore(made, notes.append) == [{"role": "system", "content": SYSTEM}]
        assert "another arithmetic; it is computed again" in notes[0] and len(notes) == 1
        assert model.timeline.ids == []


def test_a_conversation_is_saved_with_what_was_computed(model_path: Path, tmp_path: Path) -> None:
    messages: list[dict[str, str]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
    ]
    path = tmp_path / "talk.kv"
    more = {"role": "user", "content": "And of Spain?"}
    with localllm.load(model_path, ctx=2048) as model:
        said = "".join(model.chat(messages, model.settle(temperature=0), max_tokens=12))
        messages.append({"role": "assistant", "content": said})
        n_kept = model.save(path, messages)
        assert n_kept % BLOCK_TOKENS == 0 and 0 < n_kept <= len(model.timeline.ids)
        straight = "".join(model.chat([*messages, more], model.settle(temperature=0), 12))
    with localllm.load(model_path, ctx=2048) as model:
        again = model.restore(path)
        assert again == messages and len(model.timeline.ids) == n_kept
        answer = model.chat([*again, more], model.settle(temperature=0), 12)
        assert "".join(answer) == straight and answer.result.n_reused >= n_kept - BLOCK_TOKENS
    with localllm.load(model_path, ctx=64) as model:
        assert model.restore(path) == messages and model.timeline.ids == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"llsnap\1\0",
        b"llsnap\1\0" + bytes(8),
        b"llsnap\1\0" + b"\xff" * 8 + b"{}",
        b"{}",
        b"[]",
        b'{"messages": 3}',
        b'{"messages": [3]}',
        b'{"messages": [], "ids": [-1]}',
        b'{"messages": [], "ids": 3}',
        b'{"messages": [], "ids": ["x"]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_conversation(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.kv"
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match="does not hold a saved conversation"):
        snapshots.read(path)


def test_json_alone_is_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text('{\n "messages": [\n  {"role": "user", "content": "hi"}\n ]\n}\n')
    snapshot = snapshots.read(path)
    assert snapshot.messages == [{"role": "user", "content": "hi"}] and snapshot.ids == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "MODEL", "--snapshot", "x", "-s", "y", "hi"], 2, "does not go with --system"),
        (["run", "MODEL", "--snapshot", "x", "--raw", "hi"], 2, "does not go with --raw"),
        (["run", "MODEL", "--snapshot", "no/where.kv", "--no-stdin", "hi"], 1, "No such file"),
        (
            ["run", "MODEL", "--snapshot", "README.md", "--no-stdin", "hi"],
            6,
            "does not hold a saved",
        ),
        (["snapshot", "MODEL", "-s", "no/where.txt", "-o", "x.kv"], 1, "No such file"),
        (["snapshot", "MODEL", "-s", "README.md", "-o", "no/where.kv"], 2, "there is no folder"),
        (["snapshot", "MODEL", "-s", "/dev/null", "-o", "x.kv"], 2, "holds no text"),
    ],
)
def test_bad_command_lines(
    arguments: list[str],
    code: int,
    said: str,
    model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert app.main([str(model_path) if a == "MODEL" else a for a in arguments]) == code
    captured = capfd.readouterr()
    assert captured.out == "" and said in captured.err


def test_a_model_without_a_template(
    scripts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talk.json").write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    flags = ["--snapshot", str(tmp_path / "talk.json"), "--no-stdin"]
    assert app.main(["run", str(scripts["bare"]), *flags, "hello"]) == 2
    assert "--snapshot does not apply: this model has no chat template" in capfd.readouterr().err
    with localllm.load(scripts["bare"]) as model, pytest.raises(UsageError, match="no chat temp"):
        model.feed_system("x")
