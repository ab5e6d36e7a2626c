"""The files of a model that comes in several, gathered in a folder of their own.

Each is resumed and checked as download.py does it with one, and progress is shown as if they were
one. What an interrupted pull gathered is where the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from localllm.disk import require_space
from localllm.models.download import Expected, Fetched, claim_part, download
from localllm.models.sources import Progress, Remote


class Combined:
    """Progress of several files as if they were one."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self.progress, self.label, self.total = progress, label, total
        self.done_before = 0

    def start(self, label: str, total: int | None, done: int = 0) -> None:
        self.progress.start(self.label, self.total, self.done_before + done)

    def advance(self, n_bytes: int) -> None:
        self.progress.advance(n_bytes)

    def note(self, text: str) -> None:
        self.progress.note(text)

    def finish(self) -> None: ...


def gather(
    remote: Remote,
    names: Sequence[str],
    folder: Path,
    progress: Progress,
    accept: Callable[[Path, Remote], None],
) -> list[Fetched]:
    """Fetches every part of a model into a folder under these names, which may hold folders.

    A file that is there already is hashed again, never believed. Raises as download() does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / name for name in names]
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    require_space(folder, (remote.n_bytes or 0) - here)
    combined = Combined(progress, remote.file_name, remote.n_bytes)
    gathered = []
    try:
        for part, target in zip(remote.parts, targets, strict=True):
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                target.replace(claim_part(target, part.identity))

            def check(path: Path, fetched: Fetched, part: Remote = part) -> None:
                accept(path, part)

            expected = Expected(part.sha256, part.n_bytes)
            gathered.append(download(part, target, expected, combined, check))
            combined.done_before += gathered[-1].n_bytes
    finally:
        progress.finish()
    return gathered
