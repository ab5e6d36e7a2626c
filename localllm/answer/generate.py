"""From ids to text: feed a prompt, draw tokens one by one, hand out text as it becomes certain."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from localllm.answer.filters import THINK_CLOSE, THINK_OPEN, StopStrings, Utf8Joiner
from localllm.errors import UsageError
from localllm.sampling import SeededSampling

if TYPE_CHECKING:
    from localllm.answer.timeline import PrefillProgress, Timeline
    from localllm.engines.base import ModelFile

Finish = Literal["stop", "length", "context"]


@dataclass
class Result:
    """What a generation did; complete once its text has been read to the end."""

    finish: Finish | None = None  # None: it was left before its end
    n_prompt: int = 0
    n_reused: int = 0  # of the prompt, already in the session
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    first_token_seconds: float = 0.0  # from the start of feeding
    seed: int = 0


class Generation:
    """Draws tokens behind a prompt. Iterating it yields text; `result` fills as it goes."""

    def __init__(
        self,
        file: ModelFile,
        timeline: Timeline,
        ids: Sequence[int],
        sampling: SeededSampling,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        progress: PrefillProgress | None = None,
    ) -> None:
        if not ids:
            raise UsageError("the prompt is empty")
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max-tokens is {max_tokens}, but must be at least 1")
        self.file = file
        self.timeline = timeline
        self.ids = ids
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.stops = StopStrings(stop)
        self.progress = progress
        self.shown_control = {file.find_token(text) for text in (THINK_OPEN, THINK_CLOSE)}
        self.result = Result(n_prompt=len(ids), seed=sampling.seed)

    def __iter__(self) -> Iterator[str]:
        yield from self.texts()
        self.timeline.finish_keeping()

    def texts(self) -> Iterator[str]:
        joiner, result = Utf8Joiner(), self.result
        started = time.perf_counter()
        result.n_reused = self.timeline.feed(self.ids, self.progress)
        fed = time.perf_counter()
        result.prompt_seconds = fed - started
        for id in self.draw():
            if not result.n_generated:
                result.first_token_seconds = time.perf_counter() - started
            result.n_generated += 1
            text = self.stops.push(joiner.push(self.spell(id)))
            result.generate_seconds = time.perf_counter() - fed
            if text:
                yield text
            if self.stops.hit:
                result.finish = "stop"
                return
            self.timeline.keep_some()
        text = self.stops.push(joiner.finish()) + self.stops.finish()
        if text:
            yield text

    def draw(self) -> Iterator[int]:
        """The drawn ids up to an end of generation, which is not among them."""
        while True:
            id = self.draw_one()
            if self.file.token_is_end(id):
                self.result.finish = "stop"
                return
            yield id
            if self.result.n_generated == self.max_tokens:
                self.result.finish = "length"
                return
            if self.timeline.is_full:
                self.result.finish = "context"
                return
            self.timeline.step([id])

    def draw_one(self) -> int:
        ids, sampling = self.timeline.ids, self.sampling
        recent = ids[-sampling.penalty_last_n :] if sampling.has_penalties else []
        return self.timeline.engine.sample(0, recent, len(ids), sampling)

    def spell(self, id: int) -> bytes:
        """The token's bytes. Control tokens have none, except those that fence the reasoning."""
        return self.file.token_bytes(id, control=id in self.shown_control)
