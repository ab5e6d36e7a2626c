"""Broken model files as a shell sees them: exit code 6, one clear sentence, nothing on stdout.

The reader's own refusals are in test_gguf_broken.py; here they and the model's, the tokenizer's and
the rotary embedding's come through the whole program.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, write_gguf
from test_gguf_broken import BROKEN, Broken

INTEGRITY = 6
N_READER_CASES = 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "tiny.gguf"
    write_gguf(next(tiny for tiny in TINY_MODELS if tiny.name == "llama3"), path)
    return path.read_bytes()


def run(path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(path.parent)}
    return subprocess.run(
        [sys.executable, "-m", "localllm", "run", str(path), "Hello", "-n", "1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=30,
        check=False,
    )


def assert_refused(path: Path, words: str) -> None:
    ended = run(path)
    assert (ended.returncode, ended.stdout) == (INTEGRITY, "")
    sentence, *hints = ended.stderr.splitlines()
    assert sentence.startswith("error: ") and words in sentence
    assert len(hints) <= 1 and "Traceback" not in ended.stderr


@pytest.mark.parametrize("broken", BROKEN[:: len(BROKEN) // N_READER_CASES], ids=lambda b: b.name)
def test_a_malformed_file(broken: Broken, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(broken.data)
    assert_refused(path, broken.message)


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    """Another name of the same length, so that every offset stays."""
    assert len(old) == len(new)
    return lambda data: data.replace(old.encode(), new.encode(), 1)


def number(key: str, value: int) -> Callable[[bytes], bytes]:
    """Another value of a u32 key."""

    def change(data: bytes) -> bytes:
        at = data.index(key.encode()) + len(key)
        (kind,) = struct.unpack_from("<I", data, at)
        assert kind == 4, f"{key} is no u32"
        return data[: at + 4] + struct.pack("<I", value) + data[at + 8 :]

    return change


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "unknown family": (renamed("llama", "lama2"), 'the architecture "lama2"; known are llama'),
    "a key is missing": (
        renamed("llama.block_count", "llama.block_kount"),
        "llama.block_count is missing",
    ),
    "a tensor is missing": (
        renamed("blk.0.attn_q.weight", "blk.0.attn_x.weight"),
        "the tensor blk.0.attn_q.weight is missing",
    ),
    "a tensor too many": (number("llama.block_count", 1), "has no place in a llama model"),
    "a layer too few": (number("llama.block_count", 9), "is missing"),
    "no layers": (number("llama.block_count", 0), "llama.block_count is 0, expected 1 to"),
    "another width": (number("llama.embedding_length", 128), "has shape"),
    "an absurd width": (number("llama.embedding_length", 1 << 31), "is 2147483648, expected"),
    "uneven heads": (number("llama.attention.head_count_kv", 3), "cannot share"),
    "unknown tokenizer": (renamed("gpt2", "gpt9"), "gpt9"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_contradicts_itself(name: str, sound: bytes, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    data = change(sound)
    assert data != sound
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert_refused(path, words)


def test_the_sound_model_runs(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(sound)
    assert run(path).returncode == 0
