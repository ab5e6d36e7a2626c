"""The AVX-VNNI kernels return the scalar kernels' bits, also where no AVX-VNNI is at hand.

Their sources are compiled once more with another name for vpdpbusd: once as AVX-512 encodes it,
for processors that have that encoding alone, and once made of AVX2 instructions. Then the tests of
test_kernels run again, for these kernels alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import pytest
import test_kernels
from native_structs import QUANTS, Kernels
from test_kernels import Engine
from test_kernels import engine as real_engine  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "native" / "kernels" / "avx2vnni").glob("*.c"))
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-w", "-ffp-contract=off", "-fno-math-errno",
         "-D_GNU_SOURCE", "-mavx2", "-mfma", "-mf16c", "-shared", "-Wl,-Bsymbolic"]  # fmt: skip
WAYS = {
    "avx512": ["-mavx512vl", "-mavx512vnni", "-DSTEP_DPBUSD=_mm256_dpbusd_epi32"],
    "avx2": ["-include", str(ROOT / "tests" / "emulated" / "dpbusd.h")],
}


@pytest.fixture(scope="module", params=list(WAYS))
def compiled(
    request: pytest.FixtureRequest, internals: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """The kernels as a library; what they call of the engine comes from `internals`."""
    way: str = request.param
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not an x86 processor")
    if not getattr(internals, f"isa_has_{way}")():
        pytest.skip(f"no {way} on this processor")
    library = tmp_path_factory.mktemp("avx2vnni") / f"{way}.so"
    compile_ = [os.environ.get("CC", "cc"), *FLAGS, *WAYS[way], "-I", str(ROOT / "native")]
    sources = [str(source) for source in SOURCES]
    subprocess.run([*compile_, *sources, internals._name, "-lm", "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def engine(real_engine: Engine, compiled: ctypes.CDLL) -> Engine:  # noqa: F811
    """What the tests of test_kernels ask for, with these kernels as the only others."""
    return real_engine._replace(others=[Kernels.in_dll(compiled, "kernels_avx2_vnni")])


def test_every_quant_has_its_kernel(engine: Engine) -> None:
    """As many as AVX2 has, and none of the integer ones is borrowed from there."""
    listed = {k.name: k for k in test_kernels.kernels_list(engine.lib)}
    avx2, ours = listed[b"avx2"].matmul, engine.others[0].matmul
    assert [bool(f) for f in avx2] == [bool(f) for f in ours]
    for name, theirs, function in zip(QUANTS, avx2, ours, strict=True):
        assert (theirs == function) == (name in ("F32", "F16", "BF16")), name


test_matmul = test_kernels.test_matmul
test_long_rows_and_many_rows = test_kernels.test_long_rows_and_many_rows
