"""Waits until nothing else runs on the machine, and says how busy it was when a sample began.

Two threads that meet at barriers lose far more than a neighbour's share of a core, so a sample
taken beside another program says little about either engine.
"""

from __future__ import annotations

import time
from pathlib import Path

BUSY_LIMIT = 0.10
LOOK_SECONDS = 0.3
PATIENCE_SECONDS = 20.0


def read_ticks() -> tuple[int, int]:
    """Ticks that all cores together spent on anything but idling, and all ticks."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(field) for field in fields]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def busy_share() -> float:
    busy, total = read_ticks()
    time.sleep(LOOK_SECONDS)
    later_busy, later_total = read_ticks()
    return (later_busy - busy) / max(later_total - total, 1)


def wait_for_quiet(patience: float = PATIENCE_SECONDS) -> float:
    """Returns the busy share of the machine once it is under the limit or patience is over."""
    if not Path("/proc/stat").exists():
        return 0.0
    deadline = time.monotonic() + patience
    share = busy_share()
    while share > BUSY_LIMIT and time.monotonic() < deadline:
        share = busy_share()
    return share
