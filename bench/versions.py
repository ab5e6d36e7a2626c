"""This checkout against another one of localllm, in turns: is anything slower than before?

    python bench/versions.py OTHER_CHECKOUT MODEL.gguf … --phases prompt,generation,batch --rounds 9

Both checkouts must be built (`make run` does). Every sample is a fresh process; the order turns in
every other round. A row is printed with the median of the ratios of samples taken side by side and
the interval that it lies in with 95 % confidence: above 1 this checkout is faster. Beside the
phases of run.py there are two of whole processes, `--version` and the first byte of an answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from quiet import wait_for_quiet
from shell_speed import CONTEXT, N_ANSWER, run_answer

from localllm.speed.intervals import paired_ratio

HERE = Path(__file__).resolve().parent.parent
STARTS = 5  # of `--version` in one sample

Sample = Callable[[Path], float]  # of a checkout; more is better


def engine_speed(model: Path, phase: str) -> Sample:
    """Tokens per second."""

    def sample(checkout: Path) -> float:
        command = [checkout / ".venv/bin/python", checkout / "bench/own_speed.py", model]
        ended = subprocess.run(
            [*map(str, command), "--phases", phase], capture_output=True, text=True, check=True
        )
        return float(json.loads(ended.stdout)["speeds"][phase])

    return sample


def first_bytes(model: Path) -> Sample:
    """First bytes of an answer per second, from the start of a process."""

    def sample(checkout: Path) -> float:
        command = [str(checkout / ".venv/bin/localllm"), "run", str(model), "--raw"]
        flags = ["--temp", "0", "-n", str(N_ANSWER), "-c", str(CONTEXT), "--no-prefix-cache"]
        return 1 / run_answer([*command, *flags]).first_byte_s

    return sample


def starts(checkout: Path) -> float:
    """Runs of `--version` per second."""
    command = [str(checkout / ".venv/bin/localllm"), "--version"]
    began = time.perf_counter()
    for _ in range(STARTS):
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return STARTS / (time.perf_counter() - began)


def compare(what: str, sample: Sample, other: Path, n_rounds: int) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    for i in range(n_rounds):
        pair = [(HERE, ours), (other, theirs)]
        for checkout, samples in pair if i % 2 == 0 else reversed(pair):
            wait_for_quiet()
            samples.append(sample(checkout))
    found = paired_ratio(ours, theirs)
    middle = sorted(ours)[len(ours) // 2], sorted(theirs)[len(theirs) // 2]
    print(
        f"{what:<44} {middle[0]:9.2f} /s {middle[1]:9.2f} /s"
        f"   {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--phases", default="prompt,generation,batch")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    other = options.other.resolve()
    print(f"{'':<44} {'here':>12} {'other':>12}   ratio, 95 % interval")
    compare("--version", starts, other, options.rounds)
    for model in options.models:
        for phase in filter(None, options.phases.split(",")):
            title = f"{model.stem[:32]} {phase}"
            compare(title, engine_speed(model, phase), other, options.rounds)
        compare(f"{model.stem[:32]} first byte", first_bytes(model), other, options.rounds)


if __name__ == "__main__":
    main()
