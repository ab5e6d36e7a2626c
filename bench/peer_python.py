"""Finds or makes the Python that has the peer, llama-cpp-python compiled for this machine.

$LOCALLLM_PEER_PYTHON names one that exists; otherwise build/peer-venv is made, which compiles
llama.cpp from its source distribution (about ten minutes on two cores, once).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python"


def has_peer(python: Path) -> bool:
    command: list[str | Path] = [python, "-c", "import llama_cpp"]
    return subprocess.run(command, capture_output=True).returncode == 0


def get_peer_python() -> Path:
    named = os.environ.get("LOCALLLM_PEER_PYTHON")
    if named:
        if not has_peer(Path(named)):
            raise SystemExit(f"LOCALLLM_PEER_PYTHON={named} cannot import llama_cpp")
        return Path(named)
    folder = ROOT / "build" / "peer-venv"
    python = folder / "bin" / "python"
    if not (python.exists() and has_peer(python)):
        print(f"compiling {PACKAGE} in {folder} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-binary", PACKAGE, PACKAGE],
            check=True,
            env=os.environ | {"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
        )
    return python
