"""What it costs that weights do not stay in memory: every token reads them from the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from localllm import disk
from localllm.units import format_bytes

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile
    from localllm.memory.verdict import Verdict


def tokens_per_second(file: ModelFile, path: Path) -> float | None:
    """What the disk allows: its measured rate over the bytes a token reads. Memory is used in turn
    from the first layer to the last, which drops each page just before it is wanted again, so what
    does stay is not counted on. None where the disk tells nothing.
    """
    rate = disk.read_rate(path)
    return None if rate is None else rate / file.info["token_bytes"]


def describe(verdict: Verdict, file: ModelFile) -> str:
    """The sentence for a run whose weights will page."""
    assert verdict.limit is not None
    speed = tokens_per_second(file, file.path)
    told = "" if speed is None else f", about {speed:.2g} tokens/s by what the disk reads"
    return (
        f"the weights ({format_bytes(file.info['weight_bytes'])}) will be read from the disk for "
        f"every token{told}: {verdict.limit.name} leaves "
        f"{format_bytes(max(0, verdict.limit.left_bytes))}"
    )
