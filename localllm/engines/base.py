"""What every engine offers, as types: a model file, an engine that runs it, a session inside it.

Ids and sizes mean what localllm.h says. An engine module has one function,
`open_model(path) -> ModelFile`, and raises only the exceptions of localllm.errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from localllm.sampling import SeededSampling


@dataclass(frozen=True)
class Plan:
    """The bytes an engine will use, known before anything is allocated."""

    weight_bytes: int  # file-backed, shared between processes
    kv_bytes: int  # reserved; touched as positions are used
    block_bytes: int  # of a KV block of all layers
    scratch_bytes: int
    scratch_touched_bytes: int  # the most that steps of n_batch rows use of it
    logits_bytes: int
    tables_bytes: int
    tokenizer_bytes: int  # there since the model was opened
    importance_bytes: int  # once set_importance() is called, and not before
    n_ctx: int
    n_threads: int
    device_bytes: int = 0  # in the memory of a device that has its own; in none of the others

    @property
    def private_bytes(self) -> int:
        """What only this process has: everything but the mapped weights."""
        parts = (self.kv_bytes, self.scratch_bytes, self.logits_bytes, self.tables_bytes)
        return sum(parts) + self.tokenizer_bytes


class TensorInfo(NamedTuple):
    """A tensor of a model. shape: GGUF's order, the row first. offset: of its first byte in its
    file, which is one of the model's files, counted from 0."""

    name: str
    quant: str
    shape: tuple[int, ...]
    n_bytes: int
    offset: int
    file: int


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine; 0 and None leave the choice to the engine."""

    n_ctx: int = 0
    n_sessions: int = 1
    kv_tokens: int = 0  # room for those of all sessions together; 0: n_sessions * n_ctx
    n_batch: int = 0
    n_logits: int = 1
    n_threads: int = 0
    device: str | None = None  # what it runs on; None: the first there is
    kernels: str | None = None
    kv_k: str | None = None  # what keys are stored as: f16, q8_0 or q4_0
    kv_v: str | None = None  # values likewise


@dataclass(frozen=True)
class Work:
    """What must be read and computed, whatever the engine's schedule."""

    weight_bytes: int = 0
    kv_bytes: int = 0
    int8_macs: int = 0
    float_macs: int = 0

    @property
    def read_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes

    @property
    def operations(self) -> int:
        """A multiply-add is two."""
        return 2 * (self.int8_macs + self.float_macs)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.weight_bytes + other.weight_bytes,
            self.kv_bytes + other.kv_bytes,
            self.int8_macs + other.int8_macs,
            self.float_macs + other.float_macs,
        )


@dataclass(frozen=True)
class PhaseTime:
    """The time and the work of one phase of the forward pass, over any number of steps."""

    step: str
    phase: str
    layer: int  # the model's n_layers where it belongs to none
    seconds: float
    work: Work


class Session(Protocol):
    """One timeline of tokens inside an engine."""

    @property
    def n_tokens(self) -> int: ...
    def ids(self, start: int = 0) -> list[int]: ...
    def reuse(self, ids: Sequence[int]) -> int: ...
    def truncate(self, n_tokens: int) -> int: ...
    def get_block(self, i: int) -> bytes: ...
    def put_block(self, ids: Sequence[int], kv: bytes) -> None: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """A model with threads and a KV pool. One caller at a time; cancel() from anywhere."""

    @property
    def kernels(self) -> str: ...
    @property
    def arithmetic(self) -> str:
        """What bits it computes. KV is the same bytes only where this is the same."""
        ...

    @property
    def kv_k(self) -> str: ...
    @property
    def kv_v(self) -> str: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def gives_back(self) -> bool: ...
    def session(self) -> Session: ...
    def step(self, rows: Sequence[tuple[Session, Sequence[int], int]]) -> int: ...
    def logits(self) -> memoryview: ...
    def sample(self, draws: Sequence[tuple[Session, int, SeededSampling]]) -> list[int]:
        """The token behind all that each session holds, drawn from a kept row of the last step."""
        ...

    def work(self, spans: Sequence[tuple[int, int, int]]) -> Work: ...
    def resident(self) -> dict[str, int]: ...
    def set_profile(self, on: bool) -> None: ...
    def profile(self) -> list[PhaseTime]: ...
    def set_importance(self, on: bool) -> None: ...
    def importance(self) -> list[tuple[str, int, bytes]]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


class ModelFile(Protocol):
    """A GGUF file mapped read-only, with its tokenizer."""

    @property
    def path(self) -> Path: ...
    @property
    def info(self) -> dict[str, Any]: ...
    def meta(self, key: str) -> Any: ...
    def meta_keys(self) -> list[tuple[str, str, int]]: ...
    def meta_bytes(self) -> dict[str, bytes]: ...
    def tensors(self) -> list[TensorInfo]: ...
    def tokenize(
        self, text: str | bytes, control: bool = False, add_special: bool = False
    ) -> list[int]: ...
    def token_bytes(self, id: int, control: bool = False) -> bytes: ...
    def token_is_end(self, id: int) -> bool: ...
    def token_is_control(self, id: int) -> bool: ...
    def find_token(self, text: str) -> int: ...
    def plan(self, options: EngineOptions) -> Plan: ...
    def open_engine(self, options: EngineOptions) -> Engine: ...
    def close(self) -> None: ...
