"""What a run was predicted to take against what the kernel counted; `bench/memory.py` does more.

Each run is a process of its own, because a peak belongs to a process.
"""

from __future__ import annotations

import itertools
import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, TinyModel, write_gguf
from hollow_models import SHAPES, Hollow, random_text, write_hollow

from localllm import _native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts all of it")
MIB = 1 << 20
N_ANSWER = 4


def memory_of(path: Path, prompt: str, *flags: str) -> dict[str, Any]:
    """What a run says of its memory."""
    arguments = ["run", str(path), "--json", "-n", str(N_ANSWER), "--temp", "0", *flags]
    ran = subprocess.run(
        [sys.executable, "-m", "localllm", *arguments],
        input=prompt,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    said: dict[str, Any] = json.loads(ran.stdout)["memory"]
    return said


def totals_of(path: Path, prompt: str, *flags: str) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = memory_of(path, prompt, *flags)["totals"]
    return totals


def check(totals: dict[str, dict[str, int]]) -> None:
    peak, anonymous = totals["peak"], totals["anonymous"]
    error = peak["predicted_bytes"] - peak["measured_bytes"]
    assert abs(error) <= max(0.05 * peak["measured_bytes"], 16 * MIB)
    assert anonymous["predicted_bytes"] >= 0.97 * anonymous["measured_bytes"]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str, n_threads: int) -> None:
    model = SHAPES[shape]
    path = write_hollow(tmp_path / "model.gguf", model)
    prompt = random_text(480, model.n_vocab)
    said = memory_of(path, prompt, "-c", "512", "-t", str(n_threads))
    check(said["totals"])
    parts = {part["name"]: part for part in said["components"]}
    for name, slack in (("kv cache", 64 << 10), ("logits", 8 << 10), ("scratch", 2 * MIB)):
        error = parts[name]["touched_bytes"] - parts[name]["measured_bytes"]
        assert -(16 << 10) <= error <= slack, name
    weights = said["totals"]["model_file"]
    if model.is_tied:
        assert abs(weights["predicted_bytes"] - weights["measured_bytes"]) < MIB


# Shapes whose largest part of a thread's memory differs: tasks of few and of many rows, wide heads,
# many heads that share keys, rows that are no multiple of a slab's, every kind of activations.
PANEL_SHAPES = {
    "small": Hollow(),
    "wide heads": Hollow(n_layers=2, dim=512, n_heads=2, n_kv_heads=1),
    "shared": Hollow(n_layers=2, dim=512, n_heads=16, n_kv_heads=1, quant="Q4_0"),
    "ragged": Hollow(n_layers=2, dim=256, ffn_dim=2816, n_vocab=4093, quant="Q4_K"),
    "halves": Hollow(n_layers=2, dim=256, ffn_dim=4096, quant="F16"),
    "long rows": Hollow(n_layers=2, dim=256, ffn_dim=8192, quant="BF16"),
}
STEPS = (1, 5, 12, 17, 130, 512)
SLOW_STEPS = (1, 5, 17)


@pytest.mark.parametrize("kernels", _native.machine()["kernels"])
@pytest.mark.parametrize("shape", PANEL_SHAPES)
def test_scratch_is_touched_as_far_as_planned(tmp_path: Path, shape: str, kernels: str) -> None:
    """By steps of any size, with any number of threads, each of which may get any task."""
    model = _native.Model(str(write_hollow(tmp_path / "model.gguf", PANEL_SHAPES[shape])))
    steps = itertools.product(SLOW_STEPS if kernels == "scalar" else STEPS, (1, 2, 7))
    for (n_rows, n_threads), kv in zip(steps, itertools.cycle(("f16", "q8_0")), strict=False):
        options: dict[str, Any] = {"n_threads": n_threads, "kernels": kernels, "n_ctx": 1024}
        engine = _native.Engine(model, kv_k=kv, kv_v=kv, **options)
        session = engine.session()
        engine.step([(session, list(range(n_rows)), 1)])
        touched = engine.resident()["scratch_bytes"]
        plan = model.plan(kv_k=kv, kv_v=kv, n_batch=n_rows, **options)
        planned, case = plan["scratch_touched_bytes"], (n_rows, n_threads, kv)
        assert touched <= planned + SPREAD_BYTES, case
        assert planned < plan["scratch_bytes"] + mmap.PAGESIZE, case
        if n_threads == 1 and n_rows >= 130:
            assert planned - touched < 256 << 10, case


# The buffers of a large engine lie further apart than those of one for these rows alone.
SPREAD_BYTES = 24 * mmap.PAGESIZE


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_families(tmp_path: Path, model: TinyModel) -> None:
    write_gguf(model, tmp_path / "model.gguf")
    check(totals_of(tmp_path / "model.gguf", "some text", "--raw"))


def test_real_models(real_models: dict[str, Path]) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 60
    for path in real_models.values():
        for flags in (["-c", "1024"], ["-c", "8192", "-t", "1"]):
            check(totals_of(path, text, *flags))


def test_a_full_context_is_what_fit_says(tmp_path: Path) -> None:
    """What `fit` says beforehand is what a run that fills its context takes."""
    model = SHAPES["kv"]
    path = write_hollow(tmp_path / "model.gguf", model)
    command = [sys.executable, "-m", "localllm", "fit", str(path), "--json", "-c", "2048"]
    ran = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    said: dict[str, Any] = json.loads(ran.stdout)
    totals = totals_of(path, random_text(2048 - N_ANSWER, model.n_vocab), "-c", "2048")
    measured = totals["peak"]["measured_bytes"]
    assert abs(said["touched_bytes"] - measured) <= max(0.05 * measured, 16 * MIB)
    assert said["touched_bytes"] >= 0.97 * measured
