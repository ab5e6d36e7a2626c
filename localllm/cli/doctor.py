"""`doctor`: what this machine and this installation can do, in one screen or as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localllm import __version__
from localllm.cli import console
from localllm.cli.flags import Json
from localllm.folders import state_folder
from localllm.memory import limits
from localllm.models import store
from localllm.speed.limits import processor_name
from localllm.units import format_bytes

PACKAGES = ("huggingface-hub", "jinja2", "numpy", "prompt-toolkit", "rich", "typer")
VARIABLES = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HTTPS_PROXY", "SSL_CERT_FILE")
READ_BYTES = 256 << 20
READ_SECONDS = 0.5


def command(json: Json = False) -> None:
    """Says what this machine and this installation can do."""
    report = {
        "version": __version__,
        "machine": describe_machine(),
        "memory": describe_memory(),
        "store": describe_store(),
        "python": describe_python(),
        "environment": describe_environment(),
    }
    if json:
        console.out_json(report)
    else:
        for line in as_lines(report):
            console.out(line)


def describe_machine() -> dict[str, Any]:
    from localllm.engines import native

    found = native.machine()
    n_cores = int(found["n_cores"])
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor_name(),
        "n_cores": os.cpu_count(),
        "n_usable_cores": n_cores,
        "kernels": list(found["kernels"]),
        "read_gbps": round(native.read_rate(READ_BYTES, n_cores, READ_SECONDS) / 1e9, 2),
    }


def describe_memory() -> dict[str, Any]:
    found = limits.find_limits()
    of_host = (limit for limit in found if limit.counts is not limits.Counts.device)
    tightest = min(of_host, key=lambda limit: limit.left_bytes, default=None)
    return {
        "limits": [{"name": limit.name, "left_bytes": limit.left_bytes} for limit in found],
        "binds": tightest.name if tightest else None,
        "left_bytes": tightest.left_bytes if tightest else None,
    }


def describe_store() -> dict[str, Any]:
    folder = store.models_folder()
    parent = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    return {
        "models": str(folder),
        "n_models": len(store.stored_models()),
        "history": str(state_folder()),
        "free_bytes": shutil.disk_usage(parent).free,
    }


def describe_python() -> dict[str, Any]:
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "packages": packages,
    }


def describe_environment() -> dict[str, str]:
    """The variables that steer it; a proxy's may hold a password, so only that it is set."""
    shown = {}
    for name in sorted(os.environ):
        if name.startswith("LOCALLLM_") or name.upper() in VARIABLES:
            shown[name] = "set" if "PROXY" in name.upper() else os.environ[name]
    return shown


def as_lines(value: Any, name: str = "", depth: int = 0) -> Iterator[str]:
    """The report as an indented outline."""
    indent = "  " * depth
    label = name if name.isupper() else name.replace("_", " ").removeprefix("n ")
    if isinstance(value, dict):
        if name:
            yield f"{indent}{label}:"
        for key, item in value.items():
            yield from as_lines(item, key, depth + 1 if name else depth)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield f"{indent}{label}:"
        for item in value:
            yield f"{indent}  {item['name']}: {format_bytes(item['left_bytes'])}"
    else:
        yield f"{indent}{label.removesuffix(' bytes')}: {as_text(name, value)}"


def as_text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return format_bytes(value)
    return " ".join(value) if isinstance(value, list) else str(value)
