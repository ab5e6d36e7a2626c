"""Taking the samples: every case in every variant, round after round, in this one process.

As llama-bench measures: a prompt is random ids fed whole, generation is steps of one token a
sequence, both behind `depth` tokens that are there already. The first round warms up and does not
count. Each sample has the machine's limits taken right before it, because a machine's memory and
clock change speed while one looks. Variants take turns, and every other round in reverse order, so
that a drift favours none.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from localllm.engines.base import EngineOptions, PhaseTime, Work
from localllm.errors import DoesNotFitError, UsageError
from localllm.memory.limits import find_limits
from localllm.memory.need import need_of
from localllm.memory.verdict import judge
from localllm.speed.cases import PROMPT, Case
from localllm.speed.limits import Limits, measure_limits

if TYPE_CHECKING:
    from localllm.engines.base import Engine, ModelFile, Session

SEED = 1


@dataclass(frozen=True)
class Variant:
    """How to run the model; 0 and None leave the choice to the engine."""

    n_threads: int = 0
    kernels: str | None = None
    kv_k: str | None = None
    kv_v: str | None = None


@dataclass
class Measured:
    """The samples of one case, and the limits beside each. Profiles add up over the samples."""

    case: Case
    work: Work
    seconds: list[float] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    profile: list[PhaseTime] = field(default_factory=list)

    def add_profile(self, phases: Sequence[PhaseTime]) -> None:
        before = self.profile or [replace(p, seconds=0, work=Work()) for p in phases]
        self.profile = [
            replace(p, seconds=p.seconds + b.seconds, work=p.work + b.work)
            for p, b in zip(phases, before, strict=True)
        ]


class Subject:
    """One variant under measurement: an engine, and sessions that hold the depth."""

    def __init__(self, file: ModelFile, variant: Variant, cases: Sequence[Case]) -> None:
        n_sessions = max(case.batch for case in cases)
        n_ctx = max(case.n_ctx for case in cases)
        self.engine = open_engine(file, variant, n_ctx, n_sessions)
        self.sessions: list[Session] = []
        numbers = random.Random(SEED)
        self.ids = [
            [numbers.randrange(file.info["n_vocab"]) for _ in range(n_ctx)]
            for _ in range(n_sessions)
        ]
        self.measured = [Measured(case, case_work(self.engine, case)) for case in cases]

    def rewind(self, depth: int, batch: int) -> list[Session]:
        """The first `batch` sessions, each holding the first `depth` of its ids."""
        while len(self.sessions) < batch:
            self.sessions.append(self.engine.session())
        for session, ids in zip(self.sessions[:batch], self.ids, strict=False):
            kept = session.truncate(depth)
            for start, end, _ in chunks(kept, depth, self.engine.n_batch):
                self.engine.step([(session, ids[start:end], 0)])
        return self.sessions[:batch]

    def run(self, case: Case, sessions: Sequence[Session]) -> float:
        """Seconds of one run of a case whose sessions are rewound."""
        engine, first = self.engine, self.ids[0]
        if case.kind == PROMPT:
            steps = [
                [(sessions[0], first[start:end], n_logits)]
                for start, end, n_logits in chunks(case.depth, case.n_ctx, engine.n_batch)
            ]
        else:
            steps = [
                [(session, [ids[at]], 1) for session, ids in zip(sessions, self.ids, strict=False)]
                for at in range(case.depth, case.n_ctx)
            ]
        started = time.perf_counter()
        for rows in steps:
            engine.step(rows)
        return time.perf_counter() - started

    def warm_up(self, case: Case) -> None:
        self.run(case, self.rewind(case.depth, case.batch))

    def take_sample(self, measured: Measured, profile: bool) -> None:
        case = measured.case
        sessions = self.rewind(case.depth, case.batch)
        measured.limits.append(measure_limits(self.engine.kernels, self.engine.n_threads))
        if profile:
            self.engine.set_profile(True)  # from zero: what the rewinding fed is not in it
        measured.seconds.append(self.run(case, sessions))
        if profile:
            measured.add_profile(self.engine.profile())
            self.engine.set_profile(False)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.engine.close()


def open_engine(file: ModelFile, variant: Variant, n_ctx: int, n_sessions: int) -> Engine:
    """An engine with room for every case, once its plan is known to fit the machine."""
    options = EngineOptions(
        n_ctx=n_ctx,
        n_sessions=n_sessions,
        n_logits=n_sessions,
        n_threads=variant.n_threads,
        kernels=variant.kernels,
        kv_k=variant.kv_k,
        kv_v=variant.kv_v,
    )
    verdict = judge(need_of(file, options), find_limits())
    if not verdict.runs:
        raise DoesNotFitError(
            f"{n_sessions} sequences: {verdict.describe()}",
            "a smaller --depth, --prompt, --gen or --batch",
        )
    engine = file.open_engine(options)
    if n_sessions > engine.n_batch:
        engine.close()
        raise UsageError(f"--batch {n_sessions} is more than the {engine.n_batch} rows of a step")
    return engine


def chunks(start: int, end: int, n_batch: int) -> list[tuple[int, int, int]]:
    """The steps that feed [start, end): bounds, and the kept logits, which are the last row's."""
    bounds = [(at, min(at + n_batch, end)) for at in range(start, end, n_batch)]
    return [(at, to, int(to == end)) for at, to in bounds]


def case_work(engine: Engine, case: Case) -> Work:
    """What one run of a case must read and compute, over all its steps."""
    if case.kind == PROMPT:
        steps = [
            [(start, end - start, n_logits)]
            for start, end, n_logits in chunks(case.depth, case.n_ctx, engine.n_batch)
        ]
    else:
        steps = [[(at, 1, 1)] * case.batch for at in range(case.depth, case.n_ctx)]
    return sum((engine.work(spans) for spans in steps), start=Work())


Progress = Callable[[Case, int, int], None]
"""Told before each run: the case, the round (0 warms up) and the rounds that count."""


def measure(
    file: ModelFile,
    cases: Sequence[Case],
    variants: Sequence[Variant],
    repeat: int,
    *,
    profile: bool = False,
    progress: Progress = lambda case, turn, repeat: None,
) -> list[Subject]:
    """One closed subject for each variant, with `repeat` samples of each case.

    Raises: UsageError, DoesNotFitError, EngineError.
    """
    subjects: list[Subject] = []
    try:
        for variant in variants:
            subjects.append(Subject(file, variant, cases))
        for depth in sorted({case.depth for case in cases}):
            places = [i for i, case in enumerate(cases) if case.depth == depth]
            for turn in range(repeat + 1):
                order = subjects if turn % 2 else subjects[::-1]
                for place in places:
                    progress(cases[place], turn, repeat)
                    for subject in order:
                        if turn:
                            subject.take_sample(subject.measured[place], profile)
                        else:
                            subject.warm_up(cases[place])
    finally:
        for subject in subjects:
            subject.close()
    return subjects
