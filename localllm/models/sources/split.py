"""The names of a split model's files: <prefix>-00001-of-00003.gguf, numbered from 1.

All of them are derived from one, as the engine does it; what the files say inside is its to check.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ENDING = re.compile(r"-(\d{5})-of-(\d{5})\.gguf", re.ASCII)


class Split(NamedTuple):
    """One file's place in its model."""

    prefix: str
    number: int
    n_files: int

    def name(self, number: int) -> str:
        return f"{self.prefix}-{number:05d}-of-{self.n_files:05d}.gguf"

    @property
    def names(self) -> list[str]:
        return [self.name(number) for number in range(1, self.n_files + 1)]


def parse_split(file_name: str) -> Split | None:
    """None for the name of a file that is a whole model."""
    found = ENDING.search(file_name)
    if found is None or found.end() != len(file_name):
        return None
    number, n_files = int(found[1]), int(found[2])
    return Split(file_name[: found.start()], number, n_files) if 1 <= number <= n_files else None


def model_files(path: Path) -> list[Path]:
    """Every file of the model that a path belongs to, the first one first."""
    split = parse_split(path.name)
    if split is None or split.n_files == 1:
        return [path]
    return [path.with_name(name) for name in split.names]
