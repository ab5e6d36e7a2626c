"""localllm against llama-cpp-python on this machine: `make bench`, or a part of it:

    python bench/run.py [--only 1b-q4_k_m,smollm2] [--phases prompt,generation] [--rounds 5]
                        [--quick] [--isa avx2] [--threads 2] [--file smollm2=PATH]

Every measurement is a fresh process, ours and the peer's in turn, the order reversed in every other
round. The peer runs with repacked weights and without, and the better median counts, separately for
each row. Models are pulled by name or, the synthetic ones, written under build/bench-models. The
report is written to bench/results/ after every model. README.md says what is inside the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from goals import (
    DEEP_MODEL,
    LOAD,
    MEMORY,
    MODELS,
    PEAK,
    READ_RATE_CAP,
    READ_SHARE_GOAL,
    BenchModel,
    find_goal,
    over,
)
from peer_python import BUILDS, ROOT, get_peer_python
from phases import PHASES, WARM_STEPS, Phase, find_phases
from prefix_speed import write_text
from quiet import BUSY_LIMIT, PATIENCE_SECONDS, wait_for_quiet
from ratios import OWN, Row, Samples, make_row
from report import describe_machine, markdown, write_report
from shell_speed import CONTEXT, N_ANSWER, Answer, localllm_command, own_command, run_answer

HERE = Path(__file__).resolve().parent
MODEL_FOLDER = ROOT / "build" / "bench-models"
MIB = 1 << 20
REPACK = {"repack": "on", "no repack": "off"}
PHASE_NAMES = (*(phase.name for phase in PHASES), LOAD, PEAK)
PEAK_PROMPT = 512  # tokens, about

# For the estimate only: what a slow engine reads and multiplies per second, in bytes of weights.
SLOW_READ, SLOW_MULTIPLY = 20e9, 200e9

Command = list[str | Path]


# ---- samples -------------------------------------------------------------------------------------


def in_turns(
    sides: Mapping[str, Callable[[], Any]], options: argparse.Namespace
) -> tuple[dict[str, list[Any]], int]:
    """What every side returned in each round, and how many samples began on a busy machine."""
    taken: dict[str, list[Any]] = {name: [] for name in sides}
    n_disturbed = 0
    for turn in range(options.rounds):
        for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            n_disturbed += wait_for_quiet(options.patience) > BUSY_LIMIT
            taken[name].append(sides[name]())
    return taken, n_disturbed


def run_json(command: Command) -> dict[str, Any]:
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    return result


def speed_samples(
    path: str, peer: Path, phases: list[Phase], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    names = ",".join(phase.name for phase in phases)
    common = [path, "--phases", names, "--threads", str(options.threads)]
    kernels = BUILDS[options.isa].kernels
    own: Command = [sys.executable, HERE / "own_speed.py", *common]
    commands = {OWN: [*own, "--kernels", kernels] if kernels else own}
    for setting, repack in REPACK.items():
        commands[setting] = [peer, HERE / "peer_speed.py", *common, "--repack", repack]
    sides = {name: partial(run_json, command) for name, command in commands.items()}
    return in_turns(sides, options)


def figures_of(phase: Phase, taken: dict[str, list[dict[str, Any]]]) -> Samples:
    figures = {
        name: [sample["speeds"][phase.name] for sample in samples]
        for name, samples in taken.items()
    }
    if phase.n_sequences > 1:
        for setting in REPACK:
            figures[f"{setting}, unified KV"] = [
                sample["unified_speeds"][phase.name] for sample in taken[setting]
            ]
    return figures


# ---- rows ----------------------------------------------------------------------------------------


def limit_of(model: BenchModel, phase: Phase, own: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How near our figure is to what bounds it on this machine: multiplications in a prompt,
    reading weights (and keys and values) in generation."""
    speeds = [sample["speeds"][phase.name] for sample in own]
    if phase.is_prompt and phase.depth == 0:
        per_token = 2 * own[0]["token_macs"]
        bounds = [2 * sample["peak_macs"] if sample["peak_macs"] else None for sample in own]
        unit, scale, goal = "T operations/s", 1e12, None
    elif not phase.is_prompt and phase.n_sequences == 1:
        per_token = own[0]["token_bytes"][phase.name]
        rates = [statistics.mean(sample["read_rates"][phase.name]) for sample in own]
        bounds = [min(rate, READ_RATE_CAP) for rate in rates]
        goal = READ_SHARE_GOAL if model.is_synthetic and phase.depth == 0 else None
        unit, scale = "GB/s", 1e9
    else:
        return None
    reached = [per_token * speed for speed in speeds]
    known = [bound for bound in bounds if bound]
    shares = [a / b for a, b in zip(reached, bounds, strict=True) if b]
    return {
        "reached": statistics.median(reached) / scale,
        "unit": unit,
        "of": statistics.median(known) / scale if known else None,
        "share": statistics.median(shares) if shares else None,
        "goal": goal,
    }


def speed_rows(
    model: BenchModel,
    phases: list[Phase],
    taken: dict[str, list[dict[str, Any]]],
    n_disturbed: int,
    isa: str,
) -> list[Row]:
    return [
        make_row(
            model.title,
            phase.title,
            figures_of(phase, taken),
            unit="tokens/s",
            n_disturbed=n_disturbed,
            limit=limit_of(model, phase, taken[OWN]),
            goal=find_goal(model.name, phase.name, isa),
        )
        for phase in phases
    ]


def beside_rows(
    model: BenchModel,
    phases: list[Phase],
    own: list[dict[str, Any]],
    n_disturbed: int,
    isa: str,
) -> list[Row]:
    """Ours against ours, taken in the same processes: where a phase names another one."""
    measured = {phase.name: phase for phase in phases}
    pairs = [(phase, measured[phase.beside]) for phase in phases if phase.beside in measured]

    def speeds(phase: Phase) -> list[float]:
        return [sample["speeds"][phase.name] for sample in own]

    return [
        make_row(
            model.title,
            f"{phase.title}, over ours",
            {OWN: speeds(phase), f"ours, {beside.kv.upper()} KV": speeds(beside)},
            unit="tokens/s",
            n_disturbed=n_disturbed,
            goal=find_goal(model.name, over(phase.name, beside.name), isa),
        )
        for phase, beside in pairs
    ]


def peak_rows(model: BenchModel, path: str, peer: Path, options: argparse.Namespace) -> list[Row]:
    """The peak of whole processes with a prompt of some length, the peer as its interface makes it
    if one names no more than the file and the context."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "prompt"
        write_text(Path(path), PEAK_PROMPT, text)
        prompt = text.read_bytes()
    commands = {
        OWN: [*own_command(path, options.threads), "--no-prefix-cache"],
        "default": [str(peer), str(HERE / "peer_answer.py"), path, str(N_ANSWER), "default"],
    }
    sides = {name: partial(run_answer, command, prompt) for name, command in commands.items()}
    taken, n_disturbed = in_turns(sides, options)
    return [
        make_row(
            model.title,
            f"peak memory, context {CONTEXT}, prompt {PEAK_PROMPT}",
            {side: [answer.peak_bytes / MIB for answer in taken[side]] for side in taken},
            unit="MiB",
            less_is_better=True,
            n_disturbed=n_disturbed,
            goal=find_goal(model.name, PEAK, options.isa),
        )
    ]


def load_rows(model: BenchModel, path: str, peer: Path, options: argparse.Namespace) -> list[Row]:
    """The first token and the peak, of whole processes with the file in the page cache."""
    commands = {OWN: own_command(path, options.threads)}
    for setting, repack in REPACK.items():
        answer = [str(peer), str(HERE / "peer_answer.py"), path, str(N_ANSWER), repack]
        commands[setting] = [*answer, str(options.threads)]
    for command in commands.values():
        run_answer(command)
    sides = {name: partial(run_answer, command) for name, command in commands.items()}
    taken, n_disturbed = in_turns(sides, options)

    def samples(figure: Callable[[Answer], float]) -> Samples:
        return {name: [figure(answer) for answer in answers] for name, answers in taken.items()}

    rows = (
        (LOAD, "first token", "ms", samples(lambda answer: answer.first_byte_s * 1e3)),
        (MEMORY, "peak memory", "MiB", samples(lambda answer: answer.peak_bytes / MIB)),
    )
    return [
        make_row(
            model.title,
            title,
            figures,
            unit=unit,
            less_is_better=True,
            n_disturbed=n_disturbed,
            goal=find_goal(model.name, name, options.isa),
        )
        for name, title, unit, figures in rows
    ]


# ---- the run -------------------------------------------------------------------------------------


def get_path(model: BenchModel, files: dict[str, str]) -> str:
    if model.name in files:
        return files[model.name]
    if not model.is_synthetic:
        # The last line that `localllm pull` writes to stdout is the path.
        pull = [*localllm_command(), "pull", model.source]
        shown = subprocess.run(pull, check=True, stdout=subprocess.PIPE, text=True)
        return shown.stdout.splitlines()[-1]
    path = MODEL_FOLDER / f"synthetic-1b-{model.source}.gguf"
    if not path.exists():
        # In its own process: a child's peak is never counted below that of its parent.
        print(f"writing {path} …", file=sys.stderr)
        write: Command = [sys.executable, HERE / "synthetic.py", path, model.source]
        subprocess.run(write, check=True)
    return str(path)


def describe_file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size}


def phases_of(model: BenchModel, names: list[str]) -> list[Phase]:
    phases = find_phases(names)
    return [phase for phase in phases if phase.depth == 0 or model.name == DEEP_MODEL]


def estimate_seconds(file_bytes: int, phases: list[Phase]) -> float:
    """Of one sample of one side, on a quiet machine: loading, warming up, filling, measuring."""
    seconds = file_bytes / 1e9
    for phase in phases:
        if phase.is_prompt:
            n_columns, n_passes = 2 * phase.n_tokens + phase.depth, 1
        else:
            n_columns, n_passes = phase.n_measured, phase.n_tokens + WARM_STEPS
        seconds += file_bytes * (n_columns / SLOW_MULTIPLY + n_passes / SLOW_READ)
    return seconds


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ",".join(model.name for model in MODELS)
    parser.add_argument("--only", default=models, metavar="MODEL,…", help=models)
    parser.add_argument("--phases", default=",".join(PHASE_NAMES), help=",".join(PHASE_NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, without waiting for quiet")
    parser.add_argument("--isa", choices=BUILDS, default="native")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file", action="append", default=[], metavar="MODEL=PATH")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.only, options.phases = options.only.split(","), options.phases.split(",")
    known = [model.name for model in MODELS]
    for given, there in ((options.only, known), (options.phases, PHASE_NAMES)):
        unknown = [name for name in given if name not in there]
        if unknown:
            parser.error(f"{', '.join(unknown)}: not one of {', '.join(there)}")
    options.patience = 0.0 if options.quick else PATIENCE_SECONDS
    if options.quick:
        options.rounds = 1
    return options


def note_machine(machine: dict[str, Any], taken: dict[str, list[dict[str, Any]]]) -> None:
    """What only the samples know: the peer, and the limits as the last model found them."""
    own, peer = taken[OWN], taken[next(iter(REPACK))][0]
    rates = [rate for sample in own for pair in sample["read_rates"].values() for rate in pair]
    machine["kernels"] = own[0]["kernels"]
    machine["read_rate"] = statistics.median(rates)
    peaks = [sample["peak_macs"] for sample in own if sample["peak_macs"]]
    if peaks:
        machine["peaks"][own[0]["arithmetic"]] = statistics.median(peaks)
    machine["peer"] = f"llama-cpp-python {peer['version']}"
    machine["peer_system"] = peer["system"].strip(" |")


def main() -> None:
    options = parse_arguments()
    peer = get_peer_python(options.isa)
    models = [model for model in MODELS if model.name in options.only]
    files = dict(entry.split("=", 1) for entry in options.file)
    paths = {model.name: get_path(model, files) for model in models}

    seconds = options.rounds * sum(
        (1 + len(REPACK))
        * estimate_seconds(Path(paths[model.name]).stat().st_size, phases_of(model, options.phases))
        for model in models
    )
    print(f"about {seconds / 60:.0f} minutes, and waiting for quiet", file=sys.stderr)
    machine = describe_machine() | {
        "threads": options.threads,
        "isa": options.isa,
        "rounds": options.rounds,
        "kernels": BUILDS[options.isa].kernels or "best",
        "peer": "llama-cpp-python",
        "peer_system": "",
        "read_rate": None,
        "peaks": {},
    }
    rows: list[Row] = []
    report: dict[str, Any] = {}
    for model in models:
        print(f"{model.title}: {options.rounds} rounds …", file=sys.stderr)
        path, phases = paths[model.name], phases_of(model, options.phases)
        if phases:
            taken, n_disturbed = speed_samples(path, peer, phases, options)
            note_machine(machine, taken)
            rows += speed_rows(model, phases, taken, n_disturbed, options.isa)
            rows += beside_rows(model, phases, taken[OWN], n_disturbed, options.isa)
        if LOAD in options.phases:
            rows += load_rows(model, path, peer, options)
        if PEAK in options.phases:
            rows += peak_rows(model, path, peer, options)
        report = {
            "schema_version": 2,
            "machine": machine,
            "files": {name: describe_file(Path(file)) for name, file in paths.items()},
            "rows": [asdict(row) for row in rows],
        }
        write_report(report, options.out)
    print(markdown(report))


if __name__ == "__main__":
    main()
