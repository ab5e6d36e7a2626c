"""`localllm list`: the models that are here, and with --all those the catalog knows."""

from __future__ import annotations

from typing import Annotated

from localllm.cli import console
from localllm.cli.flags import Json, option
from localllm.models import catalog, store
from localllm.units import format_bytes


def command(
    all_: Annotated[
        bool,
        option("-a", "--all", help="List the catalog's models too."),
    ] = False,
    json: Json = False,
) -> None:
    """List the models that are here: name, size, licence, file."""
    here = store.stored_models()
    entries = catalog.read() if all_ else {}
    known = [entry for entry in entries.values() if entry.name not in here]
    if json:
        console.out_json(
            {
                "folder": str(store.models_folder()),
                "models": [model.to_json() for model in here.values()],
                "catalog": [
                    {"name": entry.name, "about": entry.about, "licence": entry.licence}
                    for entry in known
                ],
            }
        )
        return
    rows = [
        (
            model.name,
            format_bytes(model.n_bytes),
            model.licence or "?",
            entries[model.name].about if model.name in entries else model.path.name,
        )
        for model in here.values()
    ]
    rows += [(entry.name, "not here", entry.licence or "?", entry.about) for entry in known]
    if rows:
        console.out_table(("NAME", "SIZE", "LICENCE", "ABOUT" if all_ else "FILE"), rows)
    else:
        console.note("no models are here yet; try: localllm pull smollm2:135m")
