"""A file that is on this machine already: it is used where it lies and never copied or changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from localllm.errors import ModelNotFoundError
from localllm.models.sources.remote import Progress, Remote


@dataclass(frozen=True)
class Local:
    """`./file.gguf`, `/models/file.gguf`, `~/file.gguf`, or the path of any existing file."""

    path: Path
    kind: ClassVar[str] = "local"
    copies: ClassVar[int] = 1

    @classmethod
    def parse(cls, name: str) -> Local | None:
        """None where the name is not a path: it names no file and does not look like one.

        A folder that happens to be called like a model is not what is meant.
        """
        looks_like_path = name.startswith(("/", "./", "../", "~"))
        path = expand_home(name)
        return cls(path) if looks_like_path or is_file(path) else None

    @property
    def name(self) -> str:
        return str(self.path.absolute())

    def find(self, folder: Path, progress: Progress) -> Remote:
        if not os.path.lexists(self.path):
            raise ModelNotFoundError(f"there is no file {str(self.path)!r}")
        # A pipe or a device would be read without end.
        if not is_file(self.path):
            raise ModelNotFoundError(f"{str(self.path)!r} is not a regular file")
        path = self.path.absolute()
        return Remote(
            name=self.name,
            origin=str(path),
            file_name=path.name,
            open=cannot_open,
            n_bytes=path.stat().st_size,
            here=path,
        )


def expand_home(name: str) -> Path:
    """`~/x` and `~somebody/x` as the shell reads them; as it stands where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_file(path: Path) -> bool:
    """Whether a regular file is there; no text, however long or odd, makes this fail."""
    try:
        return path.is_file()
    except OSError:
        return False


def cannot_open(offset: int) -> NoReturn:
    raise AssertionError("a file in place is never copied")
