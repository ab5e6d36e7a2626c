"""The small text files in which the kernel describes a machine and a process."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """The file's text, empty where it cannot be read: what nobody can read says nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_fields(path: Path) -> dict[str, int]:
    """`key value` or `key: value kB` lines, as in meminfo, status and memory.stat."""
    fields: dict[str, int] = {}
    for line in read_text(path).splitlines():
        key, *values = line.replace(":", " ").split() or [""]
        number = parse_number(values[0]) if values else None
        if number is not None:
            fields[key] = number
    return fields


def parse_number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 32 else None
