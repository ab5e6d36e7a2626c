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
from localllm.units import format_bytes


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
    models = [describe(path, files) for path, files in by_model(folder)]
    if json:
        console.out_json({"path": str(folder), "models": models})
        return
    rows = [
        (m["model"], str(m["tokens"]), format_bytes(m["bytes"]), used(m["used_at"])) for m in models
    ]
    console.out_table(("MODEL", "TOKENS", "SIZE", "LAST USED"), rows)
    total = sum(m["bytes"] for m in models)
    console.out(f"{format_bytes(total)} in {folder}")


def by_model(folder: Path) -> list[tuple[Path, list[prefixes.Kept]]]:
    files = sorted(prefixes.kept_files(folder), key=lambda kept: kept.path.parent)
    return [
        (path, list(group)) for path, group in itertools.groupby(files, lambda k: k.path.parent)
    ]


def describe(path: Path, files: list[prefixes.Kept]) -> dict[str, Any]:
    n_blocks = sum(kept.path.suffix == prefixes.SUFFIX for kept in files)
    return {
        "model": prefixes.model_of(path),
        "tokens": n_blocks * prefixes.BLOCK_TOKENS,
        "bytes": sum(kept.n_bytes for kept in files),
        "used_at": max(kept.used_at for kept in files) / 1e9,
    }


def used(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
