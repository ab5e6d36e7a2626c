"""What a file must be to enter the models' folder."""

from __future__ import annotations

import re
from pathlib import Path

from localllm import engines
from localllm.errors import IntegrityError
from localllm.models.sources import Progress

MAGIC = b"GGUF"


def require_magic(path: Path, origin: str) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(MAGIC):
        is_page = re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE)
        raise IntegrityError(f"{origin} is {'a web page, ' if is_page else ''}not a GGUF file")


def require_readable(path: Path, origin: str, progress: Progress) -> None:
    """Opens a file as the engine will. One that is sound but asks for what this engine does not
    have is kept, since other programs may run it."""
    require_magic(path, origin)
    try:
        engines.open_model(path).close()
    except IntegrityError as error:
        if getattr(error.__cause__, "code", None) != "unsupported":
            raise IntegrityError(f"{origin} is not a usable GGUF file: {error}") from error
        progress.note(f"kept, but this engine cannot run it: {error}")
