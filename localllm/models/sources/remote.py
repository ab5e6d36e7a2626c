"""What every source of models has in common.

A source knows where a file is and finds it; what it finds is a Remote, which says what is known
about the file beforehand and opens its bytes. Writing, checking and naming them is the store's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

MAX_NAME_CHARS = 160


class Progress(Protocol):
    """Who is told how a download goes. One start() per file, then advance() for its bytes."""

    def start(self, label: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, n_bytes: int) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


class Silent:
    """Progress for nobody."""

    def start(self, label: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, n_bytes: int) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Body:
    """An open stream of bytes; `offset` is where in the file it begins, which may be 0 although
    more was asked for: a source that cannot resume starts again."""

    offset: int
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Remote:
    """One file as its source describes it before it is read."""

    name: str
    """The full name under which the same file is asked for again."""
    origin: str
    file_name: str
    open: Callable[[int], AbstractContextManager[Body]]
    n_bytes: int | None = None
    sha256: str | None = None
    revision: str | None = None
    licence: str | None = None
    identity: str | None = None
    """Changes when the bytes do; a partial file is resumed only under the same identity."""
    here: Path | None = None
    """Set where the file is on this machine already and is used in place."""
    parts: tuple[Remote, ...] = ()
    """The files of a model that has several; n_bytes is theirs together. Their file_name is the
    name in the source, which may hold folders."""
    convert_to: str | None = None
    """Set where the parts are a checkpoint, from which a GGUF of this quant is to be made."""


def safe_file_name(text: str) -> str:
    """A plain name for the store, whatever a server called the file: no folders, no control
    characters, not hidden, not too long."""
    base = re.split(r"[/\\]", text)[-1].removesuffix(".gguf")
    plain = re.sub(r"[^\w.+-]+", "-", base, flags=re.ASCII).strip(".-")
    return f"{plain[:MAX_NAME_CHARS] or 'model'}.gguf"


class Source(Protocol):
    """Where one model can be had.

    find() raises NetworkError where the source cannot be reached, so that the next one is tried;
    what it must put on the disk meanwhile goes into `folder`.
    """

    kind: ClassVar[str]
    copies: ClassVar[int]
    """How often the file lies on the disk while it is fetched."""

    @property
    def name(self) -> str:
        """What to type for this source; a Remote's name may be longer."""

    def find(self, folder: Path, progress: Progress) -> Remote: ...
