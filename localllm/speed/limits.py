"""What this machine gives at most: bytes read, and multiply-adds, per second of all threads."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from localllm.errors import EngineError
from localllm.memory.proc_files import read_text

if TYPE_CHECKING:
    from localllm.engines.base import Work

READ_BYTES = 256 << 20  # far more than any cache holds
READ_SECONDS = 0.1
PEAK_SECONDS = 0.03


@dataclass(frozen=True)
class Limits:
    """Rates per second."""

    read_bytes: float
    int8_macs: float
    float_macs: float

    def read_seconds(self, work: Work) -> float:
        """The least time that reading what `work` reads takes."""
        return work.read_bytes / self.read_bytes

    def compute_seconds(self, work: Work) -> float:
        """The least time of its arithmetic; integer and float share the processor's units."""
        return work.int8_macs / self.int8_macs + work.float_macs / self.float_macs

    def least_seconds(self, work: Work) -> float:
        return max(self.read_seconds(work), self.compute_seconds(work))


def measure_limits(kernels: str, n_threads: int) -> Limits:
    from localllm.engines import native

    limits = Limits(
        native.read_rate(READ_BYTES, n_threads, READ_SECONDS),
        native.peak(kernels, False, n_threads, PEAK_SECONDS),
        native.peak(kernels, True, n_threads, PEAK_SECONDS),
    )
    if min(limits.read_bytes, limits.int8_macs, limits.float_macs) <= 0:
        raise EngineError("the machine's own limits cannot be measured", "more free memory")
    return limits


def middle(all_limits: Iterable[Limits]) -> Limits:
    """The medians of measurements taken at different times."""
    found = list(all_limits)
    return Limits(
        median(limits.read_bytes for limits in found),
        median(limits.int8_macs for limits in found),
        median(limits.float_macs for limits in found),
    )


def processor_name() -> str:
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def describe_machine() -> dict[str, Any]:
    from localllm.engines import native

    found = native.machine()
    return {
        "processor": processor_name(),
        "system": f"{platform.system()} {platform.release()}",
        "n_usable_cores": int(found["n_cores"]),
        "kernels": list(found["kernels"]),
    }
