"""Text as it becomes certain: three filters between drawn tokens and the reader.

Each may hold text back: half a character, what could become a stop string, and what could become
the end of the model's reasoning.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from localllm.errors import UsageError

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


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
