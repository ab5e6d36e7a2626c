"""A models.toml: read, and every row checked, since people write their own.

A row needs a name and its sources. A source is what one would type (`hf:org/repo:Q4_K_M`,
`pypi:package`, `https://…`), or a table with its kind and the fields of that kind's class.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.errors import UsageError
from localllm.models.sources import SOURCES, Source, make_source, parse_name

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(:[a-z0-9._-]+)?", re.ASCII)
FILE = re.compile(r"[\w-][\w.-]*\.gguf", re.ASCII)
HASH = re.compile(r"[0-9a-f]{64}")
# What a row may say beside its sources: the type, and what else it must be.
FIELDS: dict[str, tuple[type, str, re.Pattern[str] | None]] = {
    "name": (str, "a name like family:size", NAME),
    "about": (str, "a text", None),
    "licence": (str, "a text", None),
    "file": (str, "the name of a .gguf file", FILE),
    "system": (str, "a text", None),
    "sha256": (str, "64 hexadecimal digits", HASH),
    "n_bytes": (int, "a number of bytes", None),
}


@dataclass(frozen=True)
class Entry:
    """One model of a catalog. What a row need not say is None or empty.

    file: its name in the store. system: the system message it answers best with, where its
    template's own does it harm. sha256, n_bytes: of the bytes, whichever source they come from.
    """

    name: str
    file: str
    source_rows: tuple[dict[str, Any] | str, ...]
    about: str = ""
    licence: str | None = None
    sha256: str | None = None
    n_bytes: int | None = None
    system: str | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources in the order in which they are tried. Raises: UsageError."""
        return tuple(make_one(row, self.name) for row in self.source_rows)


def make_one(row: dict[str, Any] | str, name: str) -> Source:
    """The source of the model `name` that a row describes. Raises: UsageError."""
    try:
        source = parse_name(row) if isinstance(row, str) else make_source(row)
        spelled = source and parse_name(source.name)
    except TypeError as error:
        raise UsageError(f"{row!r} of {name} lacks a field of its kind, or has others") from error
    if source is None or spelled is None:
        raise UsageError(f"{row!r} of {name} is not a place that a model comes from")
    return source


def read_file(path: Path) -> list[Entry]:
    """The entries of a models.toml. Raises: UsageError that names file and row; OSError."""
    where = repr(str(path))
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{where} is not TOML: {reason}") from error
    rows = document.pop("model", [])
    if document or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{where} may hold [[model]] tables, and nothing else")
    entries = [read_row(row, f"model {i} in {where}") for i, row in enumerate(rows, start=1)]
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{where} names {twice!r} twice")
    return entries


def read_row(row: dict[str, Any], where: str) -> Entry:
    """Raises: UsageError."""
    sources = row.pop("sources", None)
    for key in ("name", *row):
        if key not in FIELDS:
            raise UsageError(f"{where} has {key!r}, expected sources or {', '.join(FIELDS)}")
        kind, expected, form = FIELDS[key]
        value: Any = row.get(key)
        if type(value) is not kind or (form is not None and not form.fullmatch(str(value))):
            found = repr(value) if key in row else "missing"
            raise UsageError(f"{key} of {where} is {found}, expected {expected}")
    if not isinstance(sources, list) or not sources:
        raise UsageError(f"sources of {where} is {sources!r}, expected a list of at least one")
    for source in sources:
        check_source(source, where)
    row.setdefault("file", row["name"].replace(":", "-") + ".gguf")
    return Entry(source_rows=tuple(sources), **row)


def check_source(source: Any, where: str) -> None:
    """What can be checked without the module of the source, which `list` does not import.

    Raises: UsageError.
    """
    if isinstance(source, str):
        return
    if not isinstance(source, dict) or source.get("kind") not in list(SOURCES):
        raise UsageError(
            f"a source of {where} is {source!r}, expected a text or a table whose kind is one of "
            f"{', '.join(SOURCES)}"
        )
    for key, value in source.items():
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{key} of a source of {where} is {value!r}, expected text")
