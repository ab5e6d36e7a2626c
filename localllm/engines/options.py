"""How to open an engine: one `EngineOptions` travels from the flag to C.

An option is a field. One that people set has its flags in FLAGS and its row in Given, by the name
that load() knows it by; whoever passes options on, changes some or writes them as a command names
none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from localllm.errors import UsageError

# Of each option that people set, as a command that runs a model has them.
FLAGS = {
    "n_ctx": ("-c", "--ctx"),
    "kernels": ("--kernels",),
    "n_threads": ("-t", "--threads"),
    "kv_k": ("--cache-type-k",),
    "kv_v": ("--cache-type-v",),
}


class Given(TypedDict, total=False):
    """Options as people give them; None is as not given."""

    ctx: int | None
    threads: int | None
    kernels: str | None
    kv_k: str | None
    kv_v: str | None


FIELDS = {field.removeprefix("n_"): field for field in FLAGS}  # by the names in Given


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine; 0 and None leave the choice to the engine. Raises: UsageError."""

    n_ctx: int = 0
    n_sessions: int = 1
    kv_tokens: int = 0  # room for those of all sessions together; 0: n_sessions * n_ctx
    n_batch: int = 0  # rows of a step, at most
    n_logits: int = 1  # rows of a step that keep their logits, at most
    n_threads: int = 0
    device: str | None = None  # what it runs on; None: the first there is
    kernels: str | None = None
    kv_k: str | None = None  # what keys are stored as: f16, q8_0 or q4_0
    kv_v: str | None = None  # values likewise

    def __post_init__(self) -> None:
        require_positive(ctx=self.n_ctx or None, threads=self.n_threads or None)
        if max(self.n_ctx, self.n_threads) >= 1 << 31:
            raise UsageError("a context or a number of threads that large does not exist")

    @classmethod
    def of(cls, **given: Unpack[Given]) -> EngineOptions:
        """Raises: UsageError, also for a 0 that somebody gives."""
        require_positive(ctx=given.get("ctx"), threads=given.get("threads"))
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in FIELDS:
                raise TypeError(f"there is no option {name!r}")
            if value is not None:
                values[FIELDS[name]] = value
        return cls(**values)


def require_positive(**numbers: int | None) -> None:
    """Raises: UsageError, which names the number; None is none."""
    for name, value in numbers.items():
        if value is not None and not 1 <= value < 1 << 53:
            raise UsageError(f"{name} is {value}, but must be at least 1")
