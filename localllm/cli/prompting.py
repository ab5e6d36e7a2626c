"""What the user asks, put together from arguments, files and stdin.

The arguments come first, then files, then stdin, with a blank line between; `{}` in the arguments
puts stdin there instead, and an argument that is just `-` asks for stdin by name. What was piped is
data: nothing in it is looked at, only its trailing newlines go, as in a shell's $(…).
"""

from __future__ import annotations

import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.cli import console
from localllm.errors import UsageError

PATIENCE_SECONDS = 2.0
PLACE = "{}"


@dataclass(frozen=True)
class Ask:
    """A prompt in three parts, so that a text that is too long can be cut without its instruction.

    The prompt is before + text + after; only `text` may be shortened.
    """

    before: str
    text: str
    after: str = ""

    def __str__(self) -> str:
        return self.before + self.text + self.after


def wants_conversation(arguments: Sequence[str], files: Sequence[str], no_stdin: bool) -> bool:
    return not arguments and not files and not no_stdin and stdin_is_terminal()


def stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def compose(
    arguments: Sequence[str], files: Sequence[str], no_stdin: bool, quiet: bool = False
) -> Ask:
    """Raises: UsageError, where nothing was asked."""
    by_name = "-" in [*arguments, *files]
    if by_name and no_stdin:
        raise UsageError("- asks for stdin, which --no-stdin shuts out")
    instruction = " ".join(argument for argument in arguments if argument != "-")
    texts = [read_file(name) for name in files if name != "-"]
    piped = ""
    if by_name or not (no_stdin or stdin_is_terminal()):
        piped = decode(read_stdin(quiet))
    if not (instruction or piped or any(texts)):
        raise UsageError("there is no prompt, neither in the arguments nor on stdin")
    if piped and PLACE in instruction:
        before, _, after = instruction.partition(PLACE)
        return Ask("\n\n".join(filter(None, [*texts, before])), piped, after)
    parts = list(filter(None, [instruction, *texts, piped]))
    if not (piped or any(texts)):
        return Ask("", instruction)
    before = "\n\n".join(parts[:-1])
    return Ask(before + "\n\n" if before else "", parts[-1])


def read_file(name: str) -> str:
    return decode(Path(name).read_bytes())


def read_stdin(quiet: bool = False) -> bytes:
    """All of stdin; says what it waits for when nothing comes, where somebody watches."""
    if sys.stdin is None:
        return b""
    if not quiet and not stdin_is_terminal() and console.is_terminal(sys.stderr):
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], PATIENCE_SECONDS)
        if not ready:
            console.note("waiting for text on stdin (--no-stdin goes without)")
    return sys.stdin.buffer.read()


def decode(data: bytes) -> str:
    """UTF-8 without a byte order mark; what is not UTF-8 becomes U+FFFD."""
    return data.decode("utf-8-sig", "replace").rstrip("\n")
