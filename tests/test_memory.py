"""The memory verdict: machines described by folders, the limit that binds, and what would fit."""

from __future__ import annotations

import mmap
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localllm
from localllm.engines.base import Plan
from localllm.engines.options import EngineOptions
from localllm.errors import DoesNotFitError, UsageError
from localllm.memory import process
from localllm.memory.limits import Counts, Limit, find_limits
from localllm.memory.need import (
    GROWTH_ANONYMOUS_BYTES,
    GROWTH_FILE_BYTES,
    GROWTH_RESERVED_BYTES,
    STACK_BYTES,
    STACK_TOUCHED_BYTES,
    TOKEN_BYTES,
    Extent,
    Kind,
    Need,
    need_of,
)
from localllm.memory.process import Usage
from localllm.memory.verdict import Fit, Verdict, choose_options, judge

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
    names = {
        "max": "memory.max",
        "high": "memory.high",
        "current": "memory.current",
        "stat": "memory.stat",
        "limit": "memory.limit_in_bytes",
        "usage": "memory.usage_in_bytes",
    }
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
    "no MemAvailable, much shared memory": (
        {"proc/meminfo": "MemFree: 1024 kB\nCached: 2048 kB\nShmem: 1536 kB\n"},
        [("available memory", 1536 * 1024)],
    ),
    "no overcommit": (
        {
            "proc/meminfo": MEMINFO + "CommitLimit: 4194304 kB\nCommitted_AS: 1048576 kB\n",
            "proc/sys/vm/overcommit_memory": "2\n",
        },
        [("available memory", 8 * GIB), ("commit limit", 3 * GIB)],
    ),
    "overcommit": (
        {
            "proc/meminfo": MEMINFO + "CommitLimit: 4194304 kB\nCommitted_AS: 9999999 kB\n",
            "proc/sys/vm/overcommit_memory": "0\n",
        },
        [("available memory", 8 * GIB)],
    ),
    "high alone": (
        {
            "proc/self/cgroup": "0::/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/app", max="max", high=GIB, stat="anon 4096\nfile 1"),
        },
        [("/app (memory.high)", GIB - 4096)],
    ),
    "high below max": (
        {
            "proc/self/cgroup": "0::/app\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/app", max=2 * GIB, high=GIB),
        },
        [("/app (memory.max)", 2 * GIB), ("/app (memory.high)", GIB)],
    ),
    "systemd slice": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-3.scope\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/user.slice/user-1000.slice/session-3.scope", max="max", high="max"),
            **cgroup("/user.slice/user-1000.slice", max=3 * GIB, stat="anon 1024\nshmem 1024"),
            **cgroup("/user.slice", max="max"),
        },
        [("available memory", 8 * GIB), ("/user-1000.slice (memory.max)", 3 * GIB - 2048)],
    ),
    "kubernetes without swap": (
        {
            "proc/meminfo": MEMINFO + "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
            "proc/self/cgroup": "0::/kubepods.slice/kubepods-pod7.slice/cri-containerd-ab.scope\n",
            "proc/self/mountinfo": "29 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            **cgroup("/kubepods.slice/kubepods-pod7.slice/cri-containerd-ab.scope", max=GIB),
            **cgroup("/kubepods.slice/kubepods-pod7.slice", max=2 * GIB),
            **cgroup("/kubepods.slice", max=12 * GIB),
            "sys/fs/cgroup/kubepods.slice/memory.swap.max": "0\n",
        },
        [
            ("available memory", 8 * GIB),
            ("/cri-containerd-ab.scope", GIB),
            ("/kubepods-pod7.slice (", 2 * GIB),
            ("/kubepods.slice (", 12 * GIB),
        ],
    ),
    "docker v1 without a namespace": (
        {
            "proc/self/cgroup": "9:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n",
            "proc/self/mountinfo": (
                "40 30 0:33 /docker/ab /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"
                "41 30 0:34 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
            ),
            **cgroup("/memory", limit=GIB, stat="rss 1\ntotal_rss 8192\ntotal_cache 7777777"),
        },
        [("cgroup / (memory.limit_in_bytes)", GIB - 8192)],
    ),
    "v1 sentinel everywhere": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/user\n",
            "proc/self/mountinfo": V1_MOUNT,
            **cgroup("/memory/user", limit=9223372036854771712, usage=1),
            **cgroup("/memory", limit=9223372036854771712, usage=2),
        },
        [("available memory", 8 * GIB)],
    ),
    "hybrid whose v2 has no memory": (
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "9:name=systemd:/\n4:memory:/process_api/de\n1:cpu:/\n0::/\n",
            "proc/self/mountinfo": V1_MOUNT + HYBRID_MOUNT,
            **cgroup("/memory/process_api/de", limit=9223372036854771712),
            "sys/fs/cgroup/unified/cgroup.controllers": "hugetlb\n",
        },
        [("available memory", 8 * GIB)],
    ),
    "v1 with swap and other controllers": (
        {
            "proc/self/cgroup": "7:memory,hugetlb:/a\n3:cpu:/b\n",
            "proc/self/mountinfo": (
                "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,hugetlb,memory\n"
            ),
            **cgroup("/memory/a", limit=GIB, usage=4096),
            "sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes": f"{4 * GIB}\n",
        },
        [("/a (memory.limit_in_bytes)", GIB - 4096)],
    ),
    "lxc with its own meminfo": (
        {
            "proc/meminfo": "MemTotal: 524288 kB\nMemFree: 4096 kB\nMemAvailable: 262144 kB\n",
            "proc/self/cgroup": "0::/lxc/box/init.scope\n",
            "proc/self/mountinfo": (
                "55 54 0:49 /lxc/box /sys/fs/cgroup rw shared:9 - cgroup2 none rw\n"
            ),
            **cgroup("", max=512 * MIB, stat="anon 1048576"),
        },
        [("available memory", 256 * MIB), ("cgroup / (memory.max)", 511 * MIB)],
    ),
    "no statistics": (
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/a", max=GIB, current=256 * MIB),
        },
        [("/a (memory.max)", 768 * MIB)],
    ),
    "no mountinfo": (
        {
            "proc/self/cgroup": "4:memory:/b\n0::/a\n",
            **cgroup("/a", max=GIB),
            **cgroup("/memory/b", limit=2 * GIB),
        },
        [("/b (memory.limit_in_bytes)", 2 * GIB), ("/a (memory.max)", GIB)],
    ),
    "a blank in the mount": (
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": "29 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw\n",
            "my groups/a/memory.max": f"{GIB}\n",
        },
        [("/a (memory.max)", GIB)],
    ),
    "full": (
        {
            "proc/self/cgroup": "0::/a\n",
            "proc/self/mountinfo": V2_MOUNT,
            **cgroup("/a", max=MIB, stat="anon 2097152"),
        },
        [("/a (memory.max)", -MIB)],
    ),
    "nonsense in every file": (
        {
            "proc/meminfo": "MemAvailable: lots kB\n:::\n kB\n",
            "proc/self/cgroup": "\n:\n::\n0:\nx:memory\n4:memory:\n0::relative\n",
            "proc/self/mountinfo": "- - -\n1 2 3\n - cgroup2\n" + V2_MOUNT + V1_MOUNT,
            **cgroup("", max="\x00", stat="anon many\n\nanon"),
            **cgroup("/relative", max="", high="-1"),
            **cgroup("/memory", limit="1e9", usage="0x10"),
        },
        [],
    ),
    "empty files": (
        {
            "proc/meminfo": "",
            "proc/self/cgroup": "",
            "proc/self/mountinfo": "",
            **cgroup("", max="", stat=""),
        },
        [],
    ),
    "android": (
        {
            "proc/meminfo": (
                "MemTotal:        7614632 kB\nMemFree:          193640 kB\n"
                "MemAvailable:    2457600 kB\nSwapTotal:       4194300 kB\nRbinTotal: 0 kB\n"
            ),
            "proc/self/cgroup": "3:cpuset:/top-app\n0::/uid_10234/pid_4711\n",
            "proc/self/mountinfo": "27 20 0:22 / /sys/fs/cgroup rw,relatime - cgroup2 none rw\n",
            "sys/fs/cgroup/uid_10234/pid_4711/cgroup.procs": "4711\n",
        },
        [("available memory", 2400 * MIB)],
    ),
    "jetson": (
        {
            "proc/meminfo": (
                "MemTotal:        7802816 kB\nMemFree:          512000 kB\n"
                "MemAvailable:    5242880 kB\nNvMapMemFree: 39936 kB\nNvMapMemUsed: 102400 kB\n"
            ),
            "proc/self/cgroup": "7:memory:/user.slice\n1:cpu:/\n0::/user.slice\n",
            "proc/self/mountinfo": V1_MOUNT + HYBRID_MOUNT,
            **cgroup("/memory/user.slice", limit=9223372036854771712),
        },
        [("available memory", 5 * GIB)],
    ),
}


@pytest.mark.parametrize("name", MACHINES)
def test_limits_of_a_machine(tmp_path: Path, name: str) -> None:
    files, expected = MACHINES[name]
    found = find_limits(root=describe(tmp_path, files), rlimit=no_rlimit)
    assert [limit.left_bytes for limit in found] == [left for _, left in expected]
    for limit, (part, _) in zip(found, expected, strict=True):
        assert part in limit.name


def test_what_cannot_be_read_binds_nobody(tmp_path: Path) -> None:
    """A folder in a file's place is what nobody can read, whoever runs this."""
    files = {"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": V2_MOUNT}
    root = describe(tmp_path, {**files, **cgroup("/a", high=GIB)})
    for name in ("proc/meminfo", "sys/fs/cgroup/a/memory.max", "sys/fs/cgroup/a/memory.stat"):
        (root / name).mkdir(parents=True)
    (limit,) = find_limits(root=root, rlimit=no_rlimit)
    assert (limit.name, limit.left_bytes) == ("cgroup /a (memory.high)", GIB)


def test_rlimits_count_what_the_process_has_already(tmp_path: Path) -> None:
    describe(tmp_path, {"proc/self/status": "VmSize:\t 1024 kB\nVmData:\t 512 kB\n"})

    def rlimit(which: int) -> tuple[int, int]:
        soft = {resource.RLIMIT_AS: 10 * MIB, resource.RLIMIT_DATA: 5 * MIB}[which]
        return soft, resource.RLIM_INFINITY

    address, data = find_limits(root=tmp_path, rlimit=rlimit)
    assert (address.left_bytes, data.left_bytes) == (9 * MIB, 5 * MIB - 512 * 1024)
    assert address.counts is data.counts is Counts.reserved


# ---- which bytes a limit sees ------------------------------------------------------------------

KV_PER_TOKEN = 1 << 16
PER_TOKEN = KV_PER_TOKEN + TOKEN_BYTES
BLOCK = 64 * KV_PER_TOKEN
WEIGHTS, HEADER, SCRATCH, TOKENIZER = 100 * MIB, 3 * MIB, MIB, 2 * MIB
BEFORE = Usage(anonymous_bytes=10 * MIB, file_bytes=5 * MIB, peak_bytes=15 * MIB)


class PlannedFile:
    """A model file that only plans. keeps: what of it a device keeps in memory of its own, for a
    number of tokens; None: it has none."""

    def __init__(self, keeps: Callable[[int], int] | None = None) -> None:
        self.keeps = keeps
        self.info = {
            "n_ctx_train": 8192,
            "weight_bytes": WEIGHTS,
            "token_bytes": WEIGHTS,
            "file_bytes": WEIGHTS + HEADER,
        }

    def plan(self, options: EngineOptions) -> Plan:
        return Plan(
            weight_bytes=WEIGHTS,
            kv_bytes=options.n_ctx * KV_PER_TOKEN,
            block_bytes=BLOCK,
            scratch_bytes=SCRATCH,
            scratch_touched_bytes=SCRATCH,
            logits_bytes=0,
            tables_bytes=0,
            tokenizer_bytes=TOKENIZER,
            importance_bytes=0,
            n_ctx=options.n_ctx,
            n_threads=2,
            device_bytes=self.keeps(options.n_ctx) if self.keeps else 0,
        )


def planned() -> Any:
    return PlannedFile()


def need(n_ctx: int, extent: Extent | None = None) -> Need:
    return need_of(planned(), EngineOptions(n_ctx=n_ctx), BEFORE, extent)


STACKS = 2 * STACK_TOUCHED_BYTES
TO_COME = SCRATCH + BLOCK + GROWTH_ANONYMOUS_BYTES + STACKS
WITH_FILES = TO_COME + WEIGHTS + GROWTH_FILE_BYTES
# The tokens whose KV takes what pages of files do, which a run can do without where it must.
DROPPED = (WEIGHTS + GROWTH_FILE_BYTES) // PER_TOKEN


def test_each_kind_of_limit_sees_its_bytes() -> None:
    kv = 64 * PER_TOKEN
    system, budget, data, device = (Limit("", 0, counts) for counts in Counts)
    wanted = need(64)
    assert system.need(wanted) == WITH_FILES + kv
    assert system.pinned(wanted) == TO_COME + kv
    everything = WITH_FILES + kv + HEADER + TOKENIZER + 15 * MIB
    assert budget.need(wanted) == budget.pinned(wanted) == everything
    assert data.need(wanted) == kv + SCRATCH + BLOCK + GROWTH_RESERVED_BYTES + STACK_BYTES
    assert device.need(wanted) == device.pinned(wanted) == 0


def test_less_is_touched_where_less_is_used() -> None:
    half = need(1024, Extent(n_positions=512, n_rows=100))
    kv = next(part for part in half.components if part.name == "kv cache")
    assert (kv.reserved_bytes, kv.touched_bytes) == (1024 * KV_PER_TOKEN, 512 * KV_PER_TOKEN)
    assert half.touched() == need(1024).touched() - 512 * PER_TOKEN
    assert half.missing_address_space() == need(1024).missing_address_space()


def test_only_the_rows_of_an_embedding_that_are_used_are_touched() -> None:
    file = planned()
    file.info["token_bytes"] = WEIGHTS - 40 * MIB
    for n_positions, n_bytes in ((16, 61 * MIB), (8192, WEIGHTS)):
        (weights, *_) = need_of(file, EngineOptions(n_ctx=n_positions)).components
        assert (weights.reserved_bytes, weights.touched_bytes) == (WEIGHTS, n_bytes)


# ---- the verdict -----------------------------------------------------------------------------


def choose(n_ctx: int, available: int, root: Path) -> tuple[EngineOptions, Verdict]:
    describe(root, {"proc/meminfo": f"MemAvailable: {-(-available // 1024)} kB\n"})
    limits = find_limits(root=root, rlimit=no_rlimit)
    return choose_options(planned(), EngineOptions(n_ctx=n_ctx), limits, BEFORE)


@pytest.mark.parametrize(
    ("asked", "available", "n_ctx", "fit"),
    [
        (0, 2 * GIB, 8192, Fit.fits),
        (0, WITH_FILES + 8192 * PER_TOKEN, 8192, Fit.fits),
        (0, WITH_FILES + 8192 * PER_TOKEN - 1024, 8128, Fit.fits),
        (0, WITH_FILES + 256 * PER_TOKEN, 256, Fit.fits),
        (4096, WITH_FILES + 4096 * PER_TOKEN, 4096, Fit.fits),
        (100, WITH_FILES + 100 * PER_TOKEN, 100, Fit.fits),
        # The weights do not stay in memory, the rest does.
        (4096, WITH_FILES + 4096 * PER_TOKEN - 1024, 4096, Fit.pages),
        (4096, TO_COME + 4096 * PER_TOKEN, 4096, Fit.pages),
        (0, WITH_FILES + 255 * PER_TOKEN, (DROPPED + 255) // 64 * 64, Fit.pages),
        (0, TO_COME + 300 * PER_TOKEN, 256, Fit.pages),
    ],
)
def test_the_context_that_is_chosen(
    tmp_path: Path, asked: int, available: int, n_ctx: int, fit: Fit
) -> None:
    options, verdict = choose(asked, available, tmp_path)
    assert (options.n_ctx, verdict.fit) == (n_ctx, fit)


@pytest.mark.parametrize(
    ("asked", "available", "hint"),
    [
        (8192, WITH_FILES + 1000 * PER_TOKEN, "-c 960"),
        (4096, TO_COME + 4096 * PER_TOKEN - 1024, f"-c {(4095 - DROPPED) // 64 * 64}"),
        (4096, TO_COME + 100 * PER_TOKEN, "smaller model"),
        (0, TO_COME + 255 * PER_TOKEN, "smaller model"),
        (0, 0, "smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    tmp_path: Path, asked: int, available: int, hint: str
) -> None:
    with pytest.raises(DoesNotFitError, match=r"needs .*iB.* leaves ") as raised:
        choose(asked, available, tmp_path)
    assert raised.value.hint is not None
    assert hint in raised.value.hint


def test_a_budget_is_never_paged() -> None:
    limit = Limit("--budget", need(64).touched(), Counts.resident)
    assert judge(need(64), [limit]).fit is Fit.fits
    assert judge(need(128), [limit]).fit is Fit.does_not_fit


def test_the_limit_with_the_worst_verdict_is_named(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/a\n",
        "proc/self/mountinfo": V2_MOUNT,
        **cgroup("/a", max=GIB),
    }
    limits = find_limits(budget=4 * GIB, root=describe(tmp_path, files), rlimit=no_rlimit)
    verdict = judge(need(64), limits)
    assert verdict.limit is not None
    assert "cgroup /a" in verdict.limit.name
    assert verdict.fits
    tight = [Limit("pages", WITH_FILES), Limit("refuses", WITH_FILES + MIB, Counts.resident)]
    verdict = judge(need(64), tight)
    assert verdict.limit is not None
    assert (verdict.fit, verdict.limit.name) == (Fit.does_not_fit, "refuses")


def test_where_no_limit_can_be_read_everything_fits() -> None:
    assert judge(need(1 << 20), []).fits


# ---- the real thing --------------------------------------------------------------------------


def test_a_budget_bounds_the_context_and_refuses_what_is_asked(
    scripts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "measure", lambda: BEFORE)  # this process grows meanwhile
    load: Callable[..., localllm.Model] = localllm.load
    with load(scripts["endless"], ctx=131072) as model:
        kv = next(part for part in model.need().components if part.name == "kv cache")
        budget = model.need().touched() - kv.touched_bytes // 2
    with load(scripts["endless"], budget=budget) as model:
        assert 256 <= model.engine.n_ctx < model.info["n_ctx_train"]
        fitting = model.engine.n_ctx
    with pytest.raises(DoesNotFitError, match="--budget") as raised:
        load(scripts["endless"], budget=budget, ctx=131072)
    assert raised.value.hint is not None
    found = re.search(rf"run {scripts['endless']} -c (\d+) ", raised.value.hint)
    assert found is not None
    offered = int(found[1])
    assert 0.9 * fitting < offered < fitting
    with load(scripts["endless"], budget=budget, ctx=131072, adapt=True) as model:
        assert (model.engine.n_ctx, model.verdict.fits) == (offered, True)
        assert model.adapted == f"a context of {offered} instead of 131072"
    with pytest.raises(DoesNotFitError):
        load(scripts["endless"], budget=MIB)
    with pytest.raises(DoesNotFitError):
        load(scripts["endless"], budget=MIB, adapt=True)
    with load(scripts["endless"], budget=MIB, ctx=512, allow_oversubscribe=True) as model:
        assert (model.engine.n_ctx, model.verdict.runs) == (512, False)


def test_usage_of_this_process() -> None:
    found = process.measure()
    assert found is not None
    total = found.anonymous_bytes + found.file_bytes
    assert 4 * MIB < found.anonymous_bytes < total <= found.peak_bytes + MIB
    assert process.measure(Path("/nowhere")) is None
    assert process.mapped_bytes([Path("/nowhere")]) == 0


def test_the_resident_part_of_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "with a space"
    path.write_bytes(bytes(8 * MIB))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert process.mapped_bytes([path]) == 0
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert process.mapped_bytes([path]) == 8 * MIB


# ---- a device with memory of its own -------------------------------------------------------------


def keeps(n_ctx: int) -> int:
    """The weights, and 1000 bytes a token."""
    return WEIGHTS + 1000 * n_ctx


def with_device(n_ctx: int) -> Need:
    file: Any = PlannedFile(keeps)
    return need_of(file, EngineOptions(n_ctx=n_ctx), BEFORE)


def test_a_devices_bytes_and_the_hosts_are_counted_apart() -> None:
    wanted, without = with_device(64), need(64)
    assert wanted.components[:-1] == without.components
    added = wanted.components[-1]
    assert (added.name, added.kind) == ("device memory", Kind.device)
    assert added.reserved_bytes == added.touched_bytes == WEIGHTS + 64_000
    for counts in Counts:
        limit = Limit("", 0, counts)
        expected = WEIGHTS + 64_000 if counts is Counts.device else limit.need(without)
        assert limit.need(wanted) == expected
        if counts is Counts.device:
            assert limit.pinned(wanted) == expected  # nothing of it is dropped for others
        else:
            assert limit.pinned(wanted) == limit.pinned(without)


@pytest.mark.parametrize(
    ("host", "device", "fit", "binds"),
    [
        (GIB, GIB, Fit.fits, "host"),
        (GIB, WEIGHTS + 64_000, Fit.fits, "device"),
        (GIB, WEIGHTS + 63_999, Fit.does_not_fit, "device"),
        (TO_COME + 64 * PER_TOKEN, GIB, Fit.pages, "host"),
        (MIB, WEIGHTS, Fit.does_not_fit, "host"),
    ],
)
def test_each_is_held_against_its_own_limit(host: int, device: int, fit: Fit, binds: str) -> None:
    limits = [Limit("host", host), Limit("device", device, Counts.device)]
    verdict = judge(with_device(64), limits)
    assert verdict.fit is fit and verdict.limit is not None and verdict.limit.name == binds


def test_the_context_is_what_the_device_has_room_for() -> None:
    file: Any = PlannedFile(keeps)
    limits = [Limit("host", 8 * GIB), Limit("memory of it", WEIGHTS + 2_000_000, Counts.device)]
    chosen, verdict = choose_options(file, EngineOptions(), limits, BEFORE)
    assert chosen.n_ctx == 1984 and verdict.fits
    with pytest.raises(DoesNotFitError, match=r"but memory of it leaves 101\.9 MiB") as caught:
        choose_options(file, EngineOptions(n_ctx=4096), limits, BEFORE)
    assert caught.value.hint is not None and "-c 1984" in caught.value.hint


def test_another_quant_is_another_copy_on_the_device() -> None:
    half = with_device(64).with_weights(WEIGHTS // 2)
    assert half.missing_bytes(Kind.device) == WEIGHTS // 2 + 64_000
    assert half.missing_bytes() == need(64).with_weights(WEIGHTS // 2).missing_bytes()


def test_a_device_without_memory_of_its_own_has_no_limit(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def info(name: str | None) -> dict[str, Any]:
        asked.append(name)
        total = 8 * GIB if name else 0
        return {"name": name or "cpu", "free_bytes": min(6 * GIB, total), "total_bytes": total}

    def find(device: str | None) -> list[Limit]:
        return find_limits(root=tmp_path, rlimit=no_rlimit, device_info=info, device=device)

    assert find(None) == []
    assert find("gpu") == [Limit("memory of device gpu", 6 * GIB, Counts.device)]
    assert asked == [None, "gpu"]
    assert find_limits(root=tmp_path, rlimit=no_rlimit) == []  # the processor, as it is
    with pytest.raises(UsageError, match='no device "abacus"'):
        find_limits(root=tmp_path, rlimit=no_rlimit, device="abacus")
