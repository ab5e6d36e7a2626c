"""How to open an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine; 0 and None leave the choice to the engine."""

    n_ctx: int = 0
    n_sessions: int = 1
    n_batch: int = 0
    n_logits: int = 1
    n_threads: int = 0
    kernels: str | None = None
    kv_k: str | None = None  # what keys are stored as: f16, q8_0 or q4_0
    kv_v: str | None = None  # values likewise
