"""How much memory this process may still take: every bound that can be read, each with its name.

The memory the system can still give, each cgroup from this process up to the root (file cache there
counts as free: the kernel takes it back), the address-space and data limits of the process, what a
device has free of memory of its own, and the user's own budget. Files are read below an injectable
root, so that any machine can be described by a folder.
"""

from __future__ import annotations

import enum
import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from localllm.engines import native
from localllm.memory.need import Kind
from localllm.memory.proc_files import parse_number, read_fields, read_text

if TYPE_CHECKING:
    from localllm.memory.need import Need

UNLIMITED = 1 << 60  # above this a limit is a way of saying none (cgroup v1's is 2^63 - 4096)

NO_OVERCOMMIT = 2  # every reserved page counts, used or not


class Counts(enum.Enum):
    """Which bytes a bound sees."""

    missing = enum.auto()  # what becomes resident from here on; pages of files can be dropped
    resident = enum.auto()  # the whole process, nothing of which is dropped for it
    reserved = enum.auto()  # anonymous address space from here on, touched or not
    device = enum.auto()  # what is taken of a device's own memory, and nothing else


@dataclass(frozen=True)
class Limit:
    """One bound on memory: its name, what is left below it, and which bytes it sees."""

    name: str
    left_bytes: int
    counts: Counts = Counts.missing

    def need(self, need: Need) -> int:
        """The bytes of a need that this bound sees."""
        if self.counts is Counts.missing:
            return need.missing_bytes()
        if self.counts is Counts.device:
            return need.missing_bytes(Kind.device)
        return need.touched() if self.counts is Counts.resident else need.missing_address_space()

    def pinned(self, need: Need) -> int:
        """Those of them that stay when memory is short."""
        return (
            need.missing_bytes(Kind.anonymous) if self.counts is Counts.missing else self.need(need)
        )

    def spare(self, need: Need) -> int:
        return self.left_bytes - self.need(need)


def find_limits(
    budget: int | None = None,
    root: Path = Path("/"),
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
    device_info: Callable[[str | None], dict[str, Any]] = native.device_info,
    device: str | None = None,
) -> list[Limit]:
    """Every bound on this process's memory that can be read; unreadable ones bind nothing.

    device: as in EngineOptions. Raises: UsageError where there is none of that name, EngineError
    where it does not answer.
    """
    limits = [*read_meminfo(root), *read_cgroups(root), *read_rlimits(rlimit, root)]
    limits += read_device(device_info(device))
    if budget is not None:
        limits.append(Limit("--budget", budget, Counts.resident))
    return limits


def read_meminfo(root: Path) -> Iterator[Limit]:
    fields = read_fields(root / "proc/meminfo")
    available = fields.get("MemAvailable")
    if available is None and "MemFree" in fields:  # before Linux 3.14
        cached = fields.get("Cached", 0) - fields.get("Shmem", 0)
        available = fields["MemFree"] + max(0, cached)
    if available is not None:
        yield Limit("available memory", available * 1024)
    if parse_number(read_text(root / "proc/sys/vm/overcommit_memory")) == NO_OVERCOMMIT:
        left = fields.get("CommitLimit", UNLIMITED) - fields.get("Committed_AS", 0)
        yield Limit("commit limit (vm.overcommit_memory)", left * 1024, Counts.reserved)


def read_rlimits(
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit, root: Path = Path("/")
) -> Iterator[Limit]:
    """The file is mapped by the time a plan exists, so VmSize holds the weights already."""
    status = read_fields(root / "proc/self/status")
    rows = (
        ("address-space limit (ulimit -v)", resource.RLIMIT_AS, "VmSize"),
        ("data limit (ulimit -d)", resource.RLIMIT_DATA, "VmData"),
    )
    for name, which, used in rows:
        soft, _ = rlimit(which)
        if soft != resource.RLIM_INFINITY and soft < UNLIMITED:
            left = soft - status.get(used, 0) * 1024
            yield Limit(name, left, Counts.reserved)


def read_device(info: dict[str, Any]) -> Iterator[Limit]:
    """What a device with memory of its own has free; the host's is bounded by the others."""
    if info["total_bytes"]:
        yield Limit(f"memory of device {info['name']}", info["free_bytes"], Counts.device)


@dataclass(frozen=True)
class Hierarchy:
    """A version of control groups: where it is, and the files that speak of memory.

    held: the parts of memory.stat that the kernel cannot take back.
    """

    file_system: str
    option: str | None
    usual_mount: str
    limits: tuple[str, ...]
    current: str
    held: tuple[str, ...]


V2 = Hierarchy(
    "cgroup2",
    None,
    "/sys/fs/cgroup",
    # Above memory.high nothing is killed, but whoever allocates is held up until it sinks.
    ("memory.max", "memory.high"),
    "memory.current",
    ("anon", "shmem", "unevictable", "slab_unreclaimable", "kernel_stack", "pagetables"),
)
V1 = Hierarchy(
    "cgroup",
    "memory",
    "/sys/fs/cgroup/memory",
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_rss", "total_shmem", "total_unevictable"),
)


def read_cgroups(root: Path) -> Iterator[Limit]:
    """The memory limits of this process's cgroup and of each of its ancestors.

    A hybrid machine has both versions at once, so both are asked.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        hierarchy = V2 if controllers == "" else V1
        if hierarchy is V2 or "memory" in controllers.split(","):
            for mount in find_mounts(root, hierarchy):
                yield from read_ancestors(root, mount, path, hierarchy)


@dataclass(frozen=True)
class Mount:
    point: str
    shown: str  # the folder of the hierarchy that this mount shows


def find_mounts(root: Path, hierarchy: Hierarchy) -> Iterator[Mount]:
    """Where a hierarchy is mounted; the usual place where nothing says."""
    text = read_text(root / "proc/self/mountinfo")
    if not text:
        yield Mount(hierarchy.usual_mount, "/")
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] != hierarchy.file_system:
            continue
        if hierarchy.option is None or hierarchy.option in right[2].split(","):
            yield Mount(unescape(left[4]), unescape(left[3]))


def unescape(path: str) -> str:
    """mountinfo writes blanks in paths as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def read_ancestors(root: Path, mount: Mount, path: str, hierarchy: Hierarchy) -> Iterator[Limit]:
    """Walks from a process's cgroup up to the mount, as far as the mount shows it."""
    inside = PurePosixPath(path)
    if inside.is_relative_to(mount.shown):
        inside = inside.relative_to(mount.shown)
    else:
        inside = PurePosixPath(".")
    parts = [part for part in inside.parts if part not in ("/", "..", ".")]
    for depth in range(len(parts), -1, -1):
        folder = root / mount.point.lstrip("/") / Path(*parts[:depth])
        for file in hierarchy.limits:
            limit = parse_number(read_text(folder / file))
            if limit is not None and limit < UNLIMITED:
                name = "/" + "/".join(parts[:depth])
                yield Limit(f"cgroup {name} ({file})", limit - read_held(folder, hierarchy))


def read_held(folder: Path, hierarchy: Hierarchy) -> int:
    """The bytes of a cgroup that stay; all it has, where nothing tells the cache apart."""
    stat = read_fields(folder / "memory.stat")
    if not stat:
        return parse_number(read_text(folder / hierarchy.current)) or 0
    return sum(stat.get(key, 0) for key in hierarchy.held)
