"""Processor time counted in turns of a loop, so that a limit means the same on any machine.

A turn is about as long as a millisecond was where the limits were first set. Tests that ask carry
the mark `clock`: beside others on the same cores both numbers would be off.
"""

from __future__ import annotations

import time
from collections.abc import Callable

STEPS_OF_A_TURN = 25_000


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The processor time that `work` takes; the least of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def turns(work: Callable[[], object], repeats: int = 1) -> float:
    return seconds(work, repeats) / seconds(one_turn, 20)


def one_turn() -> None:
    n = 0
    for i in range(STEPS_OF_A_TURN):
        n = (n * 31 + i) & 0xFFFF
