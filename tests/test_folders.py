"""Where the user's files lie: the variables, what does not count, and no home at all."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm import folders
from localllm.errors import UsageError

# The folder, its variable, and where it is below the home folder without one.
FOLDERS = [
    (folders.data_folder, "XDG_DATA_HOME", ".local/share"),
    (folders.config_folder, "XDG_CONFIG_HOME", ".config"),
    (folders.state_folder, "XDG_STATE_HOME", ".local/state"),
    (folders.caches_folder, "XDG_CACHE_HOME", ".cache"),
]


@pytest.mark.parametrize(("find", "variable", "below"), FOLDERS)
def test_a_folder_follows_its_variable(
    find: Callable[[], Path], variable: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv(variable, "/elsewhere")
    assert find() == Path("/elsewhere/localllm")
    for value in ("", "relative"):
        monkeypatch.setenv(variable, value)
        assert find() == Path("/home/somebody") / below / "localllm"


@pytest.mark.parametrize(("find", "variable", "below"), FOLDERS)
def test_a_user_without_a_home(
    find: Callable[[], Path], variable: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user is a mere number."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UsageError, match=f"no home folder, and {variable} names no other"):
        find()
    monkeypatch.setenv(variable, "/elsewhere")
    assert find() == Path("/elsewhere/localllm")
