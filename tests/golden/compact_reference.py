"""A distribution over 262,144 tokens at 512 positions, kept in a few hundred kilobytes.

The exact KL divergence from a reference p to an engine's q needs every probability of both. Since
p and q each sum to one, it is also the mean under p of  r - 1 - ln r  with r = q / p, a quantity
that is never negative and vanishes where the two agree. A mean can be sampled: for each position
the N_TOP likeliest tokens are kept and counted exactly, and N_TAIL draws from the rest of p stand
for the rest, each with the weight (mass of the rest) / N_TAIL. The estimate is unbiased, and since
the quantity is small wherever the engines nearly agree, it lies within a percent of the exact
figure (`reference_run.py` prints both). The draws have a fixed seed.

Arrays, for n positions and m = N_TOP + N_TAIL: ids int32 [n] (the text), tokens int32 [n, m] (the
first column is the likeliest), log_p float32 [n, m], weight float32 [n, m].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

N_TOP = 32
N_TAIL = 16
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class CompactReference:
    ids: NDArray[np.int32]
    tokens: NDArray[np.int32]
    log_p: NDArray[np.float32]
    weight: NDArray[np.float32]

    def save(self, path: Path) -> None:
        np.savez_compressed(
            path, ids=self.ids, tokens=self.tokens, log_p=self.log_p, weight=self.weight
        )


def load_compact(path: Path) -> CompactReference:
    with np.load(path) as data:
        return CompactReference(data["ids"], data["tokens"], data["log_p"], data["weight"])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def row_blocks(n_rows: int) -> Iterator[slice]:
    """Slices that keep float64 copies of wide logits small."""
    for start in range(0, n_rows, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, n_rows))


def compress(ids: NDArray[np.int32], logits: NDArray[np.float32]) -> CompactReference:
    chance = np.random.Generator(np.random.PCG64(1))
    n_rows, n_kept = len(ids), N_TOP + N_TAIL
    tokens = np.empty((n_rows, n_kept), np.int32)
    log_p = np.empty((n_rows, n_kept), np.float32)
    weight = np.empty((n_rows, n_kept), np.float32)
    for row in range(n_rows):
        row_log_p = log_softmax(logits[row])
        order = np.argsort(-row_log_p, kind="stable")
        top, rest = order[:N_TOP], order[N_TOP:]
        cumulated = np.cumsum(np.exp(row_log_p[rest]))
        drawn = np.searchsorted(cumulated, chance.random(N_TAIL) * cumulated[-1], side="right")
        tokens[row] = np.concatenate([top, rest[np.minimum(drawn, len(rest) - 1)]])
        log_p[row] = row_log_p[tokens[row]]
        weight[row, :N_TOP] = np.exp(row_log_p[top])
        weight[row, N_TOP:] = cumulated[-1] / N_TAIL
    return CompactReference(ids, tokens, log_p, weight)


def compact_divergence(
    reference: CompactReference, logits: NDArray[np.float32]
) -> tuple[float, float]:
    """Mean KL(reference || engine) in nats, estimated, and the share of equal likeliest tokens."""
    total, n_equal = 0.0, 0
    for rows in row_blocks(len(reference.ids)):
        log_q = np.take_along_axis(log_softmax(logits[rows]), reference.tokens[rows], axis=1)
        log_ratio = log_q - reference.log_p[rows]
        total += float((reference.weight[rows] * (np.expm1(log_ratio) - log_ratio)).sum())
        n_equal += int((logits[rows].argmax(axis=1) == reference.tokens[rows, 0]).sum())
    return total / len(reference.ids), n_equal / len(reference.ids)


def exact_divergence(
    reference: NDArray[np.float32], logits: NDArray[np.float32]
) -> tuple[float, float]:
    """The same two figures from all logits of both, [n, n_vocab]."""
    total, n_equal = 0.0, 0
    for rows in row_blocks(len(reference)):
        log_p, log_q = log_softmax(reference[rows]), log_softmax(logits[rows])
        total += float((np.exp(log_p) * (log_p - log_q)).sum())
        n_equal += int((reference[rows].argmax(axis=1) == logits[rows].argmax(axis=1)).sum())
    return total / len(reference), n_equal / len(reference)
