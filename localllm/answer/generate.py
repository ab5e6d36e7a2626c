"""From ids to text: feed a prompt, draw tokens one by one, and hand out text as it becomes certain.

`Timeline` feeds a session, so that a prompt that begins like the last one costs only its new
tokens. `Generation` draws. Between them and the reader stand three filters that may hold text back:
half a character, what could become a stop string, and what could become the end of the model's
reasoning.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from localllm.errors import ContextFullError, UsageError
from localllm.sampling import SeededSampling

if TYPE_CHECKING:
    from localllm.answer.prefixes import Prefixes
    from localllm.engines.base import Engine, ModelFile

Finish = Literal["stop", "length", "context"]
PrefillProgress = Callable[[int, int], None]  # tokens fed, tokens in all; equal when it is over

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


# ---- feeding ---------------------------------------------------------------------------------


class Timeline:
    """One session, and what it is fed."""

    def __init__(self, engine: Engine, prefixes: Prefixes | None = None) -> None:
        self.engine = engine
        self.session = engine.session()
        self.prefixes = prefixes

    @property
    def ids(self) -> list[int]:
        """The tokens the session holds."""
        return self.session.ids()

    def rewind(self, ids: Sequence[int]) -> int:
        """Makes the session hold what is computed already of the beginning of `ids`, but never all
        of them; returns how many that are."""
        return self.session.reuse(ids[:-1])

    def feed(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> int:
        """Makes the session hold `ids`, with the last one's logits kept; returns how many it had.

        A cancelled or failed step leaves everything before it in place.
        Raises: ContextFullError.
        """
        if len(ids) > self.engine.n_ctx:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, but the context holds {self.engine.n_ctx}",
                "a larger context (-c), or --truncate head, middle or tail",
            )
        self.finish_keeping()
        n_reused = self.rewind(ids)
        if self.prefixes is not None:
            n_reused = self.prefixes.extend(self.session, ids, n_reused)
            self.prefixes.keep(self.session, ids)
        n_new = len(ids) - n_reused
        try:
            for start in range(n_reused, len(ids), self.engine.n_batch):
                piece = ids[start : start + self.engine.n_batch]
                if progress and start > n_reused:
                    progress(start - n_reused, n_new)
                self.step(piece, keep_logits=start + len(piece) == len(ids))
                if self.prefixes is not None and self.engine.gives_back:
                    self.prefixes.keep_up()  # while the session has all of the KV
        finally:
            if progress:
                progress(n_new, n_new)
        return n_reused

    def restore(self, blocks: Iterable[tuple[Sequence[int], bytes]]) -> int:
        """Makes the session hold what comes in blocks, tokens with their KV; returns how many
        tokens. Raises: ContextFullError, where it does not fit."""
        self.finish_keeping()
        self.session.truncate(0)
        for ids, kv in blocks:
            self.session.put_block(ids, kv)
        # Nothing, where the end lacks what layers with a window see.
        return self.session.truncate(self.session.n_tokens)

    def keep_some(self) -> None:
        """Keeps a little of the prompt's prefix on the disk, while its answer is being read."""
        if self.prefixes is not None:
            self.prefixes.keep_some()

    def finish_keeping(self) -> None:
        if self.prefixes is not None:
            self.prefixes.finish()

    def step(self, ids: Sequence[int], keep_logits: bool = True) -> None:
        self.engine.step([(self.session, ids, int(keep_logits))])

    @property
    def is_full(self) -> bool:
        return self.session.n_tokens >= self.engine.n_ctx

    def close(self) -> None:
        self.session.close()


# ---- text that is certain ---------------------------------------------------------------------


class Utf8Joiner:
    """Bytes of tokens to whole characters; what is not UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        return self.decoder.decode(data)

    def finish(self) -> str:
        return self.decoder.decode(b"", final=True)


def longest_tail(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of `text` that is the beginning of a word, but not all of it."""
    longest = min(len(text), max(map(len, words), default=1) - 1)
    for n in range(longest, 0, -1):
        tail = text[-n:]
        if any(word.startswith(tail) for word in words):
            return n
    return 0


class StopStrings:
    """Passes text on until one of the stops appears; `hit` then stays true."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.hit = False
        if "" in self.stops:
            raise UsageError("a stop string must not be empty")

    def push(self, text: str) -> str:
        if self.hit or not self.stops:
            return "" if self.hit else text
        text = self.held + text
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.hit, self.held = True, ""
            return text[: min(found)]
        n_held = longest_tail(text, self.stops)
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        held, self.held = self.held, ""
        return held


@dataclass(frozen=True)
class Piece:
    """Text as it becomes certain; reasoning is not part of the answer."""

    text: str
    is_reasoning: bool = False


class ReasoningSplitter:
    """Tells a model's <think>…</think> from its answer; only what an answer begins with counts."""

    def __init__(self, starts_inside: bool = False) -> None:
        self.state: Literal["before", "inside", "behind", "answer"] = (
            "inside" if starts_inside else "before"
        )
        self.held = ""

    def push(self, text: str) -> Iterator[Piece]:
        text, self.held = self.held + text, ""
        if self.state == "before":
            text = self.look_for_start(text)
        if self.state == "inside":
            reasoning, text = self.look_for_end(text)
            if reasoning:
                yield Piece(reasoning, is_reasoning=True)
        if self.state == "behind":
            text = text.lstrip("\n")
            if text:
                self.state = "answer"
        if self.state == "answer" and text:
            yield Piece(text)

    def look_for_start(self, text: str) -> str:
        opening = text.lstrip()
        if opening.startswith(THINK_OPEN):
            self.state = "inside"
            return opening[len(THINK_OPEN) :].lstrip("\n")
        if THINK_OPEN.startswith(opening):
            self.held = text
        else:
            self.state = "answer"
        return text

    def look_for_end(self, text: str) -> tuple[str, str]:
        reasoning, end, rest = text.partition(THINK_CLOSE)
        if end:
            self.state = "behind"
            return reasoning, rest
        n_held = longest_tail(text, [THINK_CLOSE])
        self.held = text[len(text) - n_held :]
        return text[: len(text) - n_held], ""

    def finish(self) -> Iterator[Piece]:
        if self.held:
            yield Piece(self.held, is_reasoning=self.state == "inside")
        self.held = ""


# ---- drawing ---------------------------------------------------------------------------------


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
        timeline = self.timeline
        return timeline.engine.sample([(timeline.session, 0, self.sampling)])[0]

    def spell(self, id: int) -> bytes:
        """The token's bytes. Control tokens have none, except those that fence the reasoning."""
        return self.file.token_bytes(id, control=id in self.shown_control)
