"""What long commands over a text share: reading it, and a line that says how far they are."""

from __future__ import annotations

import sys
import time
from importlib import resources
from pathlib import Path
from types import TracebackType

from localllm.cli import console
from localllm.errors import UsageError

REDRAW_SECONDS = 0.1


def read_text(path: Path | None) -> tuple[str, str]:
    """The text of a file, or the calibration text that ships here; and its name."""
    if path is None:
        shipped = resources.files("localllm.evaluate") / "calibration.txt"
        return shipped.read_text(encoding="utf-8"), "calibration.txt"
    try:
        return path.read_bytes().decode(), path.name
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start})") from error


def check_file(flag: str, path: Path) -> None:
    """Before hours of work: whether a file could be written there."""
    if path.is_dir():
        raise UsageError(f"{flag} cannot write {str(path)!r}: it is a folder")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{flag} cannot write {str(path)!r}: there is no such folder")


class CountLine:
    """How many are done and how long the rest may take, on one line of a terminal's stderr."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.begun = time.perf_counter()
        self.drawn = 0.0

    def show(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if not console.is_terminal(sys.stderr) or now - self.drawn < REDRAW_SECONDS:
            return
        left = (now - self.begun) * (total - done) / max(done, 1)
        console.status(f"{self.noun} {done} of {total}, {left:.0f} s left")
        self.drawn = now

    def __enter__(self) -> CountLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.drawn:
            console.status("")
