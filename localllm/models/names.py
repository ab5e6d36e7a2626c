"""Which model a typed name means: one that is here, or one that the catalog knows."""

from __future__ import annotations

from localllm.errors import ModelNotFoundError
from localllm.models import catalog
from localllm.models.sources import parse_name
from localllm.models.store import Stored, stored_models


def find_stored(name: str) -> Stored | None:
    """The stored model whose name this is, or a unique beginning of it; None where none is."""
    models = stored_models()
    if name in models:
        return models[name]
    source = parse_name(name)
    if source is None:
        return models.get(full_name(name))
    if source.name in models:
        return models[source.name]
    # hf:org/repo stands for hf:org/repo:QUANT, and pypi:package for pypi:package==version.
    beginnings = (f"{source.name}:", f"{source.name}==")
    longer = [known for known in models if known.startswith(beginnings)]
    if len(longer) > 1:
        raise ModelNotFoundError(f"{name} may mean {', '.join(longer)}")
    return models[longer[0]] if longer else None


def full_name(typed: str) -> str:
    """The name that was meant: an exact one, else a beginning that fits one model that is here,
    else one that fits one model of the catalog."""
    here, known = stored_models(), catalog.read()
    if typed in here or typed in known:
        return typed
    found = catalog.match(typed, here) or catalog.match(typed, known)
    if found is None:
        raise catalog.miss(typed, [*known, *here])
    return found
