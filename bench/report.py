"""The bench's rows as one table of ratios, and what machine they came from.

    python bench/report.py RUN.json [RUN.json …]

prints one table of several runs: of every row the one that was measured last.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from ratios import merge_reports
from shell_speed import N_ANSWER

HEAD = (
    "| model | phase | ours | peer | peer's better | ratio | 95 % | goal (stretch) | met "
    "| ik/llama.cpp elsewhere | ours against this machine |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def describe_machine() -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "localllm": importlib.metadata.version("localllm"),
    }


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def show_goal(row: dict[str, Any]) -> str:
    goal = row["goal"]
    if goal["own"] is not None:
        return f"at most {goal['own']:g} {row['unit']}"
    if goal["ratio"] is None:
        return ""
    bound = "at most " if row["less_is_better"] else ""
    return f"{bound}{goal['ratio']:g}x" + optional(goal["stretch"], " ({:g}x)")


def show_met(row: dict[str, Any]) -> str:
    """No word on a goal from a single round: one sample says nothing about a median."""
    goal = row["goal"]
    if row["interval"] is None:
        return ""
    if goal["own"] is not None:
        return "yes" if row["ours"] <= goal["own"] else "no"
    if goal["ratio"] is None:
        return ""
    low, high = row["interval"]
    if row["less_is_better"]:
        return "yes" if high <= goal["ratio"] else "no" if low > goal["ratio"] else "within noise"
    return "yes" if low >= goal["ratio"] else "no" if high < goal["ratio"] else "within noise"


def show_limit(limit: dict[str, Any] | None) -> str:
    if limit is None:
        return ""
    text = f"{limit['reached']:.3g} {limit['unit']}"
    if limit["of"] is None:
        return text
    goal = optional(limit["goal"], " (goal {:.0%})")
    return f"{text}, {limit['share']:.0%} of {limit['of']:.3g}{goal}"


def show_row(row: dict[str, Any]) -> str:
    interval = "" if row["interval"] is None else "{:.2f} to {:.2f}".format(*row["interval"])
    figures = "{:.0f}" if row["unit"] in ("ms", "MiB") else "{:.1f}"
    cells = [
        row["model"],
        row["phase"],
        f"{figures.format(row['ours'])} {row['unit']}",
        figures.format(row["peer"]),
        row["peer_setting"],
        f"**{row['ratio']:.2f}x**",
        interval,
        show_goal(row),
        show_met(row),
        optional(row["goal"]["elsewhere"], "{:g}x"),
        show_limit(row["limit"]),
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(report: dict[str, Any]) -> str:
    machine, rows = report["machine"], report["rows"]
    n_samples = sum(len(figures) for row in rows for figures in row["samples"].values())
    n_disturbed = sum(row["n_disturbed"] for row in rows)
    limits = [
        f"Memory reads {machine['read_rate'] / 1e9:.1f} GB/s"
        if machine["read_rate"]
        else "The read rate was not measured",
        *(
            f"the {kind} peak is {peak * 2 / 1e12:.2f} T operations/s"
            for kind, peak in machine["peaks"].items()
        ),
    ]
    lines = [
        f"# localllm {machine['localllm']} and {machine['peer']}, {machine['time']} UTC",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['system']}; our kernels {machine['kernels']}, the peer compiled for "
        f"{machine['isa']}: {machine['peer_system']}",
        "",
        f"{'; '.join(limits)}; both measured in the same processes.",
        "",
        *HEAD,
        *map(show_row, rows),
        "",
        "Ratio: ours / the peer's better setting, medians of interleaved runs; 95 %: its paired "
        "bootstrap interval. Met: the whole interval is on the good side of the goal. First token "
        f"and peak memory are whole processes (answers of {N_ANSWER} tokens); there less is "
        "better. ik_llama.cpp over llama.cpp was measured on other hardware; it orients, it is no "
        "result of this run.",
        "",
        f"{n_disturbed} of {n_samples} samples began while something else was running.",
        "",
    ]
    return "\n".join(lines)


def write_report(report: dict[str, Any], folder: Path) -> None:
    """A pair of files for every run, named by its start, so no run hides the rows of another."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = report["machine"]
    stamp = machine["time"].replace(":", "")
    stem = folder / f"{stamp}-{machine['kernels']}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(report))


if __name__ == "__main__":
    try:
        print(markdown(merge_reports(json.loads(Path(path).read_text()) for path in sys.argv[1:])))
    except ValueError as problem:
        raise SystemExit(str(problem)) from None
