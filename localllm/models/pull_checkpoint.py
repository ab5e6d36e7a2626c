"""Pulling a quant that nobody published: its checkpoint is fetched and converted.

The checkpoint's files wait in the caches until the converted file is in the models' folder, so an
interrupted pull fetches nothing twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from localllm.disk import require_space
from localllm.folders import caches_folder
from localllm.models.checks import require_readable
from localllm.models.download import sync_folder
from localllm.models.gather import gather
from localllm.models.quants import BY_NAME
from localllm.models.sources import Progress, Remote
from localllm.models.store import Stored, free_name, now, write_manifest
from localllm.units import format_bytes

READ_BYTES = 1 << 20


def pull_converted(
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
    checkpoint = download_checkpoint(remote, progress)
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


def download_checkpoint(remote: Remote, progress: Progress) -> Path:
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
