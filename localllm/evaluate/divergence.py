"""How far a quant's predictions are from those of the model it was made of.

KL(p || q) = sum p (r - 1 - log r) with r = q / p, since both sum to 1. Every term is at least 0 and
small where p and q are close, which also makes a sum over a sample of tokens (see
reference_file.py) steady.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from localllm.evaluate import texts
from localllm.evaluate.perplexity import Perplexity, first_scored, log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from localllm.engines.base import Engine

    Floats = NDArray[np.float64]
    Ids = NDArray[np.int64]


class Rows(Protocol):
    """What is known of the reference at some positions."""

    @property
    def top(self) -> Ids: ...  # likeliest token [n]
    def divergence(self, log_q: Floats) -> Floats: ...  # [n, n_vocab] -> KL in nats [n]


class Reference(Protocol):
    def take(self, n: int) -> Rows: ...  # of the next n positions


def penalty(log_p: Floats, log_q: Floats) -> Floats:
    """r - 1 - log r."""
    log_r = log_q - log_p
    values: Floats = np.expm1(log_r) - log_r
    return values


class ExactRows:
    """All log-probabilities of the reference."""

    def __init__(self, log_p: Floats) -> None:
        self.log_p = log_p
        self.top: Ids = log_p.argmax(axis=1)

    def divergence(self, log_q: Floats) -> Floats:
        values: Floats = (np.exp(self.log_p) * (self.log_p - log_q)).sum(axis=1)
        return values


class ModelReference:
    """A reference that is computed beside the quant."""

    def __init__(self, engine: Engine, chunks: list[list[int]]) -> None:
        first = first_scored(len(chunks[0]))
        self.pieces: Iterator[tuple[NDArray[np.float32], Ids]] = texts.logits(engine, chunks, first)

    def take(self, n: int) -> ExactRows:
        logits, _ = next(self.pieces)
        assert len(logits) == n, "both engines cut their steps alike"
        return ExactRows(log_softmax(logits))


@dataclass(frozen=True)
class Divergence:
    """KL in nats; agreement and flips are shares of the positions.

    flips: how often exactly one of the two has the text's next token as its likeliest.
    """

    mean: float
    error: float
    p90: float
    p99: float
    most: float
    agreement: float
    flips: float
    perplexity: Perplexity


def measure(
    engine: Engine,
    chunks: list[list[int]],
    reference: Reference,
    progress: texts.Progress | None = None,
) -> Divergence:
    """Raises: EngineError, InterruptedByUserError, IntegrityError."""
    kls: list[Floats] = []
    losses: list[Floats] = []
    n_same = n_flips = 0
    for logits, following in texts.logits(engine, chunks, first_scored(len(chunks[0])), progress):
        rows, log_q = reference.take(len(logits)), log_softmax(logits)
        top = log_q.argmax(axis=1)
        kls.append(rows.divergence(log_q))
        losses.append(-log_q[np.arange(len(following)), following])
        n_same += int((top == rows.top).sum())
        n_flips += int(((top == following) != (rows.top == following)).sum())
    kl = np.concatenate(kls)
    p90, p99 = np.percentile(kl, [90, 99])
    return Divergence(
        mean=float(kl.mean()),
        error=float(kl.std() / np.sqrt(max(len(kl) - 1, 1))),
        p90=float(p90),
        p99=float(p99),
        most=float(kl.max()),
        agreement=n_same / len(kl),
        flips=n_flips / len(kl),
        perplexity=Perplexity.of(np.concatenate(losses)),
    )
