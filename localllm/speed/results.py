"""What the samples say: rates, shares of the machine's limits, and where the time went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from localllm.engines.base import Work
from localllm.speed.intervals import relative_spread
from localllm.speed.limits import Limits, middle
from localllm.speed.measure import Measured


@dataclass(frozen=True)
class Result:
    """One case's numbers; shares are medians over the samples, each against its own limits."""

    measured: Measured

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each sample, of all sequences together."""
        return [self.measured.case.n_all_tokens / seconds for seconds in self.measured.seconds]

    @property
    def rate(self) -> float:
        return median(self.rates)

    @property
    def spread(self) -> float:
        return relative_spread(self.rates)

    @property
    def seconds(self) -> float:
        return median(self.measured.seconds)

    @property
    def read_gbps(self) -> float:
        return self.measured.work.read_bytes / self.seconds / 1e9

    @property
    def tops(self) -> float:
        return self.measured.work.operations / self.seconds / 1e12

    @property
    def share_of_read(self) -> float:
        return self.share(Limits.read_seconds)

    @property
    def share_of_peak(self) -> float:
        return self.share(Limits.compute_seconds)

    @property
    def share_of_limit(self) -> float:
        """Of the larger of the two least times."""
        return self.share(Limits.least_seconds)

    def share(self, least: Callable[[Limits, Work], float]) -> float:
        pairs = zip(self.measured.limits, self.measured.seconds, strict=True)
        return median(least(limits, self.measured.work) / seconds for limits, seconds in pairs)

    def to_json(self) -> dict[str, Any]:
        m = self.measured
        report = {
            **vars(m.case),
            "tokens_per_second": self.rate,
            "spread": self.spread,
            "read_gbps": self.read_gbps,
            "share_of_read": self.share_of_read,
            "tops": self.tops,
            "share_of_peak": self.share_of_peak,
            "share_of_limit": self.share_of_limit,
            "work": vars(m.work),
            "samples": [
                {"seconds": seconds, **vars(limits)}
                for seconds, limits in zip(m.seconds, m.limits, strict=True)
            ],
        }
        if m.profile:
            report["profile"] = [{**vars(p), "work": vars(p.work)} for p in m.profile]
        return report


@dataclass(frozen=True)
class Part:
    """One kind of step in one run of a case, on average: its time, and the least it could take."""

    step: str
    seconds: float
    around_seconds: float = 0  # of its phases that only prepare, merge or join
    read_bytes: float = 0
    operations: float = 0
    read_seconds: float = 0  # the least time of its reading, and of its arithmetic
    compute_seconds: float = 0

    @property
    def least_seconds(self) -> float:
        return max(self.read_seconds, self.compute_seconds)


def find_parts(measured: Measured) -> list[Part]:
    """The profile by kind of step, in the order of the forward pass, and what passed between the
    engine's steps."""
    limits, n = middle(measured.limits), len(measured.seconds)
    parts = []
    for name in dict.fromkeys(phase.step for phase in measured.profile):
        phases = [phase for phase in measured.profile if phase.step == name]
        work = sum((phase.work for phase in phases), start=Work())
        parts.append(
            Part(
                name,
                sum(phase.seconds for phase in phases) / n,
                sum(phase.seconds for phase in phases if phase.work == Work()) / n,
                work.read_bytes / n,
                work.operations / n,
                limits.read_seconds(work) / n,
                limits.compute_seconds(work) / n,
            )
        )
    between = sum(measured.seconds) / n - sum(part.seconds for part in parts)
    return [*parts, Part("between steps", between)]
