"""How many cores the engine takes: affinity, and the quotas of control groups of both versions."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hollow_models import Hollow, write_hollow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's")
MANY = 64


def quota_cores(internals: ctypes.CDLL, root: Path, files: dict[str, str]) -> int:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    internals.system_quota_cores.argtypes = (ctypes.c_char_p, ctypes.c_uint32)
    internals.system_quota_cores.restype = ctypes.c_uint32
    return int(internals.system_quota_cores(os.fsencode(root), MANY))


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
GROUPS = "proc/self/cgroup"
V1_GROUPS = "12:cpuset:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/c\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MANY),
        ({GROUPS: "0::/\n"}, MANY),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 2),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "10000 100000\n"}, 1),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, MANY),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "300000 100000\n"}, 3),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "max 1\n", f"{V2}/a/cpu.max": "2 1\n"}, 2),
        ({GROUPS: "0::/a/b\n", f"{V2}/a/b/cpu.max": "2 1\n", f"{V2}/a/cpu.max": "5 1\n"}, 2),
        (
            {
                GROUPS: V1_GROUPS,
                f"{V1}/a/b/cpu.cfs_quota_us": "-1\n",
                f"{V1}/a/b/cpu.cfs_period_us": "100000\n",
                f"{V1}/a/cpu.cfs_quota_us": "400000\n",
                f"{V1}/a/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                GROUPS: V1_GROUPS + "0::/\n",
                f"{V1}/cpu.cfs_quota_us": "50000\n",
                f"{V1}/cpu.cfs_period_us": "10000\n",
            },
            5,
        ),
        (
            {
                GROUPS: "9:cpuset:/a\n8:cpuacct:/a\n",
                f"{V1}/a/cpu.cfs_quota_us": "1\n",
                f"{V1}/a/cpu.cfs_period_us": "1\n",
            },
            MANY,
        ),
        # The mount of both controllers without the link that it usually has.
        (
            {
                GROUPS: V1_GROUPS,
                f"{V1},cpuacct/a/b/cpu.cfs_quota_us": "300000\n",
                f"{V1},cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        # A container that sees its own group as the root of the hierarchy.
        (
            {
                GROUPS: "4:cpu,cpuacct:/docker/ab\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({GROUPS: "0::/docker/ab\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        # The whole of a Kubernetes pod has less than its container.
        (
            {
                GROUPS: "0::/kubepods.slice/pod7.slice/cri-ab.scope\n",
                f"{V2}/kubepods.slice/pod7.slice/cri-ab.scope/cpu.max": "400000 100000\n",
                f"{V2}/kubepods.slice/pod7.slice/cpu.max": "150000 100000\n",
                f"{V2}/kubepods.slice/cpu.max": "max 100000\n",
            },
            2,
        ),
        # What says nothing: quotas that are more than there is, zero, garbage, nothing.
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "99999999999 100000\n"}, MANY),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "0 100000\n"}, MANY),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "200000 0\n"}, MANY),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": "two 100000\n"}, MANY),
        ({GROUPS: "0::/\n", f"{V2}/cpu.max": ""}, MANY),
        ({GROUPS: "", f"{V2}/cpu.max": "200000 100000\n"}, MANY),
        # Whose group is not said is held to the root's.
        ({GROUPS: "\n:\n0:\nx\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_quotas(
    internals: ctypes.CDLL, tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert quota_cores(internals, tmp_path, files) == expected


def test_affinity() -> None:
    core = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from localllm import _native; print(_native.machine()['n_cores'])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(output.stdout) == 1


def test_threads_follow_the_affinity(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "model.gguf", Hollow())
    core = min(os.sched_getaffinity(0))
    threads = []
    for program in ("import sys", f"import os, sys; os.sched_setaffinity(0, {{{core}}})"):
        program += "; from localllm.cli import app; sys.exit(app.main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, "fit", str(path), "--json"]
        ran = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        threads.append(json.loads(ran.stdout)["n_threads"])
    assert threads[1] == 1 <= threads[0] <= len(os.sched_getaffinity(0))
