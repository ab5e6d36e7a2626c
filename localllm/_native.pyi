"""The native engine as Python sees it. Only localllm/engines/native.py imports this module."""

from collections.abc import Sequence
from typing import Any, final

from _typeshed import ReadableBuffer

class Error(Exception):
    """Base of the engine's errors; `code` names an ll_error_code, `offset` is one in a file,
    `errno` is the system's where it refused something."""

    code: str
    offset: int
    errno: int

# One class per row of LL_ERRORS in localllm.h.
class ArgumentError(Error): ...
class IoError(Error): ...
class FormatError(Error): ...
class UnsupportedError(Error): ...
class MemoryError(Error): ...
class ContextError(Error): ...
class CancelledError(Error): ...
class NumericError(Error): ...

@final
class Model:
    """A GGUF file mapped read-only, with its tokenizer. Close it or drop it."""

    def __init__(self, path: str) -> None: ...
    info: dict[str, Any]
    """arch, tokenizer, n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, n_vocab, n_ctx_train,
    n_params, file_bytes, weight_bytes, token_bytes, bos, eos (-1: none), adds_bos."""

    def meta(self, key: str) -> Any:
        """The value of one metadata key (str, int, float, bool or list), None where absent."""
    def meta_keys(self) -> list[tuple[str, str, int]]:
        """Every key with its type's name ("u32", "string", "array[string]" …) and element count."""
    def meta_bytes(self) -> dict[str, bytes]:
        """Every key with its value as it lies in the file, from its type on."""
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int, int]]:
        """Every tensor: name, quant, shape in GGUF order, bytes, offset in its file, which file."""
    def tokenize(self, text: bytes, control: bool = False, add_special: bool = False) -> list[int]:
        """control: text may become control tokens. add_special: BOS/EOS as the model asks."""
    def token_bytes(self, id: int, control: bool = False) -> bytes: ...
    def token_is_end(self, id: int) -> bool: ...
    def token_is_control(self, id: int) -> bool: ...
    def find_token(self, text: bytes) -> int: ...
    def plan(
        self,
        *,
        n_ctx: int = 0,
        n_sessions: int = 1,
        kv_tokens: int = 0,
        n_batch: int = 0,
        n_logits: int = 1,
        n_threads: int = 0,
        device: str | None = None,
        kernels: str | None = None,
        kv_k: str | None = None,
        kv_v: str | None = None,
    ) -> dict[str, int]:
        """What an engine would use, in bytes, before anything is allocated: weight_bytes, kv_bytes,
        of which block_bytes are one block, scratch_bytes, of which scratch_touched_bytes are used
        at most, logits_bytes, tables_bytes, tokenizer_bytes; importance_bytes, which come with
        set_importance; device_bytes, which a device's own memory takes beside these; and n_ctx,
        n_threads it is for."""
    def close(self) -> None: ...

@final
class Engine:
    """A model with threads and a KV pool. One caller at a time; cancel() from anywhere."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_sessions: int = 1,
        kv_tokens: int = 0,
        n_batch: int = 0,
        n_logits: int = 1,
        n_threads: int = 0,
        device: str | None = None,
        kernels: str | None = None,
        kv_k: str | None = None,
        kv_v: str | None = None,
    ) -> None: ...
    device: str
    kernels: str
    arithmetic: str  # what bits it computes: blocks of another's are not this engine's
    kv_k: str
    kv_v: str
    n_threads: int
    n_ctx: int
    n_batch: int
    block_bytes: int
    gives_back: bool  # whether a long session's early blocks lack the KV of windowed layers
    def session(self) -> Session: ...
    def step(self, rows: Sequence[tuple[Session, Sequence[int], int]]) -> int:
        """Feeds all or nothing: each entry is a session, its next ids, and how many of the last of
        these ids keep their logits. Returns the number of logit rows kept. Releases the GIL. A
        signal that arrives meanwhile cancels the step and raises from its handler."""
    def logits(self) -> memoryview:
        """The kept rows of the last step, float32 [n_kept, n_vocab], without a copy. Valid until
        the next step; an exported view keeps the engine's memory alive."""
    def sample(self, draws: Sequence[tuple[Session, int, dict[str, Any]]]) -> list[int]:
        """Draws a token from each entry: the session it comes behind, the kept row of logits, and
        settings by their names in sampling() and `biases`, pairs (id, bias); those that are left
        out are off. Several are drawn on the engine's threads. Releases the GIL."""
    def work(self, spans: Sequence[tuple[int, int, int]]) -> dict[str, int]:
        """What one step must read and compute; each span is the first position, the rows and the
        kept logits of one session: weight_bytes, kv_bytes, int8_macs, float_macs."""
    def resident(self) -> dict[str, int]:
        """What has been touched so far, in bytes: kv_bytes, scratch_bytes, logits_bytes."""
    def set_profile(self, on: bool) -> None:
        """From here on adds up the time and the work of each phase, from zero; off stops it."""
    def profile(self) -> list[tuple[str, str, int, float, dict[str, int]]]:
        """The sums, in the order of the forward pass: step, phase, layer (n_layers: none),
        seconds, and the work as in work()."""
    def set_importance(self, on: bool) -> None:
        """From here on adds up the squares of every matrix's inputs, from zero; off stops it."""
    def importance(self) -> list[tuple[str, int, bytes]]:
        """The sums, in the order of the forward pass: the matrix's name, how many inputs are in
        them, and one float64 per column."""
    def cancel(self) -> None: ...
    def close(self) -> None: ...

@final
class Session:
    """One timeline of tokens inside an engine; keeps the engine alive."""

    n_tokens: int
    def ids(self, start: int = 0) -> list[int]:
        """The tokens it holds, from number `start` on."""
    def reuse(self, ids: Sequence[int]) -> int:
        """Holds as much of the beginning of ids as it, or any session of the engine, has computed;
        returns how much."""
    def get_block(self, i: int) -> bytes:
        """The KV of the tokens of block i, all of which must have been fed: block_bytes, or fewer
        where layers with a window have given theirs back."""
    def put_block(self, ids: Sequence[int], kv: bytes) -> None:
        """Adds a block of tokens by their ids and KV; the session must end where a block does.
        Behind one that lacks its windowed layers it can go on only after enough whole ones."""
    def truncate(self, n_tokens: int) -> int:
        """Drops tokens from the end; returns the number left, which is 0 where layers with a window
        have given back what the next token would see."""
    def close(self) -> None: ...

@final
class Quantizer:
    """Threads that write tensors of one file into another."""

    def __init__(self, *, n_threads: int = 0) -> None: ...
    def write(
        self,
        *,
        src_fd: int,
        src_offset: int,
        src_type: str,
        n_rows: int,
        row_dim: int,
        quant: str,
        out_fd: int,
        out_offset: int,
        row_order: ReadableBuffer | None = None,
        scales: ReadableBuffer | None = None,
        scale_rows: int = 0,
        scale_cols: int = 0,
        importance: ReadableBuffer | None = None,
        measure: bool = False,
    ) -> tuple[float, float]:
        """Reads, quantizes and writes one tensor.

        src_type: a quant, or F8_E4M3 with f32 `scales` for every scale_rows x scale_cols values.
        row_order: u32 [n_rows], which of the file's rows each one is. importance: f32 [row_dim].
        Returns the sums of importance * (x - x')^2 and of importance * x^2 where `measure`.
        """

def quants() -> dict[str, tuple[int, int, int]]:
    """The formats of weights: ggml's number, values a block, bytes a block."""

def kv_format() -> tuple[int, int]:
    """The arithmetic's version, and the tokens of a KV block."""

def sampling() -> list[tuple[str, float, float, float]]:
    """The sampler's settings: name, lowest, highest, and the value that changes nothing; these are
    ints where the setting is a whole number."""

def end_texts() -> list[str]:
    """The texts of tokens that end an answer whatever a file says of them."""

def machine() -> dict[str, Any]:
    """n_cores (usable: affinity and cgroup quota) and kernels (names, best first)."""

def device_info(name: str | None = None) -> dict[str, Any]:
    """name, and free_bytes and total_bytes of its own memory, 0 where it computes in the host's;
    None: of the first device."""

def read_rate(n_bytes: int, n_threads: int, seconds: float) -> float:
    """Bytes per second that n_threads threads read from memory."""

def peak(kernels: str, is_float: bool, n_threads: int, seconds: float) -> float:
    """Multiply-adds per second, of int8 or float32, of n_threads threads that do nothing else, with
    the instructions of these kernels; 0 where the processor does not have them."""
