"""From a name to the path of its file, which is pulled first where it is not here."""

from __future__ import annotations

from pathlib import Path

from localllm.errors import ModelNotFoundError
from localllm.models.names import find_stored
from localllm.models.sources import Local, Progress, Silent
from localllm.models.store import models_folder


def resolve(
    name: str,
    *,
    pull: bool = True,
    offline: bool = False,
    source: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The file of a model: a path is taken as it is; a name that is not here is pulled first.

    Raises ModelNotFoundError where it is not here and `pull` is False or `offline` is True.
    """
    local = Local.parse(name)
    if local is not None:
        return local.find(models_folder(), Silent()).here or local.path
    stored = find_stored(name)
    if stored is not None:
        return stored.path
    if offline or not pull:
        raise ModelNotFoundError(f"{name} is not on this machine", f"localllm pull {name}")
    from localllm.models.pull import pull_model

    return pull_model(name, source=source, progress=progress).model.path
