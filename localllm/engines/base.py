"""What every engine offers, as types: a model file, an engine that runs it, a session inside it.

Ids and sizes mean what localllm.h says. An engine module has one function,
`open_model(path) -> ModelFile`, and raises only the exceptions of localllm.errors. What not every
engine can do is a capability, there or None: KV that leaves it and comes back (`Blocks`), and what
it tells of its own work (`Measures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from localllm.engines.options import EngineOptions
from localllm.errors import UsageError

if TYPE_CHECKING:
    from localllm.sampling import SeededSampling


@dataclass(frozen=True)
class Plan:
    """The bytes an engine will use, known before anything is allocated. Every engine gives the
    weights, the KV and what they are for; the other parts are 0 where it has them not or cannot
    tell."""

    weight_bytes: int  # file-backed, shared between processes
    kv_bytes: int  # reserved; touched as positions are used
    n_ctx: int
    n_threads: int
    block_bytes: int = 0  # of a KV block of all layers; 0 without Blocks
    scratch_bytes: int = 0
    scratch_touched_bytes: int = 0  # the most that steps of n_batch rows use of it
    logits_bytes: int = 0
    tables_bytes: int = 0
    tokenizer_bytes: int = 0  # there since the model was opened
    importance_bytes: int = 0  # once Measures.set_importance() is called, and not before
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
    def close(self) -> None: ...


class Blocks(Protocol):
    """KV that leaves an engine and comes back, a block of tokens at a time. A block has the same
    bytes in every engine of equal `identity` that runs the same model with the same tokens."""

    @property
    def n_tokens(self) -> int:
        """Of a block."""
        ...

    @property
    def n_bytes(self) -> int:
        """Of a block that lacks nothing."""
        ...

    @property
    def gives_back(self) -> bool:
        """Whether early blocks of a long session lack the KV of layers with a window."""
        ...

    @property
    def kv_k(self) -> str: ...
    @property
    def kv_v(self) -> str: ...
    @property
    def identity(self) -> Sequence[int | str]:
        """What the bytes depend on beside the model and the tokens: the arithmetic among it."""
        ...

    def get(self, session: Session, i: int) -> bytes:
        """The KV of a session's block i, all of whose tokens must have been fed."""
        ...

    def put(self, session: Session, ids: Sequence[int], kv: bytes) -> None:
        """Adds a block to a session that ends where a block does. Raises: ContextFullError,
        UsageError."""
        ...


class Measures(Protocol):
    """What an engine tells of its own work."""

    @property
    def kernels(self) -> str: ...
    def work(self, spans: Sequence[tuple[int, int, int]]) -> Work: ...
    def resident(self) -> dict[str, int]: ...
    def set_profile(self, on: bool) -> None: ...
    def profile(self) -> list[PhaseTime]: ...
    def set_importance(self, on: bool) -> None: ...
    def importance(self) -> list[tuple[str, int, bytes]]: ...


class Engine(Protocol):
    """A model with threads and a KV pool. One caller at a time; cancel() from anywhere."""

    @property
    def name(self) -> str:
        """As in engines.ENGINES."""
        ...

    @property
    def n_threads(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_batch(self) -> int: ...
    @property
    def blocks(self) -> Blocks | None: ...
    @property
    def measures(self) -> Measures | None: ...
    def session(self) -> Session: ...
    def step(self, rows: Sequence[tuple[Session, Sequence[int], int]]) -> int: ...
    def logits(self) -> memoryview: ...
    def sample(self, draws: Sequence[tuple[Session, int, SeededSampling]]) -> list[int]:
        """The token behind all that each session holds, drawn from a kept row of the last step."""
        ...

    def cancel(self) -> None: ...
    def close(self) -> None: ...


def get_blocks(engine: Engine, purpose: str) -> Blocks:
    """Raises: UsageError, where the engine's KV cannot leave it; purpose: what needs that."""
    if engine.blocks is None:
        raise UsageError(
            f"{purpose} needs KV that leaves the engine, and engine {engine.name!r} gives none"
        )
    return engine.blocks


def get_measures(engine: Engine, purpose: str) -> Measures:
    """Raises: UsageError, where the engine tells nothing of its work; purpose: what needs that."""
    if engine.measures is None:
        raise UsageError(
            f"{purpose} needs measurements inside the engine, and engine {engine.name!r} makes none"
        )
    return engine.measures


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
