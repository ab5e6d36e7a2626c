"""What every test may ask for: the engine's internals through ctypes, the data folder, real models."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


class ErrorStruct(ctypes.Structure):
    """ll_error of native/localllm.h."""

    _fields_ = (
        ("code", ctypes.c_int),
        ("offset", ctypes.c_uint64),
        ("message", ctypes.c_char * 512),
    )


@pytest.fixture(scope="session")
def internals() -> ctypes.CDLL:
    """The engine as a shared library with every function visible; `make test` builds it."""
    default = ROOT / "build" / "internals" / "liblocalllm_internals.so"
    return ctypes.CDLL(os.environ.get("LOCALLLM_INTERNALS", str(default)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Vocabularies and chat templates of real models, where they lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data folder at {SHARED_DATA}")
    return SHARED_DATA
