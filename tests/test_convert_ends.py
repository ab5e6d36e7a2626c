"""`convert` and `quantize` of large models: bounded memory, full disks, ends that come too soon."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from checkpoints import write_json
from conftest import ROOT
from golden import tiny_models
from golden.tiny_models import TINY_MODELS

from localllm import engines
from localllm.cli import app
from localllm.convert.from_checkpoint import convert_checkpoint

LLAMA = next(model for model in TINY_MODELS if model.name == "llama3")


def write_hollow(folder: Path, n_layers: int, dim: int, ffn_dim: int) -> int:
    """A checkpoint of zeros in BF16 whose file is a hole; returns the bytes of its weights."""
    folder.mkdir()
    n_vocab = tiny_models.N_VOCAB
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (n_vocab, dim), "norm": (dim,)}
    for i in range(n_layers):
        at = f"layers.{i}."
        shapes |= {f"{at}self_attn.{role}_proj": (dim, dim) for role in "qkvo"}
        shapes |= {f"{at}mlp.{role}_proj": (ffn_dim, dim) for role in ("gate", "up")}
        shapes[f"{at}mlp.down_proj"] = (dim, ffn_dim)
        shapes |= {f"{at}{name}_layernorm": (dim,) for name in ("input", "post_attention")}
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * int(np.prod(shape))
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        header[f"model.{name}.weight"], at = entry, end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    config = checkpoints.tiny_config(LLAMA) | {
        "hidden_size": dim,
        "intermediate_size": ffn_dim,
        "num_hidden_layers": n_layers,
        "num_attention_heads": dim // 64,
        "num_key_value_heads": dim // 64,
        "head_dim": 64,
        "tie_word_embeddings": True,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", checkpoints.bpe_json(checkpoints.tiny_vocabulary(LLAMA)))
    return at


def start(
    source: Path, out: Path, limits: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """convert of a folder, quantize of a file."""
    verb = ["convert", source, "--quant"] if source.is_dir() else ["quantize", source]
    return subprocess.Popen(
        [sys.executable, "-m", "localllm", *map(str, verb), "Q4_K_M", "-o", str(out), "--force"],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=limits,
    )


def write_source(verb: str, folder: Path, n_layers: int, dim: int, ffn_dim: int) -> Path:
    """What a command starts from: a hollow checkpoint, or a file in BF16 that was made of one."""
    write_hollow(folder / "plain", n_layers, dim, ffn_dim)
    if verb == "convert":
        return folder / "plain"
    convert_checkpoint(folder / "plain", folder / "half.gguf", "BF16")
    return folder / "half.gguf"


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """1.2 GB of weights where a process may have 250 MB of its own."""
    n_bytes = write_hollow(tmp_path / "plain", n_layers=12, dim=2048, ffn_dim=5632)
    assert n_bytes > 1_200_000_000
    limit = 250 << 20

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    process = start(tmp_path / "plain", tmp_path / "made.gguf", limits)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    engines.open_model(tmp_path / "made.gguf").close()


@pytest.mark.parametrize("verb", ["convert", "quantize"])
def test_a_full_disk_changes_nothing(verb: str, tmp_path: Path) -> None:
    source = write_source(verb, tmp_path, n_layers=1, dim=1024, ffn_dim=2048)
    out = tmp_path / "made.gguf"
    out.write_bytes(b"what was here")
    before = sorted(tmp_path.iterdir())

    def limits() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = start(source, out, limits)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and os.strerror(errno.EFBIG) in said
    assert "Traceback" not in said
    assert out.read_bytes() == b"what was here"
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_without_room_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.write_tiny(LLAMA, tmp_path / "plain")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert app.main(["convert", str(folder), "-o", str(tmp_path / "made.gguf")]) == 7
    assert "of disk are needed" in capfd.readouterr().err and not (tmp_path / "made.gguf").exists()


@pytest.mark.parametrize(
    ("verb", "ending"),
    [
        ("convert", signal.SIGKILL),
        ("convert", signal.SIGTERM),
        ("convert", signal.SIGINT),
        ("quantize", signal.SIGKILL),
        ("quantize", signal.SIGINT),
    ],
)
def test_an_end_in_the_middle_changes_nothing(
    verb: str, ending: signal.Signals, tmp_path: Path
) -> None:
    source = write_source(verb, tmp_path, n_layers=4, dim=2048, ffn_dim=5632)
    out = tmp_path / "made.gguf"
    out.write_bytes(b"what was here")
    process = start(source, out)
    partial = tmp_path / ".made.gguf.part"
    while not (partial.exists() and partial.stat().st_blocks > 100):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(ending)
    _, said = process.communicate(timeout=60)
    codes = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    assert process.returncode == codes[ending], said
    assert "Traceback" not in said
    assert out.read_bytes() == b"what was here"
    assert partial.exists() == (ending == signal.SIGKILL)
    process = start(source, out)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    engines.open_model(out).close()
    assert not partial.exists()
