"""JSON files that came with a download: read whole, with one sentence for whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from localllm.errors import IntegrityError

MAX_BYTES = 1 << 26  # the largest tokenizer.json of a released model has 33 MB


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises: OSError, IntegrityError."""
    n_bytes = path.stat().st_size
    if n_bytes > MAX_BYTES:
        raise IntegrityError(f"{path.name} has {n_bytes} bytes, expected at most {MAX_BYTES}")
    return parse_json(path.read_bytes(), path.name)


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
    """The object that `raw` spells. where: the file, for errors."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=only_once)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise IntegrityError(f"{where} is not JSON: {reason}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{where} holds {kind_of(value)}, expected an object")
    return value


def only_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key may appear twice, as readers would differ in which one counts."""
    pairs = list(pairs)
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} appears twice")
    return made


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return f"{value}"[:24]
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    return "a list" if isinstance(value, list) else "an object"
