"""What a user of the command waits for and what it occupies: whole processes, seen from outside.

One run gives both: the seconds from starting the process to the first byte of the answer on a pipe,
and the largest resident size of the process (file pages that it touched included), as the kernel
counted it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CONTEXT = 2048
N_ANSWER = 16
PROMPT = b"The capital of France is"  # no model ends its answer before the first word


@dataclass(frozen=True)
class Answer:
    first_byte_s: float
    peak_bytes: int


def localllm_command() -> list[str]:
    script = Path(sys.executable).with_name("localllm")
    return [str(script)] if script.exists() else [sys.executable, "-m", "localllm"]


def own_command(path: str, n_threads: int) -> list[str]:
    flags = ["--raw", "--temp", "0", "-n", str(N_ANSWER), "-c", str(CONTEXT)]
    return [*localllm_command(), "run", path, *flags, "--threads", str(n_threads)]


def run_answer(command: list[str], prompt: bytes = PROMPT) -> Answer:
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(prompt)
    process.stdin.close()
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not first:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}, answer {first!r}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Answer(seconds, usage.ru_maxrss * unit)
