"""Where the user's files lie: the folders of the XDG specification, one function each.

A variable that holds a relative path does not count, as the specification says.
"""

from __future__ import annotations

import os
from pathlib import Path

from localllm.errors import UsageError


def data_folder() -> Path:
    """$XDG_DATA_HOME/localllm: what is worth keeping. Raises: UsageError, as all of these."""
    return find_folder("XDG_DATA_HOME", ".local/share")


def config_folder() -> Path:
    """$XDG_CONFIG_HOME/localllm: what the user writes."""
    return find_folder("XDG_CONFIG_HOME", ".config")


def state_folder() -> Path:
    """$XDG_STATE_HOME/localllm: what a program remembers."""
    return find_folder("XDG_STATE_HOME", ".local/state")


def caches_folder() -> Path:
    """$XDG_CACHE_HOME/localllm: what may be deleted at any time."""
    return find_folder("XDG_CACHE_HOME", ".cache")


def find_folder(variable: str, below_home: str) -> Path:
    base = os.environ.get(variable, "")
    if base.startswith("/"):
        return Path(base) / "localllm"
    try:
        return Path.home() / below_home / "localllm"
    except RuntimeError as error:
        raise UsageError(f"there is no home folder, and {variable} names no other") from error
