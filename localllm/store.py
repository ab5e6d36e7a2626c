"""The models that are here: plain files with readable names, and the way a name becomes a path.

Beside each `model.gguf` lies a manifest `model.gguf.json` that says where it came from. A manifest
is written before its file gets its name, and counts only while a file of the right size is there,
so whatever is listed is whole. Files of anybody else in the folder are listed too and left alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localllm import catalog
from localllm.errors import (
    DoesNotFitError,
    IntegrityError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.fetch import Expected, Fetched, fetch, is_alive, sync_folder
from localllm.sources import Local, Progress, Remote, Silent, Source, parse_name

MANIFEST_SUFFIX = ".json"
LOCK_POLL_SECONDS = 0.1
MAGIC = b"GGUF"


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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Pulled:
    model: Stored
    was_here: bool


@dataclass(frozen=True)
class Request:
    """What a name asks for: where to look for it, and what the catalog knows beforehand."""

    name: str
    sources: tuple[Source, ...]
    file: str | None = None
    licence: str | None = None
    expected: Expected = field(default_factory=Expected)


def models_folder() -> Path:
    """$XDG_DATA_HOME/localllm/models; a relative variable does not count."""
    base = os.environ.get("XDG_DATA_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "localllm" / "models"


# ---- what is here --------------------------------------------------------------------------------


def stored_models() -> Mapping[str, Stored]:
    """Every whole model in the folder by its name, sorted."""
    folder = models_folder()
    files = sorted(folder.glob("[!.]*.gguf")) if folder.is_dir() else []
    models = [read_stored(path) for path in files if path.is_file()]
    return {model.name: model for model in sorted(filter(None, models), key=lambda m: m.name)}


def read_stored(path: Path) -> Stored | None:
    """The model at a path of the folder; None where the file is not what its manifest says."""
    n_bytes = path.stat().st_size
    manifest = read_manifest(path)
    if manifest is None:
        return adopt(path, n_bytes)
    return manifest if manifest.n_bytes == n_bytes else None


def adopt(path: Path, n_bytes: int) -> Stored:
    """A file that somebody put here: the catalog's where it has its name and size."""
    for entry in catalog.read().values():
        if entry.file == path.name and entry.n_bytes in (None, n_bytes):
            return Stored(entry.name, path, n_bytes, licence=entry.licence)
    return Stored(path.stem, path, n_bytes)


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + MANIFEST_SUFFIX)


def read_manifest(path: Path) -> Stored | None:
    """The manifest beside a model; None where there is none that can be read."""
    try:
        fields = json.loads(manifest_path(path).read_text(encoding="utf-8"))
        return Stored(**{**fields, "path": path})
    except (OSError, ValueError, TypeError):
        return None


def write_manifest(model: Stored) -> None:
    """Writes the manifest so that at every moment the old or the new one is there."""
    path = manifest_path(model.path)
    fields = {key: value for key, value in model.to_json().items() if key != "path"}
    partial = path.with_name(f".{path.name}.part-{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(fields, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def find_stored(name: str) -> Stored | None:
    """The stored model that a name means, by the rules of resolve(); None where none is."""
    models = stored_models()
    if name in models:
        return models[name]
    if parse_name(name) is None:
        known = full_name(name)
        return models.get(known)
    # hf:org/repo stands for hf:org/repo:QUANT, and pypi:package for pypi:package==version.
    longer = [known for known in models if known.startswith((f"{name}:", f"{name}=="))]
    return models[longer[0]] if len(longer) == 1 else None


def full_name(typed: str) -> str:
    """The name that was meant: an exact one, else a beginning that fits one model that is here,
    else one that fits one model of the catalog."""
    here, known = stored_models(), catalog.read()
    if typed in here or typed in known:
        return typed
    found = catalog.match(typed, here) or catalog.match(typed, known)
    if found is None:
        raise catalog.miss(typed, [*known, *here])
    return found


# ---- from a name to a path -----------------------------------------------------------------------


def resolve(
    name: str,
    *,
    pull: bool = True,
    offline: bool = False,
    source: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The file of a model: a path is taken as it is; a name that is not here is pulled first.

    Raises ModelNotFoundError where it is not here and `pull` is False or `offline` is True.
    """
    local = Local.parse(name)
    if local is not None:
        return local.find(models_folder(), Silent()).here or local.path
    stored = find_stored(name)
    if stored is not None:
        return stored.path
    if offline or not pull:
        raise ModelNotFoundError(f"{name} is not on this machine", f"localllm pull {name}")
    return pull_model(name, source=source, progress=progress).model.path


def pull_model(
    name: str,
    *,
    offline: bool = False,
    source: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Brings a model here unless it is, from its first source that can be reached.

    Raises NetworkError where none can, or where it is not here and `offline` is True.
    """
    progress = progress if progress is not None else Silent()
    local = Local.parse(name)
    if local is not None:
        return Pulled(describe_local(local), was_here=True)
    request = make_request(name, source)
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, request.name, progress):
        stored = find_stored(name)
        if stored is not None:
            return Pulled(stored, was_here=True)
        if offline:
            raise NetworkError(
                f"{request.name} is not on this machine, and --offline forbids to fetch it"
            )
        with work_folder(folder) as work:
            return Pulled(fetch_from_any(request, folder, work, progress), was_here=False)


def describe_local(local: Local) -> Stored:
    remote = local.find(models_folder(), Silent())
    require_readable(local.path, Silent())
    path = remote.here or local.path
    return Stored(remote.name, path, remote.n_bytes or 0, source=local.kind, origin=remote.origin)


def make_request(name: str, only: str | None) -> Request:
    """The sources of a name, or the one of them that was chosen."""
    spelled = parse_name(name)
    if spelled is not None:
        request = Request(name, (spelled,))
    else:
        known = full_name(name)
        entry = catalog.read().get(known)
        if entry is None:
            return Request(known, ())
        request = Request(
            entry.name,
            entry.sources,
            entry.file,
            entry.licence,
            Expected(entry.sha256, entry.n_bytes),
        )
    if only is None:
        return request
    chosen = tuple(source for source in request.sources if source.kind == only)
    if not chosen:
        kinds = ", ".join(source.kind for source in request.sources)
        raise UsageError(f"{request.name} has no source {only!r}; it has {kinds}")
    return replace(request, sources=chosen)


def fetch_from_any(request: Request, folder: Path, work: Path, progress: Progress) -> Stored:
    """Tries the sources in order; only one that cannot be reached lets the next one try."""
    failures: list[NetworkError] = []
    for source in request.sources:
        if failures:
            progress.note(f"{failures[-1]}; trying {source.kind}")
        try:
            return fetch_from(source, request, folder, work, progress)
        except NetworkError as error:
            failures.append(error)
        finally:
            progress.finish()
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(str(failure) for failure in failures)
    raise NetworkError(f"no source of {request.name} could be reached: {reasons}")


def fetch_from(
    source: Source, request: Request, folder: Path, work: Path, progress: Progress
) -> Stored:
    remote = source.find(work, progress)
    expected = merge_expected(request, remote)
    name = request.name if request.file else remote.name
    path = folder / free_name(folder, request.file or remote.file_name, name)

    def describe(fetched: Fetched) -> Stored:
        return Stored(
            name=name,
            path=path,
            n_bytes=fetched.n_bytes,
            sha256=fetched.sha256,
            verified=fetched.verified,
            licence=request.licence or remote.licence,
            source=source.kind,
            origin=remote.origin,
            revision=remote.revision,
            pulled_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def accept(part: Path, fetched: Fetched) -> None:
        require_readable(part, progress)
        write_manifest(describe(fetched))

    return describe(fetch(remote, path, expected, progress, accept))


def merge_expected(request: Request, remote: Remote) -> Expected:
    """The catalog's word and the source's; where both have one they must agree."""
    for ours, theirs in (
        (request.expected.sha256, remote.sha256),
        (request.expected.n_bytes, remote.n_bytes),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            raise IntegrityError(
                f"{remote.origin} is {theirs} now, but the catalog knows {ours}",
                f"localllm pull {request.name} --source, with another source",
            )
    return Expected(
        request.expected.sha256 or remote.sha256, request.expected.n_bytes or remote.n_bytes
    )


def free_name(folder: Path, file: str, name: str) -> str:
    """The file's name, with a mark where another model has it already."""
    path = folder / file
    owner = read_manifest(path)
    if owner.name == name if owner else not path.exists():
        return file
    mark = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{path.stem}-{mark}{path.suffix}"


def require_magic(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(MAGIC):
        is_page = re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE)
        raise IntegrityError(f"what came is {'a web page, ' if is_page else ''}not a GGUF file")


def require_readable(path: Path, progress: Progress) -> None:
    """Opens a file as the engine would. One that is sound but asks for what this engine does not
    have is kept, since other programs may run it."""
    require_magic(path)
    try:
        from localllm import _native
    except ImportError:
        return
    try:
        _native.Model(str(path)).close()
    except _native.UnsupportedError as error:
        progress.note(f"kept, but this engine cannot run it: {error}")
    except _native.MemoryError as error:
        raise DoesNotFitError(str(error)) from error
    except _native.Error as error:
        raise IntegrityError(f"what came is not a usable GGUF file: {error}") from error


# ---- changing what is here -----------------------------------------------------------------------


def remove_model(model: Stored) -> None:
    """Deletes a stored model: its file first, so that a manifest alone never counts as one."""
    model.path.unlink(missing_ok=True)
    manifest_path(model.path).unlink(missing_ok=True)
    sync_folder(model.path.parent)


@contextmanager
def lock(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Lets one process at a time bring a model here; it frees itself when its holder dies."""
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:100]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    with (folder / f".{plain}-{digest}.lock").open("w") as file:
        waiting = False
        while not try_lock(file.fileno()):
            if not waiting:
                progress.note(f"another process is fetching {name}; waiting for it")
                waiting = True
            time.sleep(LOCK_POLL_SECONDS)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks; fetch.py is right without them, only wasteful.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder for what a source must put down meanwhile; those of dead processes go."""
    for path in folder.glob(".work-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and int(owner) != os.getpid() and not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
