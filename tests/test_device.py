"""The seam between the engine and its device: what an engine is opened on, and what it does with a
device that fails, lacks something or has memory of its own; see device_fails.c."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, write_gguf

from localllm import _native, errors
from localllm.engines import native

BY_NAME = {model.name: model for model in TINY_MODELS}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with one layer group, and one with a second, which sees a window."""
    folder = tmp_path_factory.mktemp("device")
    found = {name: folder / f"{name}.gguf" for name in ("llama3", "gemma3")}
    for name, path in found.items():
        write_gguf(BY_NAME[name], path)
    return found


@pytest.fixture
def model(paths: dict[str, Path]) -> Iterator[_native.Model]:
    opened = _native.Model(str(paths["llama3"]))
    yield opened
    opened.close()


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
@pytest.mark.parametrize("case", ["step", "blocks", "lacks", "memory"])
def test_an_odd_device(case: str, name: str, paths: dict[str, Path]) -> None:
    program = ROOT / "build" / "internals" / "device_fails"
    if not program.exists():
        pytest.skip("this linker cannot put a device in the place of another")
    command = [program, case, paths[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout or done.returncode


def test_the_first_device_is_the_processor(model: _native.Model) -> None:
    for asked in (None, "cpu"):
        engine = _native.Engine(model, n_ctx=64, device=asked)
        assert (engine.device, engine.arithmetic) == ("cpu", "canonical-1")
        engine.close()
    assert model.plan(device="cpu") == model.plan()
    assert model.plan()["device_bytes"] == 0


def test_an_unknown_device_is_refused(model: _native.Model) -> None:
    said = 'no device "abacus"; there are cpu'
    with pytest.raises(_native.ArgumentError, match=said):
        _native.Engine(model, device="abacus")
    with pytest.raises(_native.ArgumentError, match=said):
        model.plan(device="abacus")
    with pytest.raises(errors.UsageError, match=said):
        native.device_info("abacus")


def test_kernels_are_refused_before_anything_is_opened(
    model: _native.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device chooses them, in its plan as when it opens."""
    with pytest.raises(_native.ArgumentError, match='no kernels "abacus" on this processor'):
        model.plan(kernels="abacus")
    monkeypatch.setenv("LOCALLLM_KERNELS", "abacus")
    with pytest.raises(_native.ArgumentError, match='no kernels "abacus" on this processor'):
        model.plan()
    with pytest.raises(_native.ArgumentError, match='no kernels "abacus" on this processor'):
        _native.Engine(model, n_ctx=64)
    monkeypatch.setenv("LOCALLLM_KERNELS", "scalar")
    engine = _native.Engine(model, n_ctx=64)
    assert engine.kernels == "scalar"


def test_the_processor_has_no_memory_of_its_own() -> None:
    assert native.device_info() == {"name": "cpu", "free_bytes": 0, "total_bytes": 0}
