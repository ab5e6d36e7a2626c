"""The bench's results as a small Markdown table and as JSON, and what machine they came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
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


def markdown(report: dict[str, Any]) -> str:
    machine, shell = report["machine"], report["shell"]
    lines = [
        f"# localllm {machine['localllm']} and {machine['peer']}, {machine['date']}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['system']}, kernels {machine['kernels']}.",
        "",
        "| model | phase | ours, tokens/s | peer, tokens/s | peer's better | ratio | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['phase']} | {row['ours']:.1f} | {row['peer']:.1f} "
        f"| {row['peer_variant']} | {row['ratio']:.2f} | {row['goal']:.1f} |"
        for row in report["comparisons"]
    ]
    n_samples = sum(len(rows) for row in report["comparisons"] for rows in row["samples"].values())
    n_disturbed = sum(row["n_disturbed"] for row in report["comparisons"])
    lines += [
        "",
        f"{n_disturbed} of {n_samples} samples began while something else was running.",
        "",
        "| model | memory read, GB/s | share in generation | peak, MiB | above file + KV, MiB |",
        "|---|---|---|---|---|",
    ]
    for model, speed in report["generation"].items():
        memory = report["memory"][model]
        lines.append(
            f"| {model} | {speed['read_rate'] / 1e9:.1f} | {speed['share']:.0%} "
            f"| {memory['peak_mib']:.0f} | {memory['above_file_and_kv_mib']:.0f} |"
        )
    lines += [
        "",
        "| a user waits for | ms | peer, ms |",
        "|---|---|---|",
        f"| the first byte of smollm2's answer | {shell['first_byte'] * 1e3:.0f} "
        f"| {shell['peer_first_byte'] * 1e3:.0f} |",
        f"| `--version` | {shell['version'] * 1e3:.0f} | |",
        f"| `--help` | {shell['help'] * 1e3:.0f} | |",
        "",
    ]
    return "\n".join(lines)


def write_report(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    machine = report["machine"]
    stem = folder / f"{machine['date']}-{machine['kernels']}"
    table = markdown(report)
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table)
    print(table)
