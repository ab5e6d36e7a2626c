"""Finds or makes the Python that has the peer, llama-cpp-python compiled for one instruction set.

$LOCALLLM_PEER_PYTHON (or $LOCALLLM_PEER_AVX2_PYTHON) names one that exists; otherwise an
environment is made under build/, which compiles llama.cpp from its source distribution (about ten
minutes on two cores, once).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"


@dataclass(frozen=True)
class PeerBuild:
    folder: str
    variable: str
    cmake_arguments: str
    kernels: str | None  # what ours is held to beside it; None: its best


BUILDS = {
    "native": PeerBuild("peer-venv", "LOCALLLM_PEER_PYTHON", "-DGGML_NATIVE=ON", None),
    "avx2": PeerBuild(
        "peer-avx2-venv",
        "LOCALLLM_PEER_AVX2_PYTHON",
        "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON "
        "-DGGML_BMI2=ON -DGGML_AVX512=OFF -DGGML_AVX_VNNI=OFF",
        "avx2",
    ),
}


def has_peer(python: Path) -> bool:
    command: list[str | Path] = [python, "-c", "import llama_cpp"]
    return subprocess.run(command, capture_output=True).returncode == 0


def get_peer_python(isa: str) -> Path:
    build = BUILDS[isa]
    named = os.environ.get(build.variable)
    if named:
        if not has_peer(Path(named)):
            raise SystemExit(f"{build.variable}={named} cannot import llama_cpp")
        return Path(named)
    folder = ROOT / "build" / build.folder
    python = folder / "bin" / "python"
    if not (python.exists() and has_peer(python)):
        print(f"compiling {PACKAGE} in {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run(
            [*install, "--no-binary", PACKAGE, PACKAGE],
            check=True,
            env=os.environ | {"CMAKE_ARGS": build.cmake_arguments},
        )
    return python
