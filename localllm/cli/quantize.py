"""`localllm quantize`: a GGUF file with other quants; stdout is its path and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli import console
from localllm.cli.destination import check_destination
from localllm.cli.flags import Force, Json, Quiet, Threads, option
from localllm.errors import UsageError
from localllm.models.sources.split import model_files
from localllm.units import format_bytes

if TYPE_CHECKING:
    from localllm.convert.requantize import Choice
    from localllm.engines.quantizer import Floats, Loss


def command(
    source: Annotated[Path, typer.Argument(metavar="IN.gguf", help="The file to start from.")],
    quant: Annotated[
        str, typer.Argument(metavar="QUANT", help="A mix, as Q4_K_M, Q8_0 or IQ4_XS.")
    ],
    out: Annotated[
        Path | None,
        option("-o", "--out", metavar="OUT.gguf", help="Default: beside IN, named by QUANT."),
    ] = None,
    imatrix: Annotated[
        Path | None,
        option("--imatrix", metavar="FILE", help="What matters, as `imatrix` writes it."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        option("--tensor", metavar="PATTERN=QUANT", help="Another quant for these; repeatable."),
    ] = None,
    threads: Threads = None,
    force: Force = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show what would be written, and write nothing.")
    ] = False,
    measure: Annotated[bool, option("--measure", help="Measure what each tensor loses.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model with other quants."""
    from localllm import engines
    from localllm.convert import mixes, requantize

    mix = mixes.find_mix(quant)
    overrides = [parse_override(text) for text in tensor or []]
    destination = out or requantize.beside(source, mix)
    if not dry_run:
        check_apart(source, destination)
        check_destination(destination, force)
    importance = read_importance(imatrix)
    file = engines.open_model(source)
    try:
        choices = requantize.choose(file, mix, overrides, importance)
        check_overrides(overrides, choices)
        losses: Sequence[Loss] = ()
        if not dry_run:
            note_requantizing(choices, quiet)
            losses = requantize.requantize(
                file,
                choices,
                mix,
                destination,
                importance=importance,
                threads=threads or 0,
                measure=measure,
                progress=meter(quiet),
            )
    finally:
        file.close()
    if json:
        console.out_json(report(mix, None if dry_run else destination, choices, losses, measure))
        return
    if dry_run or measure:
        show(choices, losses if measure else ())
    if not dry_run:
        console.out(str(destination))


def read_importance(path: Path | None) -> Mapping[str, Floats] | None:
    if path is None:
        return None
    from localllm.evaluate import imatrix_file

    return imatrix_file.read(path)


def parse_override(text: str) -> tuple[str, str]:
    from localllm.engines.quantizer import QUANTS

    pattern, separator, quant = text.rpartition("=")
    if not separator or not pattern or quant.upper() not in QUANTS:
        raise UsageError(
            f"--tensor {text!r} is not PATTERN=QUANT", "--tensor 'blk.*.ffn_down.weight=Q6_K'"
        )
    return pattern, quant.upper()


def check_overrides(overrides: Sequence[tuple[str, str]], choices: Sequence[Choice]) -> None:
    """A pattern that meets no tensor is a mistake, never ignored."""
    from fnmatch import fnmatchcase

    for pattern, _ in overrides:
        if not any(fnmatchcase(choice.tensor.name, pattern) for choice in choices):
            raise UsageError(f"--tensor {pattern!r} is the name of no tensor", "--dry-run")


def check_apart(source: Path, destination: Path) -> None:
    if destination.exists() and any(
        path.exists() and destination.samefile(path) for path in model_files(source)
    ):
        raise UsageError("IN and OUT are the same file")


def note_requantizing(choices: Sequence[Choice], quiet: bool) -> None:
    floats = ("F32", "F16", "BF16")
    lossy = [c for c in choices if c.tensor.quant not in (*floats, c.after)]
    if lossy and not quiet:
        n = len(lossy)
        console.note(f"{n} tensors were quantized before, and lose a second time")


def meter(quiet: bool) -> Callable[[int, int], None] | None:
    """A line with rate and remaining time, on a terminal."""
    import sys

    if quiet or not console.is_terminal(sys.stderr):
        return None
    started = time.monotonic()

    def draw(done: int, total: int) -> None:
        seconds = max(time.monotonic() - started, 1e-3)
        left = (total - done) * seconds / done
        text = (
            f"{100 * done // total:3d} %  {done / seconds / 1e6:.0f} M weights/s  {left:.0f} s left"
        )
        console.status(text if done < total else "")

    return draw


def relative(loss: Loss) -> float:
    """Root of the mean squared error over the root of the mean square."""
    return float((loss.error / loss.total) ** 0.5) if loss.total > 0 else 0.0


def show(choices: Sequence[Choice], losses: Sequence[Loss]) -> None:
    header = ["tensor", "shape", "from", "to", "bytes", *(["error"] if losses else [])]
    rows = []
    for i, choice in enumerate(choices):
        cells = [
            choice.tensor.name,
            " x ".join(map(str, choice.tensor.shape)),
            choice.tensor.quant,
            choice.after,
            format_bytes(choice.n_bytes),
        ]
        rows.append([*cells, f"{relative(losses[i]):.2%}"] if losses else cells)
    console.out_table(header, rows)
    total = sum(choice.n_bytes for choice in choices)
    values = sum(choice.n_values for choice in choices)
    console.out(f"{format_bytes(total)} in all, {8 * total / values:.2f} bits a weight")


def report(
    mix: str,
    destination: Path | None,
    choices: Sequence[Choice],
    losses: Sequence[Loss],
    measured: bool,
) -> dict[str, Any]:
    rows = []
    for i, c in enumerate(choices):
        row: dict[str, Any] = {
            "name": c.tensor.name,
            "shape": list(c.tensor.shape),
            "from": c.tensor.quant,
            "to": c.after,
            "bytes": c.n_bytes,
        }
        if measured and losses:
            row["relative_error"] = relative(losses[i])
        rows.append(row)
    path = None if destination is None else str(destination)
    return {"quant": mix, "path": path, "tensors": rows, "bytes": sum(c.n_bytes for c in choices)}
