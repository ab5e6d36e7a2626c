"""What becomes of a conversation that is longer than the context: its oldest turns are left out.

A turn is a question and all that follows it up to the next. The system message stays, and so does
the last question. So much goes at once that a quarter of the context is free afterwards: the next
turns then begin as this one does, and what was computed of it serves them too. Keys are never
rotated to other places; what is kept is computed anew behind what stayed, so an answer depends on
nothing but the messages that are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.answer.template import Message

FREE_SHARE = 4


def leave_out(
    messages: Sequence[Message],
    n_left_out: int,
    count: Callable[[Sequence[Message]], int],
    n_ctx: int,
    n_answer: int,
) -> int:
    """How many messages behind the system message to leave out, at least the n_left_out that are.

    count: tokens that messages take as a prompt. n_answer: tokens to have room for behind it.
    """
    if count(window(messages, n_left_out)) + n_answer <= n_ctx:
        return n_left_out
    goal = min(n_ctx - n_answer, n_ctx - n_ctx // FREE_SHARE)
    turns = [n for n in turn_starts(messages) if n > n_left_out]
    for n in turns:
        if count(window(messages, n)) <= goal:
            return n
    return turns[-1] if turns else n_left_out


def window(messages: Sequence[Message], n_left_out: int) -> list[Message]:
    """The messages without the oldest behind the system message."""
    n_system = has_system(messages)
    return [*messages[:n_system], *messages[n_system + n_left_out :]]


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where questions stand, counted from behind the system message."""
    n_system = has_system(messages)
    return [i for i, message in enumerate(messages[n_system:]) if message["role"] == "user"]


def has_system(messages: Sequence[Message]) -> int:
    return int(bool(messages) and messages[0]["role"] in ("system", "developer"))
