"""What the machine gives, what a run needs, and the verdict, before anything large is allocated.

The need comes from the engine's own plan, the one its allocator reads, so the two cannot drift
apart. Every limit that may bind is looked up and named: the memory the system can still give, each
cgroup from this process up to the root (file cache there counts as free: the kernel takes it back),
the address-space and data limits of the process, and the user's own budget. The tightest decides.
Files are read below an injectable root, so that any machine can be described by a folder.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from localllm.errors import DoesNotFitError
from localllm.units import format_bytes

if TYPE_CHECKING:
    from localllm.engines.base import EngineOptions, ModelFile, Plan

MIB = 1 << 20

RUNTIME_BYTES = 40 * MIB  # the interpreter, its modules and the libraries, all of it
GROWTH_BYTES = 12 * MIB  # what of that is still to come when the plan is made
STACK_BYTES = 8 * MIB  # address space of one thread's stack

UNLIMITED = 1 << 60  # above this a limit is a way of saying none (cgroup v1's is 2^63 - 4096)
MINIMUM_CONTEXT = 256
CONTEXT_STEP = 64

# Parts of a cgroup's memory that the kernel cannot take back, by the version of its memory.stat.
HELD_V2 = ("anon", "shmem", "unevictable", "slab_unreclaimable", "kernel_stack", "pagetables")
HELD_V1 = ("total_rss", "total_shmem", "total_unevictable")


@dataclass(frozen=True)
class Limit:
    """One bound on memory: its name, what is left below it, and which needs count against it."""

    name: str
    left_bytes: int
    counts_weights: bool = True
    counts_runtime: int = GROWTH_BYTES
    counts_stacks: bool = False

    def need(self, plan: Plan) -> int:
        """The bytes of this plan that this bound sees."""
        weights = plan.weight_bytes if self.counts_weights else 0
        stacks = STACK_BYTES * plan.n_threads if self.counts_stacks else 0
        return weights + plan.private_bytes + self.counts_runtime + stacks

    def spare(self, plan: Plan) -> int:
        return self.left_bytes - self.need(plan)


@dataclass(frozen=True)
class Verdict:
    """A plan held against every limit; `limit` is the one that binds."""

    plan: Plan
    limit: Limit | None

    @property
    def fits(self) -> bool:
        return self.limit is None or self.limit.spare(self.plan) >= 0


def find_limits(
    budget: int | None = None,
    root: Path = Path("/"),
    rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> list[Limit]:
    """Every bound on this process's memory that can be read; unreadable ones bind nothing."""
    limits = [*read_meminfo(root), *read_cgroups(root), *read_rlimits(root, rlimit)]
    if budget is not None:
        limits.append(Limit("--budget", budget, counts_runtime=RUNTIME_BYTES))
    return limits


def read_meminfo(root: Path) -> Iterator[Limit]:
    fields = read_fields(root / "proc/meminfo")
    available = fields.get("MemAvailable")
    if available is None and "MemFree" in fields:
        available = fields["MemFree"] + fields.get("Cached", 0)
    if available is not None:
        yield Limit("available memory", max(available, 0) * 1024)


def read_rlimits(root: Path, rlimit: Callable[[int], tuple[int, int]]) -> Iterator[Limit]:
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
            yield Limit(name, left, counts_weights=False, counts_stacks=True)


def read_cgroups(root: Path) -> Iterator[Limit]:
    """The memory limits of this process's cgroup and of each of its ancestors.

    A hybrid machine has both versions at once, so both are asked.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            for mount in find_mounts(root, "cgroup2"):
                yield from read_ancestors(root, mount, path, "memory.max", HELD_V2)
        elif "memory" in controllers.split(","):
            for mount in find_mounts(root, "cgroup", "memory"):
                yield from read_ancestors(root, mount, path, "memory.limit_in_bytes", HELD_V1)


@dataclass(frozen=True)
class Mount:
    point: str
    shown: str  # the folder of the hierarchy that this mount shows


def find_mounts(root: Path, kind: str, option: str | None = None) -> Iterator[Mount]:
    """Mounts of one file system in mountinfo, v1 ones by their controller."""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] != kind:
            continue
        if option is None or option in right[2].split(","):
            yield Mount(left[4], left[3])


def read_ancestors(
    root: Path, mount: Mount, path: str, file: str, held: tuple[str, ...]
) -> Iterator[Limit]:
    """Walks from a process's cgroup up to the mount, as far as the mount shows it."""
    inside = PurePosixPath(path)
    if inside.is_relative_to(mount.shown):
        inside = inside.relative_to(mount.shown)
    else:
        inside = PurePosixPath(".")
    parts = [part for part in inside.parts if part not in ("/", "..", ".")]
    for depth in range(len(parts), -1, -1):
        folder = root / mount.point.lstrip("/") / Path(*parts[:depth])
        limit = parse_number(read_text(folder / file))
        if limit is None or limit >= UNLIMITED:
            continue
        stat = read_fields(folder / "memory.stat")
        used = sum(stat.get(key, 0) for key in held)
        name = "/" + "/".join(parts[:depth])
        yield Limit(f"cgroup {name} ({file})", limit - used)


def read_text(path: Path) -> str:
    """The file's text, empty where it cannot be read: a bound nobody can read binds nobody."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_fields(path: Path) -> dict[str, int]:
    """`key value` or `key: value kB` lines, as in meminfo, status and memory.stat."""
    fields: dict[str, int] = {}
    for line in read_text(path).splitlines():
        key, *values = line.replace(":", " ").split() or [""]
        number = parse_number(values[0]) if values else None
        if number is not None:
            fields[key] = number
    return fields


def parse_number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 32 else None


def judge(plan: Plan, limits: list[Limit]) -> Verdict:
    """Holds a plan against the limit that leaves it the least."""
    return Verdict(plan, min(limits, key=lambda limit: limit.spare(plan), default=None))


def choose_options(
    file: ModelFile, options: EngineOptions, limits: list[Limit]
) -> tuple[EngineOptions, Verdict]:
    """Options whose plan fits. A context of 0 becomes the model's own, or the largest that fits.

    Raises: DoesNotFitError, with both numbers and what would fit.
    """
    own_ctx = int(file.info["n_ctx_train"])
    asked = replace(options, n_ctx=options.n_ctx or own_ctx)
    verdict = judge(file.plan(asked), limits)
    if verdict.fits:
        return asked, verdict
    largest = find_largest_context(file, asked, limits)
    if options.n_ctx == 0 and largest:
        bounded = replace(asked, n_ctx=largest)
        return bounded, judge(file.plan(bounded), limits)
    raise refusal(verdict, largest)


def find_largest_context(file: ModelFile, options: EngineOptions, limits: list[Limit]) -> int:
    """The largest context below the one asked whose plan fits, 0 where none does."""
    low, high = 0, (options.n_ctx - 1) // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        plan = file.plan(replace(options, n_ctx=middle * CONTEXT_STEP))
        if judge(plan, limits).fits:
            low = middle
        else:
            high = middle - 1
    largest = low * CONTEXT_STEP
    return largest if largest >= min(MINIMUM_CONTEXT, options.n_ctx) else 0


def refusal(verdict: Verdict, largest: int) -> DoesNotFitError:
    plan, limit = verdict.plan, verdict.limit
    assert limit is not None
    sentence = (
        f"this needs {format_bytes(limit.need(plan))} with a context of {plan.n_ctx}, "
        f"but {limit.name} leaves {format_bytes(max(limit.left_bytes, 0))}"
    )
    if largest:
        return DoesNotFitError(sentence, f"-c {largest}, the largest context that fits")
    return DoesNotFitError(sentence, "a smaller model, or a smaller quant of this one")
