"""Two processes with one model have its weights in memory once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HOLD = """
import sys, localllm
with localllm.load(sys.argv[1], ctx=256) as model:
    list(model.generate("The capital of France is", max_tokens=2))
    print("ready", flush=True)
    sys.stdin.read()
"""


def kilobytes(pid: int, path: Path, field: str) -> int:
    """A field of smaps, summed over the mappings of a file."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            inside = line.endswith(str(path))
        elif inside and key == f"{field}:":
            total += int(rest[0])
    return total


def test_a_second_process_adds_no_copy(real_models: dict[str, Path]) -> None:
    path = real_models["smollm2"].resolve()
    if not Path("/proc/self/smaps").exists():
        pytest.skip("this system does not say what processes share")
    held = []
    try:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, str(path)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            held.append(process)
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        resident = [kilobytes(process.pid, path, "Rss") for process in held]
        proportional = [kilobytes(process.pid, path, "Pss") for process in held]
        private = [kilobytes(process.pid, path, "Private_Dirty") for process in held]
    finally:
        for process in held:
            process.communicate()
    assert min(resident) > 0.9 * path.stat().st_size / 1024
    assert sum(proportional) <= 1.02 * max(resident), "each counts half of what both have"
    assert private == [0, 0]
