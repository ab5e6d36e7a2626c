"""The memory verdict: machines described by folders, the limit that binds, and what would fit."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localllm
from localllm.engines.base import EngineOptions, Plan
from localllm.errors import DoesNotFitError
from localllm.memory import GROWTH_BYTES, RUNTIME_BYTES, choose_options, find_limits, judge

MIB = 1 << 20
GIB = 1 << 30

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNT = "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
HYBRID_MOUNT = "34 32 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
DOCKER_MOUNT = "29 23 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup ro\n"
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 100 kB\nMemAvailable: 8388608 kB\n"

Files = dict[str, str]


def no_rlimit(which: int) -> tuple[int, int]:
    return resource.RLIM_INFINITY, resource.RLIM_INFINITY


def describe(root: Path, files: Files) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def cgroup(path: str, **files: object) -> Files:
    names = {"max": "memory.max", "stat": "memory.stat", "limit": "memory.limit_in_bytes"}
    return {f"sys/fs/cgroup{path}/{names[key]}": f"{text}\n" for key, text in files.items()}


# name -> (files, the limits found: a part of the name, bytes left)
MACHINES: dict[str, tuple[Files, list[tuple[str, int]]]] = {
    "plain": ({"proc/meminfo": MEMINFO}, [("available memory", 8 * GIB)]),
    "old kernel": (
        {"proc/meminfo": "MemFree: 1024 kB\nCached: 2048 kB\n"},
        [("available memory", 3 * MIB)],
    ),
    "negative": ({"proc/meminfo": "MemAvailable: -5 kB\nMemFree: 4 kB\n"}, [("available", 4096)]),
    "garbage": ({"proc/meminfo": "MemAvailable:\n\x00\xff ???\nMemTotal\n"}, []),
    "nothing": ({}, []),
    "v2": (
        {
            "proc/self/cgroup": "0::/user/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/user/app", max=2 * GIB, stat="anon 1048576\nfile 999999999\nshmem 1024"),
        },
        [("/user/app (memory.max)", 2 * GIB - MIB - 1024)],
    ),
    "v2 ancestor": (
        {
            "proc/self/cgroup": "0::/slice/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/slice/app", max="max"),
            **cgroup("/slice", max=GIB, stat="anon 0"),
        },
        [("/slice (memory.max)", GIB)],
    ),
    "both bind": (
        {
            "proc/self/cgroup": "0::/slice/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/slice/app", max=3 * GIB),
            **cgroup("/slice", max=2 * GIB),
        },
        [("/slice/app", 3 * GIB), ("/slice (", 2 * GIB)],
    ),
    "v1": (
        {
            "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu:/\n",
            "proc/self/mountinfo": V1_MOUNT,
            **cgroup("/memory/docker/ab", limit=GIB, stat="cache 99\ntotal_rss 4096"),
            **cgroup("/memory", limit=9223372036854771712),
        },
        [("/docker/ab (memory.limit_in_bytes)", GIB - 4096)],
    ),
    "hybrid": (
        {
            "proc/self/cgroup": "4:memory:/box/1\n0::/\n",
            "proc/self/mountinfo": V1_MOUNT + HYBRID_MOUNT,
            **cgroup("/memory/box/1", limit=9223372036854771712),
            **cgroup("/memory/box", limit=GIB),
        },
        [("/box (memory.limit_in_bytes)", GIB)],
    ),
    "container with its own view": (
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("", max=512 * MIB),
        },
        [("cgroup / (memory.max)", 512 * MIB)],
    ),
    "container mount": (
        {
            "proc/self/cgroup": "0::/docker/ab/app\n",
            "proc/self/mountinfo": DOCKER_MOUNT,
            **cgroup("/app", max=256 * MIB),
            **cgroup("", max=512 * MIB),
        },
        [("/app", 256 * MIB), ("cgroup / ", 512 * MIB)],
    ),
    "outside the mount": (
        {"proc/self/cgroup": "0::/../../x\n", "proc/self/mountinfo": V2_MOUNT},
        [],
    ),
    "huge number": (
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/a", max="9" * 40),
        },
        [],
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_limits_of_a_machine(tmp_path: Path, name: str) -> None:
    files, expected = MACHINES[name]
    found = find_limits(root=describe(tmp_path, files), rlimit=no_rlimit)
    assert [limit.left_bytes for limit in found] == [left for _, left in expected]
    for limit, (part, _) in zip(found, expected, strict=True):
        assert part in limit.name


def test_rlimits_count_what_the_process_has_already(tmp_path: Path) -> None:
    describe(tmp_path, {"proc/self/status": "VmSize:\t 1024 kB\nVmData:\t 512 kB\n"})

    def rlimit(which: int) -> tuple[int, int]:
        soft = {resource.RLIMIT_AS: 10 * MIB, resource.RLIMIT_DATA: 5 * MIB}[which]
        return soft, resource.RLIM_INFINITY

    address, data = find_limits(root=tmp_path, rlimit=rlimit)
    assert (address.left_bytes, data.left_bytes) == (9 * MIB, 5 * MIB - 512 * 1024)
    assert not address.counts_weights


def test_the_budget_counts_the_whole_process(tmp_path: Path) -> None:
    (limit,) = find_limits(budget=GIB, root=tmp_path, rlimit=no_rlimit)
    plan = make_plan(100)
    assert limit.name == "--budget"
    assert limit.need(plan) == plan.weight_bytes + plan.private_bytes + RUNTIME_BYTES


# ---- the verdict -----------------------------------------------------------------------------

KV_PER_TOKEN = 1 << 16


def make_plan(n_ctx: int) -> Plan:
    return Plan(
        weight_bytes=100 * MIB,
        kv_bytes=n_ctx * KV_PER_TOKEN,
        scratch_bytes=MIB,
        logits_bytes=0,
        tables_bytes=0,
        n_ctx=n_ctx,
        n_threads=2,
    )


class PlannedFile:
    """A model file that only plans."""

    def __init__(self) -> None:
        self.info = {"n_ctx_train": 8192}

    def plan(self, options: EngineOptions) -> Plan:
        return make_plan(options.n_ctx)


def choose(n_ctx: int, available: int, root: Path) -> tuple[EngineOptions, Any]:
    describe(root, {"proc/meminfo": f"MemAvailable: {available // 1024} kB\n"})
    limits = find_limits(root=root, rlimit=no_rlimit)
    file: Any = PlannedFile()
    return choose_options(file, EngineOptions(n_ctx=n_ctx), limits)


FIXED = 101 * MIB + GROWTH_BYTES


@pytest.mark.parametrize(
    ("asked", "available", "n_ctx"),
    [
        (0, 2 * GIB, 8192),
        (0, FIXED + 8192 * KV_PER_TOKEN, 8192),
        (0, FIXED + 8192 * KV_PER_TOKEN - 1024, 8128),
        (0, FIXED + 256 * KV_PER_TOKEN, 256),
        (4096, FIXED + 4096 * KV_PER_TOKEN, 4096),
        (100, FIXED + 100 * KV_PER_TOKEN, 100),
    ],
)
def test_the_context_that_is_chosen(tmp_path: Path, asked: int, available: int, n_ctx: int) -> None:
    options, verdict = choose(asked, available, tmp_path)
    assert options.n_ctx == n_ctx
    assert verdict.fits


@pytest.mark.parametrize(
    ("asked", "available", "hint"),
    [
        (4096, FIXED + 4096 * KV_PER_TOKEN - 1024, "-c 4032"),
        (8192, FIXED + 1000 * KV_PER_TOKEN, "-c 960"),
        (0, FIXED + 255 * KV_PER_TOKEN, "smaller model"),
        (0, 0, "smaller model"),
        (4096, 50 * MIB, "smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, asked: int, available: int, hint: str
) -> None:
    with pytest.raises(DoesNotFitError, match=r"needs .*iB.* leaves ") as raised:
        choose(asked, available, tmp_path)
    assert raised.value.hint is not None
    assert hint in raised.value.hint


def test_the_tightest_limit_is_named(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/a\n",
        "proc/self/mountinfo": V2_MOUNT,
        **cgroup("/a", max=GIB),
    }
    limits = find_limits(budget=4 * GIB, root=describe(tmp_path, files), rlimit=no_rlimit)
    verdict = judge(make_plan(64), limits)
    assert verdict.limit is not None
    assert "cgroup /a" in verdict.limit.name


def test_where_no_limit_can_be_read_everything_fits() -> None:
    assert judge(make_plan(1 << 20), []).fits


# ---- the real thing --------------------------------------------------------------------------


def test_a_budget_bounds_the_context_and_refuses_what_is_asked(scripts: dict[str, Path]) -> None:
    load: Callable[..., localllm.Model] = localllm.load
    with load(scripts["endless"], budget=100 * MIB) as model:
        assert 256 <= model.engine.n_ctx < model.info["n_ctx_train"]
        fitting = model.engine.n_ctx
    with pytest.raises(DoesNotFitError, match="--budget") as raised:
        load(scripts["endless"], budget=100 * MIB, ctx=131072)
    assert raised.value.hint is not None
    assert f"-c {fitting}" in raised.value.hint
    with pytest.raises(DoesNotFitError):
        load(scripts["endless"], budget=MIB)
