"""Predicted against measured memory, and where runs really begin to fit.

    python bench/memory.py accuracy [--quick]
    python bench/memory.py limits [--steps 40]

`accuracy` runs an answer in a process of its own for every shape, context, pair of KV types and
number of threads, half of them with a short prompt and so with small steps, and holds what the plan
said beforehand against the kernel's counts at the end: VmHWM for the peak, RssAnon for what only
the process has. `limits` runs models below ever smaller RLIMIT_DATA and RLIMIT_AS, one of them with
KV of Q8_0 too: each run must answer or exit with 7, and the verdict should turn where runs really
begin to succeed, which --allow-oversubscribe shows. Weights are holes, so the files cost nothing;
their pages become resident as others do. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from hollow_models import SHAPES, random_text, write_hollow  # noqa: E402

from localllm.memory.kv_types import PAIRS, PLAIN, KvPair  # noqa: E402

MIB = 1 << 20
PART, ABSOLUTE, ANONYMOUS_UNDER = 0.05, 16 * MIB, 0.03
REFUSED = 7
N_ANSWER = 4

CONTEXTS = (256, 1024, 4096)
THREADS = (1, 2, 32)
FILLS = (0.95, 0.1)  # of the context, by the prompt, in turns


@dataclass(frozen=True)
class Config:
    shape: str
    n_ctx: int
    kv: KvPair
    n_threads: int
    fill: float


def configs(quick: bool) -> Iterator[Config]:
    """Shape by shape; the quick ones are the small contexts with full prompts."""
    contexts = CONTEXTS[:2] if quick else CONTEXTS
    rows = itertools.product(SHAPES, contexts, PAIRS, THREADS)
    for row, fill in zip(rows, itertools.cycle(FILLS), strict=False):
        if not quick or fill == FILLS[0]:
            yield Config(*row, fill)


def kv_flags(pair: KvPair) -> tuple[str, ...]:
    return "--cache-type-k", pair.k, "--cache-type-v", pair.v


# ---- accuracy ------------------------------------------------------------------------------------


def run(path: Path, prompt: str, *flags: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localllm", "run", str(path), "--json", "--temp", "0"]
    return subprocess.run(
        [*command, "-n", str(N_ANSWER), *flags],
        input=prompt,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(path.parent)},
        **settings,
    )


def measure(path: Path, config: Config, seed: int) -> dict[str, Any]:
    """What was predicted for what one answer used, and what it took."""
    n_prompt = int(config.n_ctx * config.fill) - N_ANSWER
    prompt = random_text(n_prompt, SHAPES[config.shape].n_vocab, seed)
    flags = ("-c", str(config.n_ctx), "-t", str(config.n_threads), *kv_flags(config.kv))
    ran = run(path, prompt, *flags)
    if ran.returncode != 0:
        raise SystemExit(f"{config}: {ran.stderr}")
    totals = json.loads(ran.stdout)["memory"]["totals"]
    peak, anonymous = totals["peak"], totals["anonymous"]
    return {
        **vars(config),
        "kv": config.kv.describe(),
        "peak": peak["measured_bytes"],
        "peak_error": peak["predicted_bytes"] - peak["measured_bytes"],
        "anonymous": anonymous["measured_bytes"],
        "anonymous_error": anonymous["predicted_bytes"] - anonymous["measured_bytes"],
        "model_error": totals["model_file"]["predicted_bytes"]
        - totals["model_file"]["measured_bytes"],
    }


def is_close(row: dict[str, Any]) -> bool:
    return bool(abs(row["peak_error"]) <= max(PART * row["peak"], ABSOLUTE))


def accuracy(folder: Path, quick: bool) -> dict[str, Any]:
    rows = []
    for shape, group in itertools.groupby(configs(quick), key=lambda config: config.shape):
        path = write_hollow(folder / f"{shape}.gguf", SHAPES[shape])
        rows += [measure(path, config, seed) for seed, config in enumerate(group)]
    return {
        "n": len(rows),
        "close_share": sum(map(is_close, rows)) / len(rows),
        "median_error_mib": statistics.median(row["peak_error"] for row in rows) / MIB,
        "worst_over_mib": max(row["peak_error"] for row in rows) / MIB,
        "worst_under_mib": -min(row["peak_error"] for row in rows) / MIB,
        "anonymous_worst_under_share": max(
            -row["anonymous_error"] / row["anonymous"] for row in rows
        ),
        "rows": rows,
    }


# ---- limits --------------------------------------------------------------------------------------

LIMITED = {"data": resource.RLIMIT_DATA, "as": resource.RLIMIT_AS}
LONG = replace(SHAPES["kv"], n_ctx=4096)
LIMITED_RUNS = {
    "kv": (LONG, 4096, PLAIN),
    "kv of q8_0": (LONG, 4096, KvPair("q8_0", "q8_0")),
    "vocabulary": (SHAPES["vocabulary"], 1024, PLAIN),
}


@dataclass(frozen=True)
class Limited:
    """A run below a limit of a kind."""

    path: Path
    n_ctx: int
    kv: KvPair
    which: int


def run_limited(one: Limited, n_bytes: int, *flags: str) -> int:
    """The exit code below a limit; what is neither an answer nor a refusal ends the sweep."""

    def limit() -> None:
        resource.setrlimit(one.which, (n_bytes, n_bytes))

    asked = ("-c", str(one.n_ctx), "-t", "2", *kv_flags(one.kv), *flags)
    ran = run(one.path, "x" * (one.n_ctx - 8), *asked, preexec_fn=limit)
    if ran.returncode == 0:
        assert len(json.loads(ran.stdout)["text"]) == N_ANSWER, "half an answer"
    elif ran.returncode != REFUSED or ran.stdout or "Traceback" in ran.stderr:
        raise SystemExit(f"{n_bytes / MIB:.1f} MiB: exit {ran.returncode}\n{ran.stderr[-2000:]}")
    return ran.returncode


def starts(which: int, n_bytes: int) -> bool:
    def limit() -> None:
        resource.setrlimit(which, (n_bytes, n_bytes))

    command = [sys.executable, "-m", "localllm", "--version"]
    return subprocess.run(command, capture_output=True, preexec_fn=limit, cwd=ROOT).returncode == 0


def first_that(holds: Any, low: int, high: int) -> int:
    """The least size, to a quarter MiB, that a condition holds for; it does for `high`."""
    while high - low > MIB // 4:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def sweep(one: Limited, steps: int) -> dict[str, Any]:
    begins = first_that(lambda size: starts(one.which, size), 1 * MIB, 256 * MIB)
    admitted = first_that(lambda size: run_limited(one, size) == 0, begins, 1 << 31)
    succeeds = first_that(
        lambda size: run_limited(one, size, "--allow-oversubscribe") == 0, begins, 1 << 31
    )
    top = int(1.25 * admitted)
    sizes = [begins + (top - begins) * i // (steps - 1) for i in range(steps)]
    codes = [run_limited(one, size) for size in sizes]
    return {
        "begins_mib": begins / MIB,
        "admitted_mib": admitted / MIB,
        "succeeds_mib": succeeds / MIB,
        "verdict_over_truth": admitted / succeeds - 1,
        "n_refused": codes.count(REFUSED),
        "n_answered": codes.count(0),
    }


def limits(folder: Path, steps: int) -> dict[str, Any]:
    found = {}
    for name, (shape, n_ctx, kv) in LIMITED_RUNS.items():
        path = write_hollow(folder / f"{name}.gguf", shape)
        for limit, which in LIMITED.items():
            found[f"{name}, {limit}"] = sweep(Limited(path, n_ctx, kv, which), steps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("accuracy", "limits"))
    parser.add_argument("--quick", action="store_true", help="the small contexts with full prompts")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "accuracy":
            found = accuracy(Path(folder), options.quick)
        else:
            found = limits(Path(folder), options.steps)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
