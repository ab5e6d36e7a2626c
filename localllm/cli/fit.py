"""`localllm fit`: whether a model fits this machine, part by part, and what would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm import usage
from localllm.cli import console
from localllm.cli.flags import Budget, CacheTypeK, CacheTypeV, Ctx, Json, Offline, Quiet, Threads
from localllm.cli.needs import limit_json, verdict_json
from localllm.fitting import Cell, Report, find, report
from localllm.memory import find_limits
from localllm.model import check_options
from localllm.paging import tokens_per_second
from localllm.units import format_bytes
from localllm.verdict import Fit, Verdict

if TYPE_CHECKING:
    from localllm.cli.origins import Origins

DOES_NOT_FIT = 7
MARKS = {Fit.fits: "", Fit.pages: " ~", Fit.does_not_fit: " x"}
MEANINGS = {Fit.pages: "~ the weights page from disk", Fit.does_not_fit: "x does not fit"}


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A name, hf:org/repo[:QUANT] or a file.")],
    ctx: Ctx = None,
    threads: Threads = None,
    budget: Budget = None,
    cache_type_k: CacheTypeK = None,
    cache_type_v: CacheTypeV = None,
    offline: Offline = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say whether a model fits this machine, what it needs, and which quant with which context
    would fit. Reads nothing but the model's header. The exit code is 7 where it does not fit."""
    options = check_options(ctx, threads, budget, None, cache_type_k, cache_type_v)
    before = usage.measure()
    limits = find_limits(budget)
    with find(model, offline=offline, progress=console.progress(quiet)) as subject:
        found = report(subject, options, limits, before)
        speed = paging_speed(found)
    if json:
        console.out_json(describe(found, speed))
    else:
        for line in lines(found, speed, context.obj):
            console.out(line)
    return 0 if found.verdict.runs else DOES_NOT_FIT


def paging_speed(found: Report) -> float | None:
    path = found.subject.path
    if found.verdict.fit is not Fit.pages or path is None:
        return None
    return tokens_per_second(found.subject.file, path)


# ---- for people ----------------------------------------------------------------------------------


def lines(found: Report, speed: float | None, origins: Origins) -> Iterator[str]:
    subject, need = found.subject, found.verdict.need
    yield (
        f"{subject.name}, {subject.quant}, with a context of {need.n_ctx} "
        f"on {need.n_threads} threads"
    )
    yield ""
    rows = [
        (part.name, part.kind.value, part.reserved_bytes, part.touched_bytes)
        for part in need.components
    ]
    total = ("total", "", sum(row[2] for row in rows), sum(row[3] for row in rows))
    yield from columns(
        [
            ("PART", "KIND", "RESERVED", "TOUCHED"),
            *((name, kind, size(a), size(b)) for name, kind, a, b in [*rows, total]),
        ]
    )
    yield ""
    yield origins.named(sentence(found.verdict, speed))
    for offer in found.alternatives:
        yield f"  {offer.command}  ({offer.change})"
    if not (found.alternatives or found.verdict.runs):
        yield "  no shorter context and no smaller quant of it fits"
    yield ""
    yield from table(found.cells)


def size(n_bytes: int) -> str:
    return format_bytes(n_bytes) if n_bytes else "-"


def columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Lines with the first column to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if i and row_is_number(cell) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def row_is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell == "-"


def sentence(verdict: Verdict, speed: float | None) -> str:
    limit = verdict.limit
    if limit is None:
        return "fits: no limit on memory is known here"
    numbers = (
        f"{format_bytes(limit.need(verdict.need))} of {format_bytes(max(0, limit.left_bytes))}"
    )
    if verdict.fits:
        return f"fits: {numbers}, which {limit.name} leaves"
    if verdict.runs:
        told = "" if speed is None else f", about {speed:.2g} tokens/s"
        return (
            f"fits, but the weights will page from disk{told}: {numbers}, which {limit.name} leaves"
        )
    return f"does not fit: {numbers}, which {limit.name} leaves"


def table(cells: list[Cell]) -> Iterator[str]:
    """Quants by contexts: the resident bytes of each run, marked where it does not simply fit."""
    contexts = sorted({cell.verdict.need.n_ctx for cell in cells})
    rows = [("QUANT", "WEIGHTS", *(f"{n_ctx} tokens" for n_ctx in contexts))]
    by_variant: dict[tuple[str, int], list[str]] = {}
    for cell in cells:
        key = (cell.variant.quant, cell.variant.weight_bytes)
        shown = format_bytes(cell.verdict.need.touched()) + MARKS[cell.verdict.fit]
        by_variant.setdefault(key, []).append(shown)
    rows += [(quant, size(n_bytes), *shown) for (quant, n_bytes), shown in by_variant.items()]
    yield from columns(rows)
    worst = {cell.verdict.fit for cell in cells}
    yield from (meaning for fit, meaning in MEANINGS.items() if fit in worst)


# ---- for programs --------------------------------------------------------------------------------


def describe(found: Report, speed: float | None) -> dict[str, Any]:
    subject, need = found.subject, found.verdict.need
    return {
        "model": subject.name,
        "path": None if subject.path is None else str(subject.path),
        "quant": subject.quant,
        **verdict_json(found.verdict),
        "tokens_per_second": speed,
        "limits": [limit_json(limit, need) for limit in found.limits],
        "alternatives": [
            {
                "command": offer.command,
                "change": offer.change,
                "touched_bytes": offer.verdict.need.touched(),
                "n_ctx": offer.verdict.need.n_ctx,
            }
            for offer in found.alternatives
        ],
        "table": [
            {
                "quant": cell.variant.quant,
                "weight_bytes": cell.variant.weight_bytes,
                "n_ctx": cell.verdict.need.n_ctx,
                "touched_bytes": cell.verdict.need.touched(),
                "verdict": cell.verdict.fit.value,
                "command": cell.variant.command,
            }
            for cell in found.cells
        ],
    }
