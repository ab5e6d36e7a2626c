"""Runs below limits of the process: an answer or exit 7, never anything between.

`bench/memory.py limits` sweeps wider, and says how far the verdict is from the truth.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hollow_models import Hollow, random_text, write_hollow

from localllm import __main__
from localllm.cli import failures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these limits are Linux's")
MIB = 1 << 20
N_CTX, N_ANSWER = 1024, 4
MODEL = Hollow(n_kv_heads=8)


def run_below(path: Path, which: int, n_bytes: int) -> int:
    """The exit code, after a look at whether the process kept its word."""

    def limit() -> None:
        resource.setrlimit(which, (n_bytes, n_bytes))

    arguments = ["run", str(path), "--json", "-c", str(N_CTX), "-t", "2", "-n", str(N_ANSWER)]
    ran = subprocess.run(
        [sys.executable, "-m", "localllm", *arguments, "--temp", "0"],
        input=random_text(N_CTX - 8, MODEL.n_vocab),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        preexec_fn=limit,
    )
    if ran.returncode == 0:
        assert len(json.loads(ran.stdout)["text"]) == N_ANSWER
    else:
        assert (ran.returncode, ran.stdout) == (7, ""), f"{n_bytes / MIB:.1f} MiB: {ran.stderr}"
        assert ran.stderr.startswith("error: ") and "Traceback" not in ran.stderr
    return ran.returncode


@pytest.mark.parametrize(
    ("which", "low", "high"), [(resource.RLIMIT_DATA, 8, 60), (resource.RLIMIT_AS, 18, 110)]
)
def test_below_a_limit_a_run_answers_or_is_refused(
    tmp_path: Path, which: int, low: int, high: int
) -> None:
    path = write_hollow(tmp_path / "model.gguf", MODEL)
    sizes = [low + (high - low) * i / 15 for i in range(16)]
    codes = [run_below(path, which, int(size * MIB)) for size in sizes]
    assert codes[0] == 7 and codes[-1] == 0
    assert codes == sorted(codes, reverse=True), "once there is room enough, there is"


def test_memory_that_runs_out_while_an_error_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def find_cause(error: Exception) -> Exception:
        raise MemoryError

    monkeypatch.setattr(failures, "find_cause", find_cause)
    monkeypatch.setattr(sys, "argv", ["localllm", "no such command"])
    assert __main__.main() == 7
    assert capfd.readouterr() == ("", "error: the process has no memory for its own modules\n")


def test_a_limit_too_low_for_what_is_set_aside(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "RESERVE_BYTES", 1 << 62)
    monkeypatch.setattr(sys, "argv", ["localllm", "list"])
    assert __main__.main() == 7
    assert capfd.readouterr() == ("", "error: the process has no memory for its own modules\n")
