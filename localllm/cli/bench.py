"""`bench`: how fast a model runs here, beside what this machine could do at most.

This file reads the flags and refuses what does not go together; localllm/speed/ measures, and
bench_tables.py prints.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm import __version__, engines
from localllm.cli import bench_tables, console
from localllm.cli.flags import (
    COUNT,
    CacheTypeK,
    CacheTypeV,
    Json,
    Kernels,
    Offline,
    Threads,
    option,
)
from localllm.errors import UsageError
from localllm.models.resolve import resolve
from localllm.speed import cases, limits, measure, record, roofline
from localllm.speed.intervals import ENOUGH
from localllm.units import parse_count

REDRAW_SECONDS = 0.1
# What --against may set, and the variant's name of it.
BENCH_SETTINGS = {
    "kernels": "kernels",
    "threads": "n_threads",
    "cache-type-k": "kv_k",
    "cache-type-v": "kv_v",
}
DEFAULTS = {"--prompt": "512", "--gen": "128", "--depth": "0", "--batch": "1"}
SAMPLES = 5


def counts(flag: str, help: str) -> Any:
    return option(flag, help=f"{help} [default: {DEFAULTS[flag]}]", metavar="N,…")


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    prompt: Annotated[str | None, counts("--prompt", "Tokens of prompts; 0 for none.")] = None,
    gen: Annotated[str | None, counts("--gen", "Tokens to generate; 0 for none.")] = None,
    depth: Annotated[str | None, counts("--depth", "Tokens already in the context.")] = None,
    batch: Annotated[str | None, counts("--batch", "Sequences generating at once.")] = None,
    repeat: Annotated[
        int | None, option("--repeat", help=f"Samples of each case [default: {SAMPLES}].", **COUNT)
    ] = None,
    threads: Threads = None,
    kernels: Kernels = None,
    cache_type_k: CacheTypeK = None,
    cache_type_v: CacheTypeV = None,
    profile: Annotated[
        bool, option("--profile", help="Show where the time goes, step by step.")
    ] = False,
    save: Annotated[
        Path | None, option("--save", help="Write all samples to this file.", metavar="FILE.json")
    ] = None,
    compare: Annotated[
        Path | None,
        option(
            "--compare", help="Measure again what this file of --save holds.", metavar="FILE.json"
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        option(
            "--against",
            help="Measure this variant too, in turns: kernels=avx2,threads=1. May be repeated.",
            metavar="SETTINGS",
        ),
    ] = None,
    plot: Annotated[
        Path | None, option("--plot", help="Draw a roofline.", metavar="FILE.png")
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Measures the speed of a model on this machine."""
    asked = {"--prompt": prompt, "--gen": gen, "--depth": depth, "--batch": batch}
    n_repeat = SAMPLES if repeat is None else repeat
    own = measure.Variant(threads or 0, kernels, cache_type_k, cache_type_v)
    variants = [own, *(read_variant(text, own) for text in against or [])]
    check_flags(asked, n_repeat, compare, against)
    check_outputs(save, plot)

    file = engines.open_model(resolve(name, offline=offline))
    saved = None if compare is None else record.read(compare, file)
    chosen = read_cases(asked) if saved is None else saved.cases
    cases.check_context(chosen, file.info["n_ctx_train"])
    line = ProgressLine()
    try:
        subjects = measure.measure(
            file, chosen, variants, n_repeat, profile=profile, progress=line.show
        )
    finally:
        line.wipe()
    runs = [record.Run.of(subject) for subject in subjects]
    one_thread = limits.measure_limits(runs[0].kernels, 1)
    comparisons = [
        comparison
        for other, label in zip(runs[1:], against or [], strict=True)
        for comparison in record.compare_variants(runs[0], other, label)
    ]
    if saved is not None:
        comparisons += record.compare_saved(runs[0], saved)
    machine = {**limits.describe_machine(), "one_thread": vars(one_thread)}
    document = record.document(name, file, machine, runs, comparisons) | {"version": __version__}
    file.close()
    if save is not None:
        record.write(save, document)
    if plot is not None:
        roofline.draw(plot, f"{name} on {machine['processor']}", runs)
    if json:
        console.out_json(document)
    else:
        bench_tables.out_report(name, machine, runs, comparisons, saved)


def check_flags(
    asked: dict[str, str | None], repeat: int, compare: Path | None, against: list[str] | None
) -> None:
    """Refuses what cannot be honoured, before anything is opened."""
    given = [flag for flag, text in asked.items() if text is not None]
    if repeat < 1:
        raise UsageError("--repeat must be positive")
    if compare is not None and given:
        raise UsageError(f"--compare measures what its file holds, so {given[0]} has no say")
    if compare is not None and against:
        raise UsageError("--compare and --against are two comparisons: one at a time")
    if (compare is not None or against) and repeat < ENOUGH:
        raise UsageError(f"a comparison needs --repeat {ENOUGH} or more")
    if compare is None:
        has_gen = bool(read_counts("--gen", asked["--gen"]))
        if not has_gen and not read_counts("--prompt", asked["--prompt"]):
            raise UsageError("nothing to measure: --prompt or --gen must be positive")
        if not has_gen and asked["--batch"] is not None:
            raise UsageError("--batch is the sequences that generate at once, but --gen is 0")


def check_outputs(save: Path | None, plot: Path | None) -> None:
    for flag, path in (("--save", save), ("--plot", plot)):
        if path is not None and path.is_dir():
            raise UsageError(f"{flag} cannot write {str(path)!r}: it is a folder")
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{flag} cannot write {str(path)!r}: there is no such folder")
    if plot is not None:
        roofline.check_available(plot)


def read_cases(asked: dict[str, str | None]) -> list[cases.Case]:
    prompts, gens, depths, batches = (read_counts(flag, text) for flag, text in asked.items())
    return cases.list_cases(prompts, gens, depths, batches)


def read_counts(flag: str, text: str | None) -> list[int]:
    """`512,2k` as [512, 2048], each once; a lone 0 of --prompt or --gen as none."""
    numbers = [parse_count(part) for part in (text or DEFAULTS[flag]).split(",")]
    if numbers == [0] and flag in ("--prompt", "--gen"):
        return []
    if flag != "--depth" and 0 in numbers:
        raise UsageError(f"{flag} {text} has a 0 in it")
    return list(dict.fromkeys(numbers))


def read_variant(text: str, own: measure.Variant) -> measure.Variant:
    """`kernels=avx2,threads=1`; what is not named is as in the run it is held against."""
    settings: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        field = BENCH_SETTINGS.get(key)
        if not (equals and value) or field is None or field in settings:
            raise UsageError(
                f"--against {text!r} is not settings of {', '.join(BENCH_SETTINGS)}",
                "--against kernels=avx2,threads=1",
            )
        settings[field] = parse_count(value) if key == "threads" else value
    return replace(own, **settings)


class ProgressLine:
    """What is being measured, on a line that is overwritten, where a person watches stderr."""

    def __init__(self) -> None:
        self.shown = console.is_terminal(sys.stderr)
        self.drawn = 0.0

    def show(self, case: cases.Case, turn: int, repeat: int) -> None:
        now = time.perf_counter()
        if self.shown and now - self.drawn >= REDRAW_SECONDS:
            console.status(f"{case}: " + (f"{turn} of {repeat}" if turn else "warming up"))
            self.drawn = now

    def wipe(self) -> None:
        if self.drawn:
            console.status("")
