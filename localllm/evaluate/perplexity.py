"""Perplexity, counted as llama.cpp counts it: of each chunk the second half is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from localllm.evaluate import texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from localllm.engines.base import Engine


@dataclass(frozen=True)
class Perplexity:
    """Its standard error comes from the spread of the tokens' own losses."""

    value: float
    error: float
    n_tokens: int

    @classmethod
    def of(cls, losses: NDArray[np.float64]) -> Perplexity:
        """losses: negative log-probabilities [n_tokens], in nats."""
        value = math.exp(losses.mean())
        error = value * losses.std() / math.sqrt(max(len(losses) - 1, 1))
        return cls(value, float(error), len(losses))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each row [n, n_vocab]."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def first_scored(n_ctx: int) -> int:
    """The first position whose next token counts."""
    return n_ctx // 2


def measure(
    engine: Engine, chunks: list[list[int]], progress: texts.Progress | None = None
) -> Perplexity:
    """Raises: EngineError, InterruptedByUserError."""
    losses = [
        -log_softmax(logits)[np.arange(len(following)), following]
        for logits, following in texts.logits(
            engine, chunks, first_scored(len(chunks[0])), progress
        )
    ]
    return Perplexity.of(np.concatenate(losses))
