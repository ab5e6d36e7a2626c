"""Every allocation of the engine refused in turn; see allocations_fail.c."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from golden.tiny_models import TINY_MODELS, write_gguf

BY_NAME = {model.name: model for model in TINY_MODELS}


@pytest.mark.parametrize(
    ("name", "split_tensors"), [("llama3", 0), ("llama2-linear", 0), ("gemma3", 0), ("qwen3", 9)]
)
def test_each_refusal_is_an_error_and_nothing_leaks(
    name: str, split_tensors: int, tmp_path: Path
) -> None:
    program = ROOT / "build" / "internals" / "allocations_fail"
    if not program.exists():
        pytest.skip("this linker cannot catch the engine's allocations")
    write_gguf(BY_NAME[name], tmp_path / "tiny.gguf", split_tensors)
    path = next(path for path in sorted(tmp_path.glob("*.gguf")))
    done = subprocess.run([program, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout) > 40, "so many allocations are refused, one at a time"
