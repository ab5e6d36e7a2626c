"""Models that come in several files: a split GGUF, or a checkpoint that is converted.

All files are gathered in a folder of their own first, each resumed and checked as fetch.py does it
with one. A split model moves into the models' folder only when the engine has read it as a whole;
its manifest, which lists every file, is written before the first one moves and counts only once all
are there. What an interrupted pull gathered, or moved, is where the next one goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from localllm.errors import IntegrityError
from localllm.folders import caches_folder
from localllm.models.checks import free_name, require_magic, require_readable
from localllm.models.download import (
    Expected,
    Fetched,
    claim_part,
    fetch,
    require_space,
    sync_folder,
)
from localllm.models.quants import BY_NAME
from localllm.models.sources import Progress, Remote
from localllm.models.sources.remote import safe_file_name
from localllm.models.sources.split import parse_split
from localllm.models.store import Part, Stored, read_manifest, write_manifest
from localllm.units import format_bytes

READ_BYTES = 1 << 20


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

    A file that is there already is hashed again, never believed. Raises as fetch() does.
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
            gathered.append(fetch(part, target, expected, combined, check))
            combined.done_before += gathered[-1].n_bytes
    finally:
        progress.finish()
    return gathered


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- split models --------------------------------------------------------------------------------


def fetch_split(remote: Remote, kind: str, folder: Path, progress: Progress) -> Stored:
    names = split_names(folder, remote)
    gathering = gathering_folder(folder, remote)
    take_back(folder, names, gathering, remote.name)

    def accept(path: Path, part: Remote) -> None:
        require_magic(path, part.origin)

    gathered = gather(remote, names, gathering, progress, accept)
    try:
        require_readable(gathering / names[0], remote.origin, progress)
    except IntegrityError:
        shutil.rmtree(gathering)
        raise
    stored = Stored(
        name=remote.name,
        path=folder / names[0],
        n_bytes=sum(fetched.n_bytes for fetched in gathered),
        verified=all(fetched.verified for fetched in gathered),
        licence=remote.licence,
        source=kind,
        origin=remote.origin,
        revision=remote.revision,
        pulled_at=now(),
        parts=tuple(
            Part(name, fetched.n_bytes, fetched.sha256)
            for name, fetched in zip(names, gathered, strict=True)
        ),
    )
    write_manifest(stored)
    for path in stored.paths:
        (gathering / path.name).replace(path)
    sync_folder(folder)
    shutil.rmtree(gathering)
    return stored


def split_names(folder: Path, remote: Remote) -> list[str]:
    """Plain names for the store with the endings that the engine finds the files by."""
    split = parse_split(remote.file_name)
    assert split is not None, "a model of several files has a split one's names"
    prefix = safe_file_name(split.prefix).removesuffix(".gguf")
    first = free_name(folder, split._replace(prefix=prefix).name(1), remote.name)
    chosen = parse_split(first)
    return chosen.names if chosen else []


def gathering_folder(folder: Path, remote: Remote) -> Path:
    """A hidden folder for the bytes of this revision; those of others of the model go."""
    owner = hashlib.sha256(remote.name.encode()).hexdigest()[:12]
    identities = "\n".join(part.identity or "" for part in remote.parts)
    mine = folder / f".split-{owner}-{hashlib.sha256(identities.encode()).hexdigest()[:12]}"
    for other in folder.glob(f".split-{owner}-*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    mine.mkdir(exist_ok=True)
    return mine


def take_back(folder: Path, names: Sequence[str], gathering: Path, owner: str) -> None:
    """Gathers again what an earlier pull of this very model had moved into the folder."""
    manifest = read_manifest(folder / names[0])
    if manifest is None or manifest.name != owner:
        return
    for name in names:
        if (folder / name).is_file():
            (folder / name).replace(gathering / name)


# ---- checkpoints ---------------------------------------------------------------------------------


def fetch_converted(
    remote: Remote, kind: str, folder: Path, work: Path, progress: Progress
) -> Stored:
    """Makes the GGUF of a quant from a checkpoint, which is kept in the caches meanwhile."""
    from localllm.convert.from_checkpoint import convert_checkpoint

    quant = remote.convert_to or ""
    size = format_bytes(remote.n_bytes) if remote.n_bytes else "of unknown size"
    progress.note(
        f"{remote.origin} has no GGUF file of quant {quant}: fetching its safetensors ({size}) "
        "to convert them"
    )
    require_space(folder, int((remote.n_bytes or 0) * BY_NAME[quant].bits / 16))
    checkpoint = fetch_checkpoint(remote, progress)
    path = folder / free_name(folder, remote.file_name, remote.name)
    made = work / path.name
    progress.note(f"converting {remote.origin} to {quant}")
    name = remote.origin.rsplit("/", 1)[-1]
    convert_checkpoint(checkpoint, made, quant, name=name, progress=progress)
    require_readable(made, str(made), progress)
    stored = Stored(
        name=remote.name,
        path=path,
        n_bytes=made.stat().st_size,
        sha256=hash_file(made),
        licence=remote.licence,
        source=kind,
        origin=f"{remote.origin}, converted",
        revision=remote.revision,
        pulled_at=now(),
    )
    write_manifest(stored)
    made.replace(path)
    sync_folder(folder)
    shutil.rmtree(checkpoint)
    return stored


def fetch_checkpoint(remote: Remote, progress: Progress) -> Path:
    """The folder with all files of a checkpoint; whoever has used it removes it."""
    folder = checkpoint_folder(remote)
    names = [part.file_name for part in remote.parts]
    gather(remote, names, folder, progress, lambda path, part: None)
    return folder


def checkpoint_folder(remote: Remote) -> Path:
    """Where a checkpoint's files wait, for each quant its own: two pulls of different quants do not
    know of each other. What waits of other revisions goes."""
    plain = remote.origin.removeprefix("hf:").replace("/", "--")
    waiting = caches_folder() / "checkpoints"
    mine = waiting / f"{plain}-{remote.convert_to}-{(remote.revision or 'none')[:12]}"
    for other in waiting.glob(f"{plain}-{remote.convert_to}-*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    return mine


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
        os.fsync(file.fileno())
    return digest.hexdigest()
