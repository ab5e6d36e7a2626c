"""The engine that ships with localllm, as localllm._native has it.

It adds nothing but Python's side of the crossing: text to bytes, options to keywords, and each of
the engine's exceptions to the class of localllm.errors that people meet, with the cause kept.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from localllm import _native, errors
from localllm.engines import base
from localllm.engines.options import EngineOptions

if TYPE_CHECKING:
    from localllm.sampling import SeededSampling

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

MEANINGS: dict[str, tuple[type[errors.LocalLLMError], str | None]] = {
    "ArgumentError": (errors.UsageError, None),
    "IoError": (errors.EngineError, None),
    "FormatError": (errors.IntegrityError, "another copy of the file"),
    "UnsupportedError": (errors.IntegrityError, None),
    "MemoryError": (errors.DoesNotFitError, "a smaller context: -c 2048"),
    "ContextError": (errors.ContextFullError, "a larger context (-c), or --truncate"),
    "CancelledError": (errors.InterruptedByUserError, None),
    "NumericError": (errors.EngineError, None),
}


def translate(error: _native.Error, where: str = "") -> errors.LocalLLMError:
    """The exception people meet for one of the engine's."""
    kind, hint = MEANINGS.get(type(error).__name__, (errors.EngineError, None))
    return kind(f"{where}{error}", hint)


def translated(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A method whose engine errors arrive as localllm.errors."""

    @functools.wraps(call)
    def crossing(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        try:
            return call(*args, **keywords)
        except _native.Error as error:
            raise translate(error) from error

    return crossing


def encode(text: str | bytes) -> bytes:
    """UTF-8; half of a surrogate pair becomes U+FFFD, bytes that were never text stay."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


class NativeBlocks:
    """See base.Blocks."""

    def __init__(self, engine: _native.Engine) -> None:
        _, self.n_tokens = kv_format()
        self.n_bytes: int = engine.block_bytes
        self.gives_back: bool = engine.gives_back
        self.kv_k: str = engine.kv_k
        self.kv_v: str = engine.kv_v
        self.identity = (engine.arithmetic, self.n_tokens, self.kv_k, self.kv_v)

    @translated
    def get(self, session: base.Session, i: int) -> bytes:
        return own(session).get_block(i)

    @translated
    def put(self, session: base.Session, ids: Sequence[int], kv: bytes) -> None:
        own(session).put_block(ids, kv)


def own(session: base.Session) -> _native.Session:
    """A session of a native engine, where no other can come."""
    return cast("_native.Session", session)


class NativeMeasures:
    """See base.Measures."""

    def __init__(self, engine: _native.Engine) -> None:
        self.engine = engine
        self.kernels: str = engine.kernels

    @translated
    def work(self, spans: Sequence[tuple[int, int, int]]) -> base.Work:
        return base.Work(**self.engine.work(spans))

    @translated
    def resident(self) -> dict[str, int]:
        return self.engine.resident()

    @translated
    def set_profile(self, on: bool) -> None:
        self.engine.set_profile(on)

    @translated
    def profile(self) -> list[base.PhaseTime]:
        return [
            base.PhaseTime(step, phase, layer, seconds, base.Work(**work))
            for step, phase, layer, seconds, work in self.engine.profile()
        ]

    @translated
    def set_importance(self, on: bool) -> None:
        self.engine.set_importance(on)

    @translated
    def importance(self) -> list[tuple[str, int, bytes]]:
        return self.engine.importance()


class NativeEngine:
    """See base.Engine."""

    name = "native"

    def __init__(self, engine: _native.Engine) -> None:
        self.engine = engine
        self.n_threads: int = engine.n_threads
        self.n_ctx: int = engine.n_ctx
        self.n_batch: int = engine.n_batch
        self.blocks = NativeBlocks(engine)
        self.measures = NativeMeasures(engine)

    @translated
    def session(self) -> base.Session:
        return self.engine.session()

    @translated
    def step(self, rows: Sequence[tuple[base.Session, Sequence[int], int]]) -> int:
        return self.engine.step(rows)  # type: ignore[arg-type]  # sessions are this engine's own

    @translated
    def logits(self) -> memoryview:
        return self.engine.logits()

    @translated
    def sample(self, draws: Sequence[tuple[base.Session, int, SeededSampling]]) -> list[int]:
        return self.engine.sample([(session, row, vars(s)) for session, row, s in draws])  # type: ignore[misc]  # sessions are this engine's own

    def cancel(self) -> None:
        self.engine.cancel()

    def close(self) -> None:
        self.engine.close()


class NativeModel:
    """See base.ModelFile."""

    def __init__(self, path: Path, model: _native.Model) -> None:
        self.path = path
        self.model = model
        self.info: dict[str, Any] = model.info

    @translated
    def meta(self, key: str) -> Any:
        return self.model.meta(key)

    @translated
    def meta_keys(self) -> list[tuple[str, str, int]]:
        return self.model.meta_keys()

    @translated
    def meta_bytes(self) -> dict[str, bytes]:
        return self.model.meta_bytes()

    @translated
    def tensors(self) -> list[base.TensorInfo]:
        return [base.TensorInfo(*row) for row in self.model.tensors()]

    @translated
    def tokenize(
        self, text: str | bytes, control: bool = False, add_special: bool = False
    ) -> list[int]:
        return self.model.tokenize(encode(text), control=control, add_special=add_special)

    @translated
    def token_bytes(self, id: int, control: bool = False) -> bytes:
        return self.model.token_bytes(id, control)

    def token_is_end(self, id: int) -> bool:
        return self.model.token_is_end(id)

    def token_is_control(self, id: int) -> bool:
        return self.model.token_is_control(id)

    def find_token(self, text: str) -> int:
        return self.model.find_token(encode(text))

    @translated
    def plan(self, options: EngineOptions) -> base.Plan:
        return base.Plan(**self.model.plan(**vars(options)))

    @translated
    def open_engine(self, options: EngineOptions) -> base.Engine:
        return NativeEngine(_native.Engine(self.model, **vars(options)))

    def close(self) -> None:
        self.model.close()


def open_model(path: Path) -> base.ModelFile:
    """Maps a GGUF file.

    Raises: ModelNotFoundError, IntegrityError, DoesNotFitError.
    """
    if not path.exists():
        raise errors.ModelNotFoundError(f"no model file at {os.fspath(path)!r}", "localllm list")
    if not path.is_file():
        raise errors.ModelNotFoundError(f"{os.fspath(path)!r} is not a file", "localllm list")
    try:
        return NativeModel(path, _native.Model(os.fspath(path)))
    except _native.Error as error:
        raise translate(error, where=f"{os.fspath(path)!r}: ") from error


def kv_format() -> tuple[int, int]:
    """The version of the arithmetic, and the tokens of a KV block."""
    return _native.kv_format()


def end_texts() -> frozenset[str]:
    """The texts of tokens that end an answer whatever a file says of them."""
    return frozenset(_native.end_texts())


def machine() -> dict[str, Any]:
    """n_cores (usable) and kernels (names, best first)."""
    return _native.machine()


def device_info(name: str | None = None) -> dict[str, Any]:
    """A device's name, and the bytes of memory of its own, free_bytes and total_bytes: 0 where it
    computes in the host's. None: the first device. Raises: UsageError, EngineError."""
    try:
        return _native.device_info(name)
    except _native.Error as error:
        raise translate(error) from error


def read_rate(n_bytes: int, n_threads: int, seconds: float) -> float:
    """Bytes per second that n_threads threads read from memory."""
    return _native.read_rate(n_bytes, n_threads, seconds)


def peak(kernels: str, is_float: bool, n_threads: int, seconds: float) -> float:
    """Multiply-adds per second of n_threads threads with these kernels' instructions."""
    return _native.peak(kernels, is_float, n_threads, seconds)
