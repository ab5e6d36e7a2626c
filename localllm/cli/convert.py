"""`localllm convert`: a checkpoint made into one GGUF file; stdout is its path and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli import console
from localllm.cli.destination import check_destination
from localllm.cli.flags import Force, Json, Offline, Quiet, Threads, option
from localllm.errors import ModelNotFoundError, NetworkError, UsageError
from localllm.models.sources import Progress
from localllm.units import format_bytes

HUB = "hf:"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder with config.json and *.safetensors, or hf:org/repo."
        ),
    ],
    quant: Annotated[
        str | None,
        option(
            "--quant",
            metavar="QUANT",
            help="As Q4_K_M or Q8_0. Default: floats as they are stored.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option("-o", "--out", metavar="OUT.gguf", help="Default: here, named by SRC and QUANT."),
    ] = None,
    threads: Threads = None,
    force: Force = False,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a GGUF file of a Hugging Face checkpoint, in any quant."""
    from localllm.convert import mixes
    from localllm.convert.from_checkpoint import convert_checkpoint, stored_quant

    mix = mixes.find_mix(quant) if quant else None
    if out is not None:
        check_destination(out, force)
    progress = console.progress(quiet)
    if offline and source.startswith(HUB):
        raise NetworkError(f"{source} is not on this machine, and --offline forbids to fetch it")
    with open_source(source, mix, progress) as (folder, name):
        mix = mix or stored_quant(folder)
        destination = out or Path(f"{name}-{mix}.gguf")
        check_destination(destination, force)
        made = convert_checkpoint(
            folder, destination, mix, name=name, threads=threads or 0, progress=progress
        )
    if json:
        console.out_json(
            {
                "path": str(destination),
                "quant": mix,
                "tensors": made.n_tensors,
                "bytes": made.n_bytes,
            }
        )
        return
    if not quiet:
        console.note(f"{mix}, {made.n_tensors} tensors, {format_bytes(made.n_bytes)}")
    console.out(str(destination))


@contextlib.contextmanager
def open_source(source: str, mix: str | None, progress: Progress) -> Iterator[tuple[Path, str]]:
    """The folder of the checkpoint, and what the model is called."""
    if source.startswith(HUB):
        from localllm.models.pull import checkpoint_of
        from localllm.models.sources.hub import Hub

        hub = Hub.parse(source)
        if hub.quant:
            raise UsageError(f"{source!r} names a quant, which goes into --quant {hub.quant}")
        with checkpoint_of(Hub(hub.repo, mix), progress) as folder:
            yield folder, hub.repo.rsplit("/", 1)[-1]
        return
    folder = Path(source)
    if folder.is_file():
        raise UsageError(
            f"{source!r} is a file, expected the folder of a checkpoint",
            f"localllm quantize {source} Q4_K_M" if source.endswith(".gguf") else None,
        )
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no folder {source!r}", "hf:org/repo for one of the Hub")
    yield folder, folder.resolve().name
