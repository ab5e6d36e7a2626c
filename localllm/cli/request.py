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
    from localllm.model import Model


class Part(enum.StrEnum):
    """The part of a text that is left out where the text is too long."""

    head = "head"
    middle = "middle"
    tail = "tail"


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
    truncate: Part | None
    strict: bool
    json: bool
    quiet: bool
    verbose: bool
    stats: bool


def note(request: Request, text: str) -> None:
    """A line for somebody who watches; scripts never see it."""
    if not request.quiet and console.is_terminal(sys.stderr):
        console.note(text)


def has_template(model: Model, request: Request) -> bool:
    """Raises: UsageError, for a flag that only a template could honour."""
    if model.find_encoder() is not None:
        return True
    for flag, value in (("--system", request.system), ("--think", request.think)):
        if value is not None:
            raise UsageError(f"{flag} does not apply: this model has no chat template")
    note(request, "this model has no chat template, so it continues the text as it is")
    return False
