"""`bench` for people: the machine's limits once, then tables, then what a comparison says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localllm.cli import console
from localllm.speed.limits import Limits
from localllm.speed.record import Comparison, Run, Saved
from localllm.speed.results import Part, Result, find_parts

RESULT_HEADER = (
    "case",
    "tokens/s",
    "spread",
    "GB/s",
    "of read",
    "TOPS",
    "of peak",
    "of limit",
)
PART_HEADER = ("step", "ms", "of all", "GB/s", "TOPS", "limit ms", "by", "of limit", "around ms")


def out_report(
    name: str,
    machine: dict[str, Any],
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    saved: Saved | None,
) -> None:
    console.out(f"{name} on {machine['processor']}, {machine['n_usable_cores']} usable cores")
    out_limits("1 thread alone", Limits(**machine["one_thread"]))
    for run in runs:
        console.out("")
        out_limits(str(run), run.limits)
        console.out_table(RESULT_HEADER, [result_cells(result) for result in run.results])
        for result in run.results:
            if result.measured.profile:
                out_profile(result)
    if any(result.share_of_read > 1 for run in runs for result in run.results):
        console.out("")
        console.out("more than all of the read rate: the weights lie in the processor's cache")
    if comparisons:
        console.out("")
    for comparison in comparisons:
        console.out(as_sentence(comparison))
    if saved is not None:
        out_circumstances(machine, runs[0], saved)


def out_limits(what: str, limits: Limits) -> None:
    console.out(
        f"{what}: memory reads {limits.read_bytes / 1e9:.1f} GB/s; "
        f"peak {2 * limits.int8_macs / 1e12:.3g} TOPS int8, "
        f"{2 * limits.float_macs / 1e12:.3g} TOPS float"
    )


def result_cells(result: Result) -> list[str]:
    return [
        str(result.measured.case),
        f"{result.rate:.1f}",
        f"{result.spread:.1%}",
        f"{result.read_gbps:.2f}",
        f"{result.share_of_read:.0%}",
        f"{result.tops:.3f}",
        f"{result.share_of_peak:.0%}",
        f"{result.share_of_limit:.0%}",
    ]


def out_profile(result: Result) -> None:
    parts = find_parts(result.measured)
    whole = sum(part.seconds for part in parts)
    console.out("")
    console.out(f"{result.measured.case}, mean of {len(result.measured.seconds)} runs:")
    console.out_table(PART_HEADER, [part_cells(part, whole) for part in parts])


def part_cells(part: Part, whole: float) -> list[str]:
    cells = [part.step, f"{part.seconds * 1e3:.2f}", f"{part.seconds / whole:.1%}"]
    if not part.least_seconds or not part.seconds:
        return [*cells, *[""] * (len(PART_HEADER) - len(cells))]
    return [
        *cells,
        f"{part.read_bytes / part.seconds / 1e9:.2f}",
        f"{part.operations / part.seconds / 1e12:.3f}",
        f"{part.least_seconds * 1e3:.2f}",
        "read" if part.read_seconds > part.compute_seconds else "peak",
        f"{part.least_seconds / part.seconds:.0%}",
        f"{part.around_seconds * 1e3:.2f}",
    ]


def as_sentence(comparison: Comparison) -> str:
    interval = comparison.interval
    verdict = "the difference is real" if interval.is_real else "no difference can be told"
    return (
        f"{comparison.case}: {interval.ratio:.3f} times the tokens/s of {comparison.other} "
        f"(95 %: {interval.low:.3f} to {interval.high:.3f}): {verdict}."
    )


def out_circumstances(machine: dict[str, Any], run: Run, saved: Saved) -> None:
    """What else differs between now and the file, since the two were not measured in turns."""
    then, now = saved.run.limits.read_bytes / 1e9, run.limits.read_bytes / 1e9
    console.out(
        f"The file was measured at another time, with {saved.run}; memory read {then:.1f} GB/s "
        f"then and {now:.1f} GB/s now."
    )
    if saved.machine["processor"] != machine["processor"]:
        console.out(f"It is from another machine: {saved.machine['processor']}.")
