"""localllm against llama-cpp-python on this machine: `make bench`, or

    python bench/run.py [--rounds 5] [--threads 2] [--file smollm2=PATH] [--file gemma3=PATH]

Every measurement is a fresh process, ours and the peer's in turn, the order reversed in every other
round; a figure is the median over the rounds. The peer runs with and without repacked weights, with
flash attention, and the better median counts. Without --file the models are pulled by name. A table
goes to stdout, and the same with all samples to bench/results/ as JSON and Markdown. README.md says
what is inside the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peer_python import get_peer_python
from quiet import BUSY_LIMIT, wait_for_quiet
from report import describe_machine, write_report
from shell_speed import (
    localllm_command,
    median_of_runs,
    peak_bytes,
    seconds_to_exit,
    seconds_to_first_byte,
)

from localllm import _native

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
CONTEXT = 1024


@dataclass(frozen=True)
class BenchModel:
    """A model of the comparison and the ratios it is meant to reach."""

    label: str
    catalog_name: str
    prompt_goal: float
    gen_goal: float


MODELS = (
    BenchModel("smollm2", "smollm2:135m", 2.5, 1.3),
    BenchModel("gemma3", "gemma3:270m", 1.5, 1.2),
)
PEER_VARIANTS = {"repack": "on", "no repack": "off"}


@dataclass(frozen=True)
class Comparison:
    """Tokens per second of one model and one phase; `ratio` is ours / the peer's better median."""

    model: str
    phase: str
    ours: float
    peer: float
    peer_variant: str
    ratio: float
    goal: float
    samples: dict[str, list[float]]
    n_disturbed: int


def run_json(command: list[str | Path]) -> dict[str, Any]:
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    return result


def sample_rounds(
    path: str, peer: Path, threads: int, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Per engine variant the JSON of each round, measured in alternation."""
    common = [path, "--threads", str(threads)]
    commands: dict[str, list[str | Path]] = {
        "ours": [sys.executable, HERE / "own_speed.py", *common]
    }
    for variant, repack in PEER_VARIANTS.items():
        commands[variant] = [peer, HERE / "peer_speed.py", *common, "--repack", repack]
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(rounds):
        order = list(commands) if turn % 2 == 0 else list(reversed(commands))
        for name in order:
            busy = wait_for_quiet()
            samples[name].append(run_json(commands[name]) | {"busy_before": busy})
    return samples


def compare(model: BenchModel, phase: str, samples: dict[str, list[dict[str, Any]]]) -> Comparison:
    key = {"prompt 512": "prompt_tps", "generation 128": "gen_tps"}[phase]
    values = {name: [sample[key][0] for sample in rows] for name, rows in samples.items()}
    medians = {name: statistics.median(figures) for name, figures in values.items()}
    best = max(PEER_VARIANTS, key=lambda variant: medians[variant])
    return Comparison(
        model=model.label,
        phase=phase,
        ours=medians["ours"],
        peer=medians[best],
        peer_variant=best,
        ratio=medians["ours"] / medians[best],
        goal=model.prompt_goal if phase.startswith("prompt") else model.gen_goal,
        samples=values,
        n_disturbed=sum(
            sample["busy_before"] > BUSY_LIMIT for rows in samples.values() for sample in rows
        ),
    )


def measure_memory(path: str) -> dict[str, float]:
    """A run over a long prompt: resident peak, and how far it is above file + KV."""
    command = [*localllm_command(), "run", path, "--raw", "-c", str(CONTEXT), "-n", "64"]
    peak = peak_bytes([*command, "--temp", "0"])
    file_bytes = Path(path).stat().st_size
    kv_bytes = _native.Model(path).plan(n_ctx=CONTEXT)["kv_bytes"]
    return {
        "peak_mib": peak / MIB,
        "file_mib": file_bytes / MIB,
        "kv_mib": kv_bytes / MIB,
        "above_file_and_kv_mib": (peak - file_bytes - kv_bytes) / MIB,
    }


def measure_shell(model_argument: str, path: str, peer: Path) -> dict[str, float]:
    """Seconds a user waits, warm: medians."""
    ours = localllm_command()
    answer = [*ours, "run", model_argument, "--temp", "0", "-n", "8"]
    peer_answer = [str(peer), str(HERE / "peer_answer.py"), path, "8"]
    return {
        "first_byte": median_of_runs(lambda: seconds_to_first_byte(answer)),
        "peer_first_byte": median_of_runs(lambda: seconds_to_first_byte(peer_answer)),
        "version": median_of_runs(lambda: seconds_to_exit([*ours, "--version"])),
        "help": median_of_runs(lambda: seconds_to_exit([*ours, "--help"])),
    }


def pull(name: str) -> str:
    """The path of a catalog model: the last line that `localllm pull` writes to stdout."""
    shown = subprocess.run(
        [*localllm_command(), "pull", name], check=True, stdout=subprocess.PIPE, text=True
    )
    return shown.stdout.splitlines()[-1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file", action="append", default=[], metavar="MODEL=PATH")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    peer = get_peer_python()
    files = dict(entry.split("=", 1) for entry in options.file)
    paths = {model.label: files.get(model.label) or pull(model.catalog_name) for model in MODELS}

    comparisons: list[Comparison] = []
    memory: dict[str, dict[str, float]] = {}
    generation: dict[str, dict[str, float]] = {}
    facts: dict[str, Any] = {}
    for model in MODELS:
        path = paths[model.label]
        print(f"{model.label}: {options.rounds} rounds …", file=sys.stderr)
        samples = sample_rounds(path, peer, options.threads, options.rounds)
        comparisons += [
            compare(model, phase, samples) for phase in ("prompt 512", "generation 128")
        ]
        read_rate = statistics.median(sample["read_rate"] for sample in samples["ours"])
        per_second = samples["ours"][0]["token_bytes"] * comparisons[-1].ours
        generation[model.label] = {"read_rate": read_rate, "share": per_second / read_rate}
        memory[model.label] = measure_memory(path)
        facts = {
            "kernels": samples["ours"][0]["kernels"],
            "peer": f"llama-cpp-python {samples['repack'][0]['version']}",
            "peer_system": samples["repack"][0]["system"],
        }
    first = MODELS[0]
    argument = paths[first.label] if first.label in files else first.catalog_name
    report = {
        "schema_version": 1,
        "machine": describe_machine() | facts | {"threads": options.threads},
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "generation": generation,
        "memory": memory,
        "shell": measure_shell(argument, paths[first.label], peer),
    }
    write_report(report, options.out)


if __name__ == "__main__":
    main()
