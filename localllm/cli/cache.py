"""`localllm cache`: the prefixes of prompts that are kept on the disk."""

from __future__ import annotations

import enum
import itertools
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.answer import prefixes
from localllm.cli import console
from localllm.cli.flags import Json, Quiet
from localllm.engines.native import kv_format
from localllm.units import format_bytes

_, BLOCK_TOKENS = kv_format()  # of a file: no other engine's KV leaves it


class What(enum.StrEnum):
    ls = "ls"
    clear = "clear"


def command(
    what: Annotated[What, typer.Argument(help="ls or clear.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what is kept of prompts, or remove all of it."""
    folder = prefixes.cache_folder()
    if what is What.clear:
        n_bytes = prefixes.clear(folder)
        if json:
            console.out_json({"path": str(folder), "removed_bytes": n_bytes})
        elif not quiet:
            console.note(f"removed {format_bytes(n_bytes)}")
        return
    models = [describe(path, blocks) for path, blocks in by_model(folder)]
    if json:
        console.out_json({"path": str(folder), "models": models})
        return
    rows = [
        (m["model"], str(m["tokens"]), format_bytes(m["bytes"]), used(m["used_at"])) for m in models
    ]
    console.out_table(("MODEL", "TOKENS", "SIZE", "LAST USED"), rows)
    total = sum(m["bytes"] for m in models)
    console.out(f"{format_bytes(total)} in {folder}")


def by_model(folder: Path) -> list[tuple[Path, list[prefixes.SavedBlock]]]:
    blocks = sorted(prefixes.saved_blocks(folder), key=lambda block: block.path.parent)
    return [
        (path, list(group)) for path, group in itertools.groupby(blocks, lambda b: b.path.parent)
    ]


def describe(path: Path, blocks: list[prefixes.SavedBlock]) -> dict[str, Any]:
    n_blocks = sum(block.path.suffix == prefixes.SUFFIX for block in blocks)
    return {
        "model": prefixes.model_of(path),
        "tokens": n_blocks * BLOCK_TOKENS,
        "bytes": sum(block.n_bytes for block in blocks),
        "used_at": max(block.used_at for block in blocks) / 1e9,
    }


def used(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
