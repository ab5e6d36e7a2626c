"""What a user of the command waits for and what it occupies: whole processes, seen from outside.

First byte: from starting the process to the first byte of the answer on a pipe, prompt on stdin.
Memory: the largest resident size of a run that reads a long prompt and answers, as the kernel
counted it. Every figure is the median of REPEAT runs after one that is thrown away.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPEAT = 5
PROMPT = b"What is the capital of France?\n"
LONG_TEXT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "text.txt"


def localllm_command() -> list[str]:
    script = Path(sys.executable).with_name("localllm")
    return [str(script)] if script.exists() else [sys.executable, "-m", "localllm"]


def median_of_runs(measure: Callable[[], float]) -> float:
    measure()
    return statistics.median(measure() for _ in range(REPEAT))


def seconds_to_exit(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return time.perf_counter() - start


def seconds_to_first_byte(command: list[str]) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(PROMPT)
    process.stdin.close()
    first = os.read(process.stdout.fileno(), 1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    stderr = process.stderr.read().decode() if process.stderr else ""
    if process.wait() != 0 or not first:
        raise SystemExit(f"{command} failed: {stderr}")
    return seconds


def peak_bytes(command: list[str]) -> float:
    """Largest resident size of the whole process (file pages that it touched included)."""
    with LONG_TEXT.open("rb") as text:
        process = subprocess.Popen(command, stdin=text, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} failed with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(usage.ru_maxrss * unit)
