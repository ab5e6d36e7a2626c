"""How an answer reaches its reader: `run` and the interactive prompt write through this file.

Text goes out the moment it is certain, in whole characters. Trailing newlines are held back, so
that what was printed ends with exactly one. Reasoning is shown dim on stderr where stdout is a
terminal, and nowhere else. Control characters in an answer are kept from a terminal, whose state
they could change, and passed on unchanged into a pipe.
"""

from __future__ import annotations

import sys
import time

from localllm.answer.generate import Finish, Piece, Result
from localllm.answer.model import Answer
from localllm.cli import console

STATUS_AFTER_SECONDS = 0.5
STATUS_EVERY_SECONDS = 0.1

HOW_IT_ENDED: dict[Finish, str] = {
    "length": "the answer reached --max-tokens",
    "context": "the context is full, so the answer is not complete",
}


class AnswerStream:
    """Writes one answer to stdout, piece by piece."""

    def __init__(self) -> None:
        self.on_terminal = console.is_terminal(sys.stdout)
        self.shows_reasoning = sys.stdout.isatty()
        self.held = ""
        self.text = ""
        self.in_reasoning = False

    def put(self, piece: Piece) -> None:
        if piece.is_reasoning:
            if self.shows_reasoning:
                console.aside(piece.text)
                self.in_reasoning = True
            return
        self.leave_reasoning()
        self.text += piece.text
        text = self.held + piece.text
        body = text.rstrip("\n")
        self.held = text[len(body) :]
        if body:
            self.write(body)

    def write(self, text: str) -> None:
        if self.on_terminal:
            text = text.translate(console.CONTROL_CHARACTERS)
        console.write(console.encode(text))

    def leave_reasoning(self) -> None:
        if self.in_reasoning:
            console.aside("\n\n")
            self.in_reasoning = False

    def finish(self) -> None:
        self.leave_reasoning()
        console.write(b"\n")


def stream(answer: Answer) -> str:
    """Writes the whole answer and returns its text. What was written stays if this is left."""
    output = AnswerStream()
    try:
        for piece in answer.pieces:
            output.put(piece)
    except BaseException:
        if output.on_terminal:
            output.finish()
        raise
    output.finish()
    return output.text


class PrefillMeter:
    """The line that says how far reading the prompt has come, once it takes a while.

    It is a generate.PrefillProgress; the call with both counts equal wipes the line.
    """

    def __init__(self, quiet: bool) -> None:
        self.shown = not quiet and console.is_terminal(sys.stderr)
        self.started = time.perf_counter()
        self.drawn = 0.0

    def __call__(self, n_done: int, n_total: int) -> None:
        now = time.perf_counter()
        elapsed = now - self.started
        if n_done == n_total:
            if self.drawn:
                console.status("")
            return
        if not self.shown or elapsed < STATUS_AFTER_SECONDS:
            return
        if now - self.drawn >= STATUS_EVERY_SECONDS:
            left = elapsed * (n_total - n_done) / max(n_done, 1)
            console.status(f"reading the prompt: {n_done} of {n_total} tokens, {left:.0f} s left")
            self.drawn = now


def describe(result: Result) -> str:
    """The timings in one line."""
    n_fed = result.n_prompt - result.n_reused
    return (
        f"prompt: {result.n_prompt} tokens, {result.n_reused} of them reused, "
        f"{rate(n_fed, result.prompt_seconds)} tokens/s; "
        f"answer: {result.n_generated} tokens, "
        f"{rate(result.n_generated, result.generate_seconds)} tokens/s; "
        f"first token after {result.first_token_seconds * 1000:.0f} ms; seed {result.seed}"
    )


def rate(n: int, seconds: float) -> str:
    return f"{n / seconds:.1f}" if seconds > 0 else "0"
