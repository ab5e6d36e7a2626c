"""From ids to text: a generation is one request, a driver steps it.

A `Generation` touches no engine. It says which ids a session must be fed next, takes the id that
was drawn behind them, hands out text as that becomes certain, and knows when it is over and why. So
whoever drives may hold one, as `run_alone` does, or step many together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from localllm.answer.filters import (
    THINK_CLOSE,
    THINK_OPEN,
    Piece,
    ReasoningSplitter,
    StopStrings,
    Utf8Joiner,
)
from localllm.answer.timeline import rows_behind
from localllm.errors import UsageError
from localllm.sampling import SeededSampling

if TYPE_CHECKING:
    from localllm.answer.timeline import PrefillProgress, Timeline
    from localllm.engines.base import ModelFile

Finish = Literal["stop", "length", "context"]


@dataclass
class Result:
    """What a generation did; complete once it is over."""

    finish: Finish | None = None  # None: it was left before its end
    n_prompt: int = 0
    n_reused: int = 0  # of the prompt, already in the session
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    first_token_seconds: float = 0.0  # from the start of feeding
    seed: int = 0


class Generation:
    """A prompt and the ids drawn behind it. `result` fills as it goes.

    Its driver calls start(), feeds a session what wanted_rows() says until logits are kept, tells
    that by prompt_fed(), and from then on draws an id, hands it to take(), and feeds what is wanted
    behind it, until it is_over.
    """

    def __init__(
        self,
        file: ModelFile,
        prompt: Sequence[int],
        sampling: SeededSampling,
        n_ctx: int,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        splitter: ReasoningSplitter | None = None,
    ) -> None:
        """splitter: tells reasoning from the answer; None: all is answer. Raises: UsageError."""
        if not prompt:
            raise UsageError("the prompt is empty")
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max-tokens is {max_tokens}, but must be at least 1")
        self.file = file
        self.ids = list(prompt)
        self.sampling = sampling
        self.n_ctx = n_ctx
        self.max_tokens = max_tokens
        self.joiner = Utf8Joiner()
        self.stops = StopStrings(stop)
        self.splitter = splitter
        self.fences = {file.find_token(text) for text in (THINK_OPEN, THINK_CLOSE)}
        self.result = Result(n_prompt=len(prompt), seed=sampling.seed)
        self.started_at = self.fed_at = 0.0
        self.is_over = False

    def wanted_rows(self, n_held: int, n_most: int) -> tuple[Sequence[int], int]:
        """The ids that a session must be fed which holds the n_held first, at most n_most at once,
        and how many rows keep their logits: where it is 1, an id can be drawn from them. Behind the
        prompt that is the id which was taken last."""
        return rows_behind(self.ids, n_held, n_most)

    def start(self) -> None:
        """Its time begins."""
        self.started_at = time.perf_counter()

    def prompt_fed(self, n_reused: int) -> None:
        """The logits of the prompt's last id are there. n_reused: ids that were not computed."""
        self.fed_at = time.perf_counter()
        self.result.n_reused = n_reused
        self.result.prompt_seconds = self.fed_at - self.started_at

    def take(self, id: int) -> list[Piece]:
        """The text that a drawn id makes certain; with the end of it, this is over."""
        result = self.result
        if self.file.token_is_end(id):
            return self.end("stop")
        if not result.n_generated:
            result.first_token_seconds = time.perf_counter() - self.started_at
        result.n_generated += 1
        self.ids.append(id)
        pieces = self.show(self.stops.push(self.joiner.push(self.spell(id))))
        result.generate_seconds = time.perf_counter() - self.fed_at
        if self.stops.hit or result.n_generated == self.max_tokens or len(self.ids) > self.n_ctx:
            pieces += self.end(self.why())
        return pieces

    def why(self) -> Finish:
        if self.stops.hit:
            return "stop"
        return "length" if self.result.n_generated == self.max_tokens else "context"

    def end(self, finish: Finish) -> list[Piece]:
        """What the filters still hold."""
        self.result.finish, self.is_over = finish, True
        pieces = self.show(self.stops.push(self.joiner.finish()) + self.stops.finish())
        return [*pieces, *self.splitter.finish()] if self.splitter else pieces

    def show(self, text: str) -> list[Piece]:
        if not text:
            return []
        return list(self.splitter.push(text)) if self.splitter else [Piece(text)]

    def spell(self, id: int) -> bytes:
        """The token's bytes. Control tokens have none, except those that fence the reasoning."""
        return self.file.token_bytes(id, control=id in self.fences)


def run_alone(
    generation: Generation, timeline: Timeline, progress: PrefillProgress | None = None
) -> Iterator[Piece]:
    """Drives one generation in a timeline that nobody else steps; yields its text.

    Raises: ContextFullError, EngineError, InterruptedByUserError.
    """
    generation.start()
    generation.prompt_fed(timeline.feed(generation.ids, progress))
    while True:
        id = timeline.draw(generation.sampling)
        yield from generation.take(id)
        if generation.is_over:
            break
        timeline.save_some()
        timeline.step([id])
    timeline.end_writing()
