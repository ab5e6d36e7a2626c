"""The tables of `fit`: the parts of a run, what keys and values take, and quants by contexts.

A quant with a context is one cell, which shows the best types of keys and values that fit: so there
are as many rows as quants, and what each cell gives up stands beside its number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from localllm.memory.fit import Cell, Report
from localllm.memory.kv_types import PAIRS, KvPair
from localllm.memory.need import Need
from localllm.memory.verdict import Fit
from localllm.units import format_bytes

MIB = 1 << 20
LARGE_MIB = 100_000  # above this a table counts in GiB

FIT_MARKS = {Fit.fits: "", Fit.pages: "~", Fit.does_not_fit: "x"}
KV_MARKS = dict(zip(PAIRS[1:], ("+", "++"), strict=True))
BEST_MARK = "*"
KV_CACHE = "kv cache"  # the component of a need

Row = tuple[str, ...]


def parts(need: Need) -> Iterator[str]:
    """Every component with its bytes, and their sums."""
    rows = [
        (part.name, part.kind.value, part.reserved_bytes, part.touched_bytes)
        for part in need.components
    ]
    total = ("total", "", sum(row[2] for row in rows), sum(row[3] for row in rows))
    shown = [(name, kind, size(a), size(b)) for name, kind, a, b in [*rows, total]]
    yield from columns([("PART", "KIND", "RESERVED", "TOUCHED"), *shown], n_words=2)


def size(n_bytes: int) -> str:
    return format_bytes(n_bytes) if n_bytes else "-"


def columns(rows: Sequence[Row], n_words: int = 1, gap: str = "  ") -> Iterator[str]:
    """Lines with the first n_words columns to the left and the others, numbers, to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if i < n_words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield gap.join(cells).rstrip()


class Unit:
    """What the numbers of a table are in, so that they are short and can be compared."""

    def __init__(self, largest_bytes: int) -> None:
        self.is_large = largest_bytes >= LARGE_MIB * MIB
        self.name = "GiB" if self.is_large else "MiB"

    def show(self, n_bytes: int) -> str:
        return f"{n_bytes / MIB / 1024:.1f}" if self.is_large else f"{n_bytes / MIB:.0f}"


def choices(found: Report) -> Iterator[str]:
    """What keys and values take, every quant with every context, and what the marks mean."""
    contexts = [str(n_ctx) for n_ctx in sorted({cell.n_ctx for cell in found.shown})]
    unit = Unit(max(cell.verdict.need.touched() for cell in found.shown))
    yield f"{unit.name} of memory by tokens of context"
    yield ""
    yield from columns([("KEYS AND VALUES", *contexts), *kv_rows(found, unit)])
    yield ""
    yield from columns(list(quant_rows(found, unit, contexts)), gap=" ")
    yield ""
    yield from meanings(found)


def kv_rows(found: Report, unit: Unit) -> Iterator[Row]:
    """The bytes that hold keys and values, by pairs of types and contexts."""
    quant = found.cells[0].variant
    by_pair: dict[KvPair, list[str]] = {}
    for cell in found.cells:
        if cell.variant == quant:
            parts = cell.verdict.need.components
            n_bytes = next(part.touched_bytes for part in parts if part.name == KV_CACHE)
            by_pair.setdefault(cell.kv, []).append(unit.show(n_bytes))
    for pair, numbers in by_pair.items():
        yield pair.describe(), *numbers


def quant_rows(found: Report, unit: Unit, contexts: list[str]) -> Iterator[Row]:
    """The resident bytes of a run, with marks for how it fits and what it gives up."""
    width = 1 + max(len(marks(cell, found)) for cell in found.shown)
    yield "QUANT", "WEIGHTS", *(n_ctx + " " * width for n_ctx in contexts)
    for variant, group in itertools.groupby(found.shown, key=lambda cell: cell.variant):
        numbers = (
            unit.show(cell.verdict.need.touched()) + f" {marks(cell, found)}".ljust(width)
            for cell in group
        )
        yield variant.quant, unit.show(variant.weight_bytes), *numbers


def marks(cell: Cell, found: Report) -> str:
    given_up = "" if cell.kv == found.kv else KV_MARKS.get(cell.kv, "")
    best = BEST_MARK if found.best.get(cell.n_ctx) is cell else ""
    return FIT_MARKS[cell.verdict.fit] + given_up + best


def meanings(found: Report) -> Iterator[str]:
    """A line for each mark that stands in the table."""
    fits = {cell.verdict.fit for cell in found.shown}
    pairs = {cell.kv for cell in found.shown if cell.kv != found.kv}
    if found.best:
        yield f"{BEST_MARK}  loses least of what fits with this context"
    for pair, mark in KV_MARKS.items():
        if pair in pairs:
            yield f"{mark.ljust(2)} keys and values stored as {pair.describe()}"
    if Fit.pages in fits:
        yield f"{FIT_MARKS[Fit.pages]}  the weights page from disk"
    if Fit.does_not_fit in fits:
        yield f"{FIT_MARKS[Fit.does_not_fit]}  does not fit"
