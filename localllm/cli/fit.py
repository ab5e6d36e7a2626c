"""`localllm fit`: whether a model fits this machine, part by part, and what would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.answer.model import check_options
from localllm.cli import console, fit_tables
from localllm.cli.flags import Budget, CacheTypeK, CacheTypeV, Ctx, Json, Offline, Quiet, Threads
from localllm.cli.needs import limit_json, verdict_json
from localllm.memory import process
from localllm.memory.fit import Report, find, report
from localllm.memory.kv_types import PLAIN
from localllm.memory.limits import find_limits
from localllm.memory.paging import tokens_per_second
from localllm.memory.verdict import Fit, Verdict
from localllm.units import format_bytes

if TYPE_CHECKING:
    from localllm.cli.origins import Origins

DOES_NOT_FIT = 7


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
    before = process.measure()
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
    kv = "" if found.kv == PLAIN else f", keys and values stored as {found.kv.describe()}"
    yield (
        f"{subject.name}, {subject.quant}, with a context of {need.n_ctx} "
        f"on {need.n_threads} threads{kv}"
    )
    yield ""
    yield from fit_tables.parts(need)
    yield ""
    yield origins.named(sentence(found.verdict, speed))
    for offer in found.alternatives:
        yield f"  {offer.command}  ({offer.change})"
    if not (found.alternatives or found.verdict.runs):
        yield "  no shorter context and no smaller quant of it fits"
    yield ""
    yield from fit_tables.choices(found)
    yield from best_line(found)


def best_line(found: Report) -> Iterator[str]:
    """What to type for the best run with the context in question, where that is another one."""
    best = found.best.get(found.verdict.need.n_ctx)
    if best is not None and not (best.variant.is_own and best.kv == found.kv):
        yield f"the best with {best.n_ctx} tokens: {best.command}"


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


# ---- for programs --------------------------------------------------------------------------------


def describe(found: Report, speed: float | None) -> dict[str, Any]:
    subject, need = found.subject, found.verdict.need
    return {
        "model": subject.name,
        "path": None if subject.path is None else str(subject.path),
        "quant": subject.quant,
        "kv_k": found.kv.k,
        "kv_v": found.kv.v,
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
                "n_ctx": cell.n_ctx,
                "kv_k": cell.kv.k,
                "kv_v": cell.kv.v,
                "touched_bytes": cell.verdict.need.touched(),
                "verdict": cell.verdict.fit.value,
                "is_shown": any(cell is one for one in found.shown),
                "is_best": found.best.get(cell.n_ctx) is cell,
                "command": cell.command,
            }
            for cell in found.cells
        ],
    }
