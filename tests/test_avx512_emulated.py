"""The AVX-512 kernels return the scalar kernels' bits, also where no AVX-512 is at hand.

Their sources are compiled as they are, only with tests/emulated/immintrin.h in the place of the
compiler's header, which has SIMDe compute every intrinsic with other instructions. Then the tests
of test_kernels run once more, for the emulated kernels alone. A processor with AVX-512 runs the
real ones there; the emulation is tested all the same, as it is what other machines rely on.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import test_kernels
from native_structs import Kernels
from test_kernels import Engine
from test_kernels import engine as real_engine  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "native" / "kernels" / "avx512").glob("*.c"))
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-w", "-fwrapv", "-ffp-contract=off", "-fno-math-errno",
         "-D_GNU_SOURCE", "-mavx2", "-mfma", "-mf16c"]  # fmt: skip


@pytest.fixture(scope="module")
def emulated(internals: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The AVX-512 kernels as a library; what they call of the engine comes from `internals`."""
    simde = pytest.importorskip("simde_py", reason="SIMDe's headers (simde-py) are not installed")
    if platform.machine() not in ("x86_64", "AMD64") or not internals.isa_has_avx2():
        pytest.skip("the emulation needs a processor with AVX2")
    folder = tmp_path_factory.mktemp("avx512")
    compile_ = [os.environ.get("CC", "cc"), *FLAGS, "-I", str(ROOT / "tests" / "emulated"),
                "-I", simde.get_include(), "-I", str(ROOT / "native")]  # fmt: skip
    # Most of the compile time is SIMDe's, so it is compiled once, as a precompiled header.
    header = folder / "emulated.h"
    header.write_text("#include <immintrin.h>\n")
    subprocess.run([*compile_, "-x", "c-header", str(header), "-o", f"{header}.gch"], check=True)

    def compile_one(source: Path) -> str:
        to = str(folder / f"{source.stem}.o")
        include = ["-include", str(header)]
        subprocess.run([*compile_, *include, "-c", str(source), "-o", to], check=True)
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    library = folder / "avx512.so"
    link = [*compile_, "-shared", "-Wl,-Bsymbolic", *objects, internals._name, "-lm"]
    subprocess.run([*link, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def engine(real_engine: Engine, emulated: ctypes.CDLL) -> Engine:  # noqa: F811
    """What the tests of test_kernels ask for, with the emulated kernels as the only others."""
    return real_engine._replace(others=[Kernels.in_dll(emulated, "kernels_avx512")])


def test_the_list_and_the_emulation_agree(engine: Engine) -> None:
    """The emulated library holds the kernels that the engine has, each with the same functions."""
    listed = {k.name: k for k in test_kernels.kernels_list(engine.lib)}[b"avx512"]
    assert [bool(f) for f in listed.matmul] == [bool(f) for f in engine.others[0].matmul]


for _name, _test in vars(test_kernels).items():
    if _name.startswith("test_") and "engine" in _test.__code__.co_varnames:
        globals()[_name] = _test
