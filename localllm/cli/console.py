"""The only place that prints.

stdout carries what was asked for, as UTF-8 bytes whatever the locale; stderr carries everything
else. Text that came from a file or a server may hold escape sequences, so control characters never
reach a terminal through out(), note() and error(). Progress is drawn only on a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from localllm.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from localllm.models.sources import Progress

SCHEMA_VERSION = 1
REDRAWS_PER_SECOND = 10

CONTROL_CHARACTERS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


def is_terminal(stream: IO[Any]) -> bool:
    """Whether a person watches this stream and it can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: IO[Any]) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0")
    return forced or is_terminal(stream)


def encode(text: str) -> bytes:
    """UTF-8, and the very bytes of a file name that is not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def write(data: bytes) -> None:
    """Sends bytes of an answer to stdout at once, also into a pipe."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def out(text: str) -> None:
    """Prints a line that was asked for."""
    if sys.stdout.isatty():
        text = text.translate(CONTROL_CHARACTERS)
    sys.stdout.buffer.write(encode(text) + b"\n")


def out_json(payload: dict[str, Any]) -> None:
    """Prints one JSON document with its schema_version."""
    document = {"schema_version": SCHEMA_VERSION, **payload}
    out(json.dumps(document, ensure_ascii=False, indent=2))


def out_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns, each as wide as its widest cell; nothing is ever cut."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out("  ".join(cells).rstrip())


def note(text: str) -> None:
    """Prints a line of information to stderr."""
    flush()
    sys.stderr.buffer.write(encode(text.translate(CONTROL_CHARACTERS)) + b"\n")
    sys.stderr.buffer.flush()


def status(text: str) -> None:
    """Draws, or with no text wipes, the one line on stderr that is overwritten; a terminal's."""
    sys.stderr.buffer.write(b"\r\x1b[K" + encode(text.translate(CONTROL_CHARACTERS)))
    sys.stderr.buffer.flush()


def aside(text: str) -> None:
    """Streams text that is not part of the answer to stderr, dim where colours are wanted."""
    shown = text.translate(CONTROL_CHARACTERS)
    if wants_colour(sys.stderr):
        shown = f"\x1b[2m{shown}\x1b[0m"
    sys.stderr.buffer.write(encode(shown))
    sys.stderr.buffer.flush()


def error(sentence: str, hint: str | None = None) -> None:
    """Prints what went wrong and the next thing to type."""
    mark = "\x1b[31merror:\x1b[0m " if wants_colour(sys.stderr) else "error: "
    sys.stderr.buffer.write(mark.encode())
    note(sentence)
    if hint:
        note(f"  try: {hint}")


def flush() -> None:
    sys.stdout.flush()


def abandon_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's last flush cannot fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def confirm(question: str) -> bool:
    """Asks on the terminal; where there is none, only -y can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("there is no terminal to ask on", "the same command with -y")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def progress(quiet: bool = False) -> Progress:
    """What a download reports to: a bar on a terminal, elsewhere only its notes."""
    return DownloadBar() if is_terminal(sys.stderr) and not quiet else Notes(quiet)


class Notes:
    """Says only what a script's log should hold, such as that another source is tried."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def start(self, label: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, n_bytes: int) -> None: ...
    def finish(self) -> None: ...

    def note(self, text: str) -> None:
        if not self.quiet:
            note(text)


class DownloadBar:
    """One bar with rate and ETA per file, drawn on stderr and removed when the file is there."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def start(self, label: str, total: int | None, done: int = 0) -> None:
        from rich import progress as parts
        from rich.console import Console

        self.finish()
        columns: list[parts.ProgressColumn] = [
            parts.TextColumn("{task.description}", markup=False),
            parts.BarColumn(),
            parts.DownloadColumn(binary_units=True),
            parts.TransferSpeedColumn(),
            parts.TimeRemainingColumn(),
        ]
        self.bar = parts.Progress(
            *columns,
            console=Console(stderr=True, no_color=not wants_colour(sys.stderr)),
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
        )
        self.task = self.bar.add_task(label, total=total, completed=done)
        self.bar.start()

    def advance(self, n_bytes: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task, n_bytes)

    def note(self, text: str) -> None:
        self.finish()
        note(text)

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = self.task = None
