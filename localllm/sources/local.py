"""A file that is on this machine already: it is used where it lies and never copied or changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from localllm.errors import ModelNotFoundError
from localllm.sources.base import Progress, Remote


@dataclass(frozen=True)
class Local:
    """`./file.gguf`, `/models/file.gguf`, `~/file.gguf`, or the path of any existing file."""

    path: Path
    kind: ClassVar[str] = "local"

    @classmethod
    def parse(cls, name: str) -> Local | None:
        """None where the name is not a path: it names no file and does not look like one."""
        looks_like_path = name.startswith(("/", "./", "../", "~"))
        path = Path(name).expanduser() if looks_like_path else Path(name)
        return cls(path) if looks_like_path or os.path.lexists(path) else None

    def find(self, folder: Path, progress: Progress) -> Remote:
        if not self.path.exists():
            raise ModelNotFoundError(f"there is no file {str(self.path)!r}")
        # A pipe or a device would be read without end.
        if not self.path.is_file():
            raise ModelNotFoundError(f"{str(self.path)!r} is not a regular file")
        path = self.path.absolute()
        return Remote(
            name=str(path),
            origin=str(path),
            file_name=path.name,
            open=cannot_open,
            n_bytes=path.stat().st_size,
            here=path,
        )


def cannot_open(offset: int) -> NoReturn:
    raise AssertionError("a file in place is never copied")
