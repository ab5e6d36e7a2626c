"""Two engines at once on the same cores: what it costs against running one after the other.

    python bench/oversubscribed.py [MODEL.gguf] [--threads 2] [--rounds 5]

Two processes each open an engine with as many threads as there are cores. A round lets the first
generate alone, then the second alone, then both at once; the loss is how much longer the two at
once took than the two alone, one after the other. Half a minute in all. Without a file, smollm2
from the store is used. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from localllm import _native
from localllm.models.resolve import resolve

N_TOKENS = 200


def generate_on_request(path: str, n_threads: int) -> None:
    """Generates N_TOKENS for each line of standard input; answers with the seconds it took."""
    engine = _native.Engine(_native.Model(path), n_ctx=512, n_threads=n_threads)
    session = engine.session()
    engine.step([(session, [1] * 8, 1)])
    print("ready", flush=True)
    for _ in sys.stdin:
        session.truncate(8)
        start = time.perf_counter()
        for token in range(N_TOKENS):
            engine.step([(session, [token + 1], 1)])
        print(time.perf_counter() - start, flush=True)


class Worker:
    def __init__(self, path: str, n_threads: int) -> None:
        command = [sys.executable, __file__, path, "--threads", str(n_threads), "--worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.answer()

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure_round(workers: list[Worker]) -> tuple[float, float]:
    """Seconds of the workers one after the other, and at once."""
    start = time.perf_counter()
    for worker in workers:
        worker.ask()
        worker.answer()
    one_by_one = time.perf_counter() - start
    start = time.perf_counter()
    for worker in workers:
        worker.ask()
    for worker in workers:
        worker.answer()
    return one_by_one, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=_native.machine()["n_cores"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = options.model or str(resolve("smollm2:135m"))
    if options.worker:
        generate_on_request(path, options.threads)
        return

    workers = [Worker(path, options.threads) for _ in range(2)]
    rounds = [measure_round(workers) for _ in range(options.rounds)]
    for worker in workers:
        worker.close()
    losses = [at_once / one_by_one - 1 for one_by_one, at_once in rounds]
    print(
        json.dumps(
            {
                "threads": options.threads,
                "alone_tps": 2 * N_TOKENS / statistics.median(one for one, _ in rounds),
                "loss": statistics.median(losses),
                "losses": losses,
            }
        )
    )


if __name__ == "__main__":
    main()
