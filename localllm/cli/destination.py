"""What convert and quantize look at before they work for minutes: where the file is to go."""

from __future__ import annotations

from pathlib import Path

from localllm.errors import UsageError


def check_destination(destination: Path, force: bool) -> None:
    if destination.is_dir():
        raise UsageError(f"OUT {str(destination)!r} is a folder, expected a file")
    if destination.exists() and not force:
        raise UsageError(f"{str(destination)!r} is there already", "--force, or another -o")
    if not destination.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {str(destination.parent)!r}")
