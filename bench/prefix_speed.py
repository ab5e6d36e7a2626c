"""What a kept prefix saves: whole processes with one long prompt, first without and then with it.

    python bench/prefix_speed.py MODEL.gguf [--tokens 2000] [--rounds 3]

The caches are a temporary folder's. One JSON object is printed: seconds to the first token and of
the whole process, tokens that were not computed, and whether the answers are the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from shell_speed import localllm_command

from localllm import engines

N_ANSWER = 16


def write_text(model: Path, n_tokens: int, path: Path) -> int:
    """Words that take about so many tokens; returns how many."""
    chance = random.Random(n_tokens)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    file = engines.open_model(model)
    words: list[str] = []
    while len(file.tokenize(" ".join(words))) < n_tokens:
        words.append("".join(chance.choices(letters, k=chance.randint(2, 8))))
    text = " ".join(words)
    n = len(file.tokenize(text))
    file.close()
    path.write_text(text)
    return n


def answer(model: Path, text: Path, cache: Path, n_ctx: int) -> dict[str, Any]:
    command = [*localllm_command(), "run", str(model), "--raw", "--temp", "0", "--json"]
    command += ["-n", str(N_ANSWER), "-c", str(n_ctx), "--no-stdin", "-f", str(text), "."]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document | {"process_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, cache = Path(folder) / "text.txt", Path(folder) / "cache"
        n_tokens = write_text(arguments.model, arguments.tokens, text)
        n_ctx = n_tokens + 64 + N_ANSWER
        cold = answer(arguments.model, text, cache, n_ctx)
        warm = [answer(arguments.model, text, cache, n_ctx) for _ in range(arguments.rounds)]
    first = {
        "cold": cold["seconds"]["first_token"],
        "warm": statistics.median(run["seconds"]["first_token"] for run in warm),
    }
    result = {
        "prompt": cold["n_prompt"],
        "not_computed": warm[0]["n_reused"],
        "first_token_seconds": first,
        "ratio": first["warm"] / first["cold"],
        "process_seconds": {
            "cold": cold["process_seconds"],
            "warm": statistics.median(run["process_seconds"] for run in warm),
        },
        "same_answer": all(run["text"] == cold["text"] for run in warm),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
