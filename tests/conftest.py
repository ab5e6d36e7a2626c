"""What every test may ask for: the engine through ctypes, the data folder, the real models."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither find the user's settings and kept prompts nor leave any there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would every command that the
    tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def real_models() -> dict[str, Path]:
    """The real models by family, pulled into the user's own store where they are missing.

    $LOCALLLM_TEST_MODELS names another store; without a network the tests that ask for them skip.
    """
    from localllm.errors import NetworkError
    from localllm.models.resolve import resolve

    with pytest.MonkeyPatch.context() as patch:
        folder = os.environ.get("LOCALLLM_TEST_MODELS")
        if folder is not None:
            patch.setenv("XDG_DATA_HOME", folder)
        try:
            names = {"smollm2": "smollm2:135m", "gemma3": "gemma3:270m"}
            return {short: resolve(name) for short, name in names.items()}
        except NetworkError as error:
            pytest.skip(f"the real models cannot be pulled: {error}")


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose answers are written down in advance, by name; see scripted_models.py."""
    import scripted_models

    folder = tmp_path_factory.mktemp("scripts")
    return {
        name: scripted_models.write_script(script, folder / f"{name}.gguf")
        for name, script in scripted_models.SCRIPTS.items()
    }
