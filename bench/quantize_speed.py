"""Our quantizer against llama.cpp's on one float file: seconds and peak memory of whole processes.

    python bench/quantize_speed.py MODEL-F16.gguf [--quant Q4_K_M] [--rounds 2] [--threads 2]

The two take turns, each in a process of its own, writing beside each other in a temporary folder;
the file should be in the page cache. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer_python import get_peer_python
from shell_speed import localllm_command

# llama.cpp's numbers of its mixes.
FILE_TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7, "Q4_0": 2, "IQ4_XS": 30}

PEER = """
import ctypes, sys
import llama_cpp
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
source, out = sys.argv[1].encode(), sys.argv[2].encode()
sys.exit(llama_cpp.llama_model_quantize(source, out, ctypes.byref(params)))
"""


def run(command: list[str | Path]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quant", choices=FILE_TYPES, default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    peer, threads = get_peer_python("native"), str(options.threads)
    with tempfile.TemporaryDirectory(dir=options.model.parent) as folder:
        out = Path(folder, "out.gguf")
        own: list[str | Path] = [*localllm_command(), "quantize", options.model, options.quant]
        own += ["-o", out, "--threads", threads, "--force", "--quiet"]
        number = str(FILE_TYPES[options.quant])
        commands: dict[str, list[str | Path]] = {
            "ours": own,
            "peer": [peer, "-c", PEER, options.model, out, number, threads],
        }
        samples: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
        for turn in range(options.rounds):
            for name in list(commands) if turn % 2 == 0 else reversed(list(commands)):
                samples[name].append(run(commands[name]))
                print(f"{name}: {samples[name][-1]}", file=sys.stderr)
    seconds = {name: statistics.median(s for s, _ in rows) for name, rows in samples.items()}
    peak = {name: max(b for _, b in rows) for name, rows in samples.items()}
    print(
        json.dumps(
            {
                "quant": options.quant,
                "threads": options.threads,
                "seconds": seconds,
                "peak_bytes": peak,
                "faster": seconds["peer"] / seconds["ours"],
                "memory": peak["ours"] / peak["peer"],
            }
        )
    )


if __name__ == "__main__":
    main()
