"""`localllm rm`: deletes models of the store, never a file that lies elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.cli import console
from localllm.cli.flags import Quiet, option
from localllm.errors import ModelNotFoundError
from localllm.models import store
from localllm.models.names import find_stored
from localllm.units import format_bytes


def command(
    models: Annotated[list[str], typer.Argument(help="Names as `localllm list` shows them.")],
    yes: Annotated[bool, option("-y", "--yes", help="Do not ask.")] = False,
    quiet: Quiet = False,
) -> None:
    """Delete models and free their disk space. Asks on a terminal; elsewhere it needs -y."""
    chosen = [find(name) for name in models]
    for model in chosen:
        size = format_bytes(model.n_bytes)
        if yes or console.confirm(f"Delete {model.name} ({size}, {model.path})?"):
            store.remove_model(model)
            if not quiet:
                console.note(f"deleted {model.name}, {size} are free again")


def find(name: str) -> store.Stored:
    model = find_stored(name)
    if model is None:
        raise ModelNotFoundError(f"{name} is not in {str(store.models_folder())!r}")
    return model
