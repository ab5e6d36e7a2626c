"""What is measured inside an engine, and the one clock that both engines run under.

A phase is a row of a table; an engine is a `Timeline` that feeds ids and says how long its own call
took. own_speed.py and peer_speed.py each bring one, so everything else that could differ (ids,
order, warm-up, what is counted) is written once. Only the standard library is used: the peer's
Python imports this file too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

CHUNK = 512  # ids of one batch: a prompt phase is one, a context is filled by several
WARM_STEPS = 4


@dataclass(frozen=True)
class Phase:
    """`n_tokens` ids for each of `n_sequences`, behind `depth` ids that are not measured.

    A prompt feeds them as one batch, generation one id of every sequence a step. `kv` is the type
    of keys and values in both engines; `beside` names the phase that ours is also held against.
    """

    name: str
    title: str
    is_prompt: bool
    n_tokens: int
    n_sequences: int = 1
    depth: int = 0
    kv: str = "f16"
    beside: str | None = None

    @property
    def shape(self) -> tuple[int, int, str]:
        """Phases of one shape share a context, and the time it takes to fill it."""
        return self.n_sequences, self.depth, self.kv

    @property
    def n_measured(self) -> int:
        return self.n_tokens * self.n_sequences


PHASES = (
    Phase("prompt", "prompt 512", True, 512),
    Phase("generation", "generation 128", False, 128),
    Phase("batch", "8 sequences, generation 64", False, 64, n_sequences=8),
    Phase("deep-prompt", "prompt 512 at 4096", True, 512, depth=4096),
    Phase("deep-generation", "generation 64 at 4096", False, 64, depth=4096),
    Phase(
        "deep-prompt-q8_0",
        "prompt 512 at 4096, Q8_0 KV",
        True,
        512,
        depth=4096,
        kv="q8_0",
        beside="deep-prompt",
    ),
    Phase(
        "deep-generation-q8_0",
        "generation 64 at 4096, Q8_0 KV",
        False,
        64,
        depth=4096,
        kv="q8_0",
        beside="deep-generation",
    ),
)


class Timeline(Protocol):
    """One engine with a context for some sequences, all at the same position."""

    n_vocab: int

    def feed(self, rows: list[list[int]]) -> float:
        """Appends one list of ids to every sequence in one batch, computing the logits of each
        one's last id; returns the seconds that the engine's own call took."""

    def rewind(self, position: int) -> None:
        """Drops whatever lies at `position` and behind it, in every sequence."""

    def close(self) -> None: ...


def find_phases(names: Iterable[str]) -> list[Phase]:
    wanted = set(names)
    return [phase for phase in PHASES if phase.name in wanted]


def context_of(phases: list[Phase]) -> int:
    """Positions that one sequence needs for phases of one shape."""
    return max(phase.depth + phase.n_tokens for phase in phases)


def steps_of(phase: Phase, n_vocab: int) -> list[list[list[int]]]:
    """The random ids of every batch of the phase, the same for both engines."""
    chance = random.Random(phase.name)
    n_steps, n_ids = (1, phase.n_tokens) if phase.is_prompt else (phase.n_tokens, 1)
    return [
        [[chance.randrange(n_vocab) for _ in range(n_ids)] for _ in range(phase.n_sequences)]
        for _ in range(n_steps)
    ]


def measure(phase: Phase, timeline: Timeline) -> float:
    """Tokens per second, from `depth` on; the timeline is left where it was."""
    seconds = sum(timeline.feed(rows) for rows in steps_of(phase, timeline.n_vocab))
    timeline.rewind(phase.depth)
    return phase.n_measured / seconds


def fill(timeline: Timeline, depth: int) -> None:
    chance = random.Random(depth)
    for start in range(0, depth, CHUNK):
        n_ids = min(CHUNK, depth - start)
        timeline.feed([[chance.randrange(timeline.n_vocab) for _ in range(n_ids)]])


def warm_up(phase: Phase, timeline: Timeline) -> None:
    for rows in steps_of(phase, timeline.n_vocab)[:WARM_STEPS]:
        timeline.feed(rows)
    timeline.rewind(phase.depth)


def measure_all(
    phases: list[Phase],
    open_timeline: Callable[[int, int, str], Timeline],
    measure_one: Callable[[Phase, Timeline], float] = measure,
) -> dict[str, float]:
    """Tokens per second of each phase by its name; `open_timeline` takes n_sequences, n_ctx and the
    type of keys and values."""
    speeds: dict[str, float] = {}
    for (n_sequences, depth, kv), group in groupby(phases, key=lambda phase: phase.shape):
        members = list(group)
        timeline = open_timeline(n_sequences, context_of(members), kv)
        fill(timeline, depth)
        for phase in members:
            if depth == 0 or not phase.is_prompt:  # filling the context was a prompt's warm-up
                warm_up(phase, timeline)
            speeds[phase.name] = measure_one(phase, timeline)
        timeline.close()
    return speeds
