"""What one `run` asks for, and what the model at hand makes of it."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localllm.cli import console
from localllm.errors import UsageError

if TYPE_CHECKING:
    from localllm.answer.model import Model
    from localllm.answer.template import Message

ANSWER_SHARE = 8  # of the context is kept for an answer whose length nobody limits


class Truncate(enum.StrEnum):
    """The part of a text that is left out where the text is too long."""

    head = "head"
    middle = "middle"
    tail = "tail"


class Overflow(enum.StrEnum):
    """What becomes of a conversation that is longer than the context."""

    error = "error"
    shift = "shift"


@dataclass(frozen=True)
class Request:
    """The flags of one run, once they are understood."""

    name: str
    system: str | None
    given: dict[str, Any]  # sampling settings, None where not given
    max_tokens: int | None
    stop: Sequence[str]
    raw: bool
    think: bool | None
    truncate: Truncate | None
    strict: bool
    json: bool
    quiet: bool
    verbose: bool
    stats: bool
    before: Sequence[dict[str, str]] = ()  # messages that the prompt goes on from
    overflow: Overflow = Overflow.error


def note(request: Request, text: str) -> None:
    """A line for somebody who watches; scripts never see it."""
    if not request.quiet and console.is_terminal(sys.stderr):
        console.note(text)


def shift(
    model: Model, request: Request, messages: Sequence[dict[str, str]], n_left_out: int = 0
) -> int:
    """How many of the oldest messages to leave out, which is said where it grows."""
    from localllm.answer.overflow import leave_out

    encoder = model.find_encoder()
    if request.overflow is not Overflow.shift or encoder is None:
        return n_left_out
    n_ctx = model.engine.n_ctx
    n_answer = request.max_tokens or n_ctx // ANSWER_SHARE

    def count(window: Sequence[Message]) -> int:
        return len(encoder.encode(window, request.think).ids)

    n = leave_out(messages, n_left_out, count, n_ctx, n_answer)
    if n > n_left_out and not request.quiet:
        console.note(f"(the context is full: the {n} oldest messages are left out)")
    return n


def has_template(model: Model, request: Request) -> bool:
    """Raises: UsageError, for a flag that only a template could honour."""
    if model.find_encoder() is not None:
        return True
    needs = ("--system", request.system), ("--think", request.think), ("--snapshot", request.before)
    for flag, value in needs:
        if value not in (None, ()):
            raise UsageError(f"{flag} does not apply: this model has no chat template")
    note(request, "this model has no chat template, so it continues the text as it is")
    return False
