"""Pulling a split model: several GGUF files that are one.

They move into the models' folder only when the engine has read them as a whole; the manifest, which
lists every file, is written before the first one moves and counts only once all are there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from localllm.errors import IntegrityError
from localllm.models.checks import require_magic, require_readable
from localllm.models.download import sync_folder
from localllm.models.gather import gather
from localllm.models.sources import Progress, Remote
from localllm.models.sources.remote import safe_file_name
from localllm.models.sources.split import parse_split
from localllm.models.store import SplitPart, Stored, free_name, now, read_manifest, write_manifest


def pull_split(remote: Remote, kind: str, folder: Path, progress: Progress) -> Stored:
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
            SplitPart(name, fetched.n_bytes, fetched.sha256)
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
