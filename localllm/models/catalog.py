"""The catalog: the names of models, the user's own before ours, and how a typed name finds one."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import ModelNotFoundError, UsageError
from localllm.folders import config_folder

if TYPE_CHECKING:
    from localllm.models.catalog_file import Entry

FILE_NAME = "models.toml"
MAX_SUGGESTIONS = 5


def read() -> Mapping[str, Entry]:
    """Every entry by its name: the user's own, which go before ours, then ours in the file's order.

    Raises: UsageError where the user's file cannot be understood.
    """
    return merge(shipped_file(), own_file())


@functools.cache
def merge(shipped: Path, own: Path | None) -> Mapping[str, Entry]:
    # A model that is here and called by its full name needs no catalog.
    from localllm.models.catalog_file import read_file

    files = [shipped] if own is None else [own, shipped]
    merged: dict[str, Entry] = {}
    for entry in (entry for path in files for entry in read_file(path)):
        merged.setdefault(entry.name, entry)
    return merged


def shipped_file() -> Path:
    """Ours: inside the package where a wheel was installed, beside pyproject.toml in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / FILE_NAME
    return shipped if shipped.is_file() else package.with_name(FILE_NAME)


def own_file() -> Path | None:
    """The user's: $XDG_CONFIG_HOME/localllm/models.toml; None where there is none."""
    try:
        path = config_folder() / FILE_NAME
        return path if path.is_file() else None
    except (UsageError, OSError):  # no home folder, or nobody may look into it
        return None


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
