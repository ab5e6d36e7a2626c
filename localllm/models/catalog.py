"""The names of models: models.toml read into entries, and how a name that was typed finds one."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.errors import ModelNotFoundError
from localllm.models.sources import Source, make_source

CATALOG_FILE = Path(__file__).parent.with_name("models.toml")
MAX_SUGGESTIONS = 5


@dataclass(frozen=True)
class Entry:
    """One model of the catalog; sha256 and n_bytes are None where nobody hashed the bytes.

    system: the system message it answers best with, where its template's own does it harm.
    """

    name: str
    about: str
    licence: str
    file: str
    source_rows: tuple[dict[str, Any], ...]
    sha256: str | None = None
    n_bytes: int | None = None
    system: str | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(make_source(row) for row in self.source_rows)


@functools.cache
def read() -> Mapping[str, Entry]:
    """Every entry by its name, in the file's order."""
    # A model that is here and called by its full name needs no catalog.
    import tomllib

    document = tomllib.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    return {
        row["name"]: Entry(source_rows=tuple(row.pop("sources")), **row)
        for row in document["model"]
    }


def match(typed: str, names: Collection[str]) -> str | None:
    """The one name that was meant: the name itself, or the only one that begins so."""
    wanted = typed.lower()
    by_lower = {name.lower(): name for name in names}
    if wanted in by_lower:
        return by_lower[wanted]
    found = [name for lower, name in by_lower.items() if wanted and lower.startswith(wanted)]
    if len(found) > 1:
        raise ModelNotFoundError(f"{typed!r} may mean {', '.join(sorted(found))}")
    return found[0] if found else None


def miss(typed: str, names: Collection[str]) -> ModelNotFoundError:
    """The error for a name that nothing matches, with the nearest names there are."""
    import difflib

    near = difflib.get_close_matches(typed.lower(), names, n=MAX_SUGGESTIONS, cutoff=0.5)
    said = f"; the nearest: {', '.join(near)}" if near else ""
    return ModelNotFoundError(f"there is no model {typed!r}{said}", "localllm list --all")
