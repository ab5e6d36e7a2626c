"""A reference's predictions in a hundredth of their size.

Of each scored position: the TOP likeliest tokens, the mass of all others, and TAIL of those drawn
in proportion to their probability, all with log-probabilities in steps of 1/2048 nat. The top is
summed exactly; the tail's share of the divergence is its mass times the mean penalty (see
divergence.py) of the draws. The estimate has no bias but that of the rounding. With 16-bit ids a
position takes 900 bytes, with 32-bit ids 1348.

The file: MAGIC, five u32 (n_vocab, n_ctx, n_chunks, TOP, TAIL), the chunks' ids as i32, records.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from localllm.errors import IntegrityError, UsageError
from localllm.evaluate import texts
from localllm.evaluate.divergence import penalty
from localllm.evaluate.perplexity import first_scored, log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from localllm.engines.base import Engine

    Floats = NDArray[np.float64]
    Ids = NDArray[np.int64]

MAGIC = b"LLKLREF1"
HEAD = struct.Struct("<8s5I")
TOP, TAIL = 160, 64
STEP = 1 / 2048  # nats; u16 reaches 32
SEED = 1


def record_type(n_vocab: int, top: int, tail: int) -> np.dtype[Any]:
    id_type = "<u2" if n_vocab <= 1 << 16 else "<u4"
    n = top + tail
    return np.dtype([("tail_mass", "<f4"), ("ids", id_type, (n,)), ("minus_log", "<u2", (n,))])


def sketch(log_p: Floats, rng: np.random.Generator, top: int, tail: int) -> NDArray[Any]:
    """Records [n] of log-probabilities [n, n_vocab]."""
    n, n_vocab = log_p.shape
    records = np.zeros(n, dtype=record_type(n_vocab, top, tail))
    rows = np.arange(n)[:, None]
    best = np.argpartition(log_p, n_vocab - top, axis=1)[:, n_vocab - top :]
    best = np.take_along_axis(best, (-log_p[rows, best]).argsort(axis=1, kind="stable"), axis=1)
    rest = np.exp(log_p)
    rest[rows, best] = 0
    sums = rest.cumsum(axis=1)
    records["tail_mass"] = sums[:, -1]
    draws = np.empty((n, tail), dtype=np.int64)
    for i in range(n):  # evenly spaced in the tail's mass, from a random start
        marks = (np.arange(tail) + rng.random()) / max(tail, 1) * sums[i, -1]
        draws[i] = np.minimum(np.searchsorted(sums[i], marks, side="right"), n_vocab - 1)
    ids = np.concatenate([best, draws], axis=1)
    records["ids"] = ids
    records["minus_log"] = np.clip(np.rint(-log_p[rows, ids] / STEP), 0, 65535)
    return records


class SketchedRows:
    """See divergence.Rows."""

    def __init__(self, records: NDArray[Any], top: int) -> None:
        self.ids: Ids = records["ids"].astype(np.int64)
        self.log_p: Floats = records["minus_log"].astype(np.float64) * -STEP
        self.tail_mass: Floats = records["tail_mass"].astype(np.float64)
        self.n_top = top
        self.top: Ids = self.ids[:, 0]

    def divergence(self, log_q: Floats) -> Floats:
        log_q = np.take_along_axis(log_q, self.ids, axis=1)
        terms = penalty(self.log_p, log_q)
        known, drawn = terms[:, : self.n_top], terms[:, self.n_top :]
        values: Floats = (np.exp(self.log_p[:, : self.n_top]) * known).sum(axis=1)
        if drawn.shape[1]:
            values += self.tail_mass * drawn.mean(axis=1)
        return values


def write(
    path: Path,
    engine: Engine,
    chunks: list[list[int]],
    n_vocab: int,
    progress: texts.Progress | None = None,
) -> int:
    """Computes and writes a reference, whole or not at all; returns its bytes. Raises: OSError."""
    top = min(TOP, n_vocab)
    tail = TAIL if top < n_vocab else 0
    rng = np.random.default_rng(SEED)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    n_ctx = len(chunks[0])
    try:
        with beside.open("wb") as file:
            file.write(HEAD.pack(MAGIC, n_vocab, n_ctx, len(chunks), top, tail))
            file.write(np.array(chunks, dtype="<i4").tobytes())
            for logits, _ in texts.logits(engine, chunks, first_scored(n_ctx), progress):
                file.write(sketch(log_softmax(logits), rng, top, tail).tobytes())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path.stat().st_size


class StoredReference:
    """A reference read from its file, in order, a few positions a time."""

    def __init__(self, path: Path) -> None:
        """Raises: IntegrityError, OSError."""
        self.path = path
        self.at = 0
        with path.open("rb") as file:
            head = file.read(HEAD.size)
        n_bytes = path.stat().st_size
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            raise self.broken("it does not begin as one")
        _, self.n_vocab, self.n_ctx, n_chunks, self.top, tail = HEAD.unpack(head)
        if not (1 <= self.top <= self.n_vocab and tail <= 1 << 16 and self.n_ctx > 2 and n_chunks):
            raise self.broken("its sizes make no sense")
        if self.n_vocab >= 1 << 31 or self.top > 1 << 16:
            raise self.broken("its sizes make no sense")
        kind = record_type(self.n_vocab, self.top, tail)
        n_records = n_chunks * (self.n_ctx - 1 - first_scored(self.n_ctx))
        start = HEAD.size + 4 * n_chunks * self.n_ctx
        if n_bytes != start + n_records * kind.itemsize:
            expected = start + n_records * kind.itemsize
            raise self.broken(f"it has {n_bytes} bytes, expected {expected}")
        ids = np.fromfile(path, "<i4", n_chunks * self.n_ctx, offset=HEAD.size)
        if ids.min() < 0 or ids.max() >= self.n_vocab:
            raise self.broken("it has tokens outside its vocabulary")
        self.chunks: list[list[int]] = ids.reshape(n_chunks, self.n_ctx).tolist()
        self.records = np.memmap(path, kind, "r", start, (n_records,))

    def broken(self, why: str) -> IntegrityError:
        return IntegrityError(f"{os.fspath(self.path)!r} is no stored reference: {why}")

    def check(self, n_vocab: int) -> None:
        if n_vocab != self.n_vocab:
            raise UsageError(
                f"the model has {n_vocab} tokens, the reference {self.n_vocab}: not of one family"
            )

    def rewind(self) -> None:
        self.at = 0

    def take(self, n: int) -> SketchedRows:
        records = np.array(self.records[self.at : self.at + n])
        self.at += n
        mass = records["tail_mass"]
        if (records["ids"] >= self.n_vocab).any() or not ((mass >= 0) & (mass <= 1.01)).all():
            raise self.broken("a record has values that cannot be")
        return SketchedRows(records, self.top)
