"""The models that are here: plain files with readable names.

Beside each `model.gguf` lies a manifest `model.gguf.json` that says where it came from. A manifest
is written before its file gets its name, and counts only while a file of the right size is there,
so whatever is listed is whole. Files of anybody else in the folder are listed too and left alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localllm.folders import data_folder
from localllm.models import catalog
from localllm.models.sources.split import model_files, parse_split

MANIFEST_SUFFIX = ".json"


@dataclass(frozen=True)
class SplitPart:
    """One file of a split model, in the models' folder."""

    file: str
    n_bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Stored:
    """One model on the disk. What nobody knows is None."""

    name: str
    path: Path
    n_bytes: int
    sha256: str | None = None
    verified: bool = False
    licence: str | None = None
    source: str | None = None
    origin: str | None = None
    revision: str | None = None
    pulled_at: str | None = None
    parts: tuple[SplitPart, ...] = ()
    """The files of a split model, the first of which is `path`; n_bytes is theirs together."""

    @property
    def paths(self) -> list[Path]:
        """Every file of the model."""
        return [self.path.with_name(part.file) for part in self.parts] or [self.path]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


# What a manifest may say; another version's may say more, which is left alone.
FIELDS = frozenset(Stored.__dataclass_fields__)


def models_folder() -> Path:
    """$XDG_DATA_HOME/localllm/models."""
    return data_folder() / "models"


# ---- what is here --------------------------------------------------------------------------------


def stored_models() -> Mapping[str, Stored]:
    """Every whole model in the folder by its name, sorted."""
    folder = models_folder()
    files = sorted(folder.glob("[!.]*.gguf")) if folder.is_dir() else []
    models = [read_stored(path) for path in files if path.is_file()]
    return {model.name: model for model in sorted(filter(None, models), key=lambda m: m.name)}


def read_stored(path: Path) -> Stored | None:
    """The model at a path of the folder; None where the file is not what its manifest says."""
    manifest = read_manifest(path)
    if manifest is None:
        return adopt(path)
    if not manifest.parts:
        return manifest if manifest.n_bytes == path.stat().st_size else None
    sizes = [size_of(part) for part in manifest.paths]
    return manifest if sizes == [part.n_bytes for part in manifest.parts] else None


def size_of(path: Path) -> int | None:
    """None where there is no such file."""
    return path.stat().st_size if path.is_file() else None


def adopt(path: Path) -> Stored | None:
    """A file that somebody put here: the catalog's where it has its name and size. A split model
    is its first file, once all are there."""
    files = model_files(path)
    if len(files) > 1:
        parts = [SplitPart(file.name, file.stat().st_size) for file in files if file.is_file()]
        if path != files[0] or len(parts) < len(files):
            return None
        split = parse_split(path.name)
        n_bytes = sum(part.n_bytes for part in parts)
        return Stored(split.prefix if split else path.stem, path, n_bytes, parts=tuple(parts))
    n_bytes = path.stat().st_size
    for entry in catalog.read().values():
        if entry.file == path.name and entry.n_bytes in (None, n_bytes):
            return Stored(entry.name, path, n_bytes, licence=entry.licence)
    return Stored(path.stem, path, n_bytes)


def find_system(path: Path) -> str | None:
    """The system message that the catalog wants for a model of this folder, None for any other.

    Asked of the catalog each time, not kept in the manifest, so that a better one reaches models
    that were pulled before.
    """
    manifest = read_manifest(path)
    entry = catalog.read().get(manifest.name) if manifest else None
    return entry.system if entry else None


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + MANIFEST_SUFFIX)


def read_manifest(path: Path) -> Stored | None:
    """The manifest beside a model; None where there is none that can be read."""
    try:
        fields = json.loads(manifest_path(path).read_text(encoding="utf-8"))
        known = {key: value for key, value in fields.items() if key in FIELDS}
        parts = tuple(read_part(part) for part in known.pop("parts", ()))
        model = Stored(**{**known, "path": path, "parts": parts})
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return None
    return model if isinstance(model.name, str) and isinstance(model.n_bytes, int) else None


def read_part(fields: dict[str, Any]) -> SplitPart:
    """Raises ValueError for what is no name of a file in the folder."""
    file = fields["file"]
    if not isinstance(file, str) or Path(file).name != file or file[:1] in ("", "."):
        raise ValueError(file)
    return SplitPart(file, int(fields["n_bytes"]), fields.get("sha256"))


def now() -> str:
    """The time, as a manifest's `pulled_at` has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def write_manifest(model: Stored) -> None:
    """Writes the manifest so that at every moment the old or the new one is there."""
    path = manifest_path(model.path)
    fields = {key: value for key, value in model.to_json().items() if key != "path"}
    # Named as download.py names its partial files, so the next pull clears what a dead one left.
    partial = path.with_name(f".{model.path.name}.part-{os.getpid()}-manifest")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(fields, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def free_name(folder: Path, file: str, name: str) -> str:
    """The file's name, with a mark where another model has it already."""
    path = folder / file
    owner = read_manifest(path)
    if owner.name == name if owner else not path.exists():
        return file
    import hashlib  # costs every start 2 ms, and only pulling comes here

    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    split = parse_split(file)
    if split:
        return split._replace(prefix=f"{split.prefix}-{mark}").name(split.number)
    return f"{path.stem}-{mark}{path.suffix}"


# ---- changing what is here -----------------------------------------------------------------------


def remove_model(model: Stored) -> None:
    """Deletes a stored model: its files first, so that a manifest alone never counts as one."""
    for path in model.paths:
        path.unlink(missing_ok=True)
    manifest_path(model.path).unlink(missing_ok=True)
