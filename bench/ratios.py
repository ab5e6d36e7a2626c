"""From samples to rows: medians, the better setting of the peer, ratios with their intervals.

A row is one model and one phase. Samples of one round were taken next to each other, so the
interval of a ratio draws whole rounds again (a paired bootstrap): what slowed both sides in one
round widens it no more than it should.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from goals import Goal

N_DRAWS = 4000
LIKELY = 0.95
OWN = "ours"

Samples = dict[str, list[float]]  # per side or setting, one figure a round


@dataclass(frozen=True)
class Row:
    """`ratio` is ours / the peer's; `interval` is None where one round was run."""

    model: str
    phase: str
    unit: str
    less_is_better: bool
    ours: float
    peer: float
    peer_setting: str
    ratio: float
    interval: tuple[float, float] | None
    goal: Goal
    samples: Samples
    n_disturbed: int
    limit: dict[str, Any] | None = None


def ratio_of_medians(ours: Sequence[float], peer: Sequence[float]) -> float:
    return statistics.median(ours) / statistics.median(peer)


def ratio_interval(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of medians, from rounds drawn again with replacement."""
    n_rounds = len(ours)
    if n_rounds != len(peer):
        raise ValueError(f"{n_rounds} rounds of ours beside {len(peer)} of the peer's")
    if n_rounds < 2:
        return None
    chance = random.Random(n_rounds)
    ratios = []
    for _ in range(N_DRAWS):
        drawn = chance.choices(range(n_rounds), k=n_rounds)
        ratios.append(ratio_of_medians([ours[i] for i in drawn], [peer[i] for i in drawn]))
    ratios.sort()
    tail = round((1 - LIKELY) / 2 * N_DRAWS)
    return ratios[tail], ratios[-1 - tail]


def better_setting(samples: Samples, less_is_better: bool) -> str:
    settings = [name for name in samples if name != OWN]
    choose = min if less_is_better else max
    return choose(settings, key=lambda name: statistics.median(samples[name]))


def make_row(
    model: str,
    phase: str,
    samples: Samples,
    *,
    unit: str,
    less_is_better: bool = False,
    goal: Goal,
    n_disturbed: int = 0,
    limit: dict[str, Any] | None = None,
) -> Row:
    best = better_setting(samples, less_is_better)
    return Row(
        model=model,
        phase=phase,
        unit=unit,
        less_is_better=less_is_better,
        ours=statistics.median(samples[OWN]),
        peer=statistics.median(samples[best]),
        peer_setting=best,
        ratio=ratio_of_medians(samples[OWN], samples[best]),
        interval=ratio_interval(samples[OWN], samples[best]),
        goal=goal,
        samples=samples,
        n_disturbed=n_disturbed,
        limit=limit,
    )


# What must agree before rows of several runs may stand in one table.
SAME = ("processor", "cores", "threads", "kernels", "isa", "peer")


def merge_reports(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One report of several runs: of each model and phase the row that was measured last. The
    machine is the last run's; every row says when it was measured."""
    in_order = sorted(reports, key=lambda report: report["machine"]["time"])
    if not in_order:
        raise ValueError("no reports to merge")
    last = in_order[-1]["machine"]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for report in in_order:
        machine = report["machine"]
        different = [key for key in SAME if machine[key] != last[key]]
        if different:
            raise ValueError(
                f"the run of {machine['time']} differs from that of {last['time']} "
                f"in {', '.join(different)}"
            )
        for row in report["rows"]:
            rows[row["model"], row["phase"]] = {"time": machine["time"]} | row
    return in_order[-1] | {"rows": list(rows.values())}
