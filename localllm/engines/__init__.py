"""The table of engines: a name, and the module that opens models with it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile

ENGINES = {"native": "localllm.engines.native"}


def open_model(path: Path, engine: str = "native") -> ModelFile:
    """Opens a model file with one of ENGINES.

    Raises: ModelNotFoundError, IntegrityError, DoesNotFitError.
    """
    opened: ModelFile = importlib.import_module(ENGINES[engine]).open_model(path)
    return opened
