"""What every measurement here begins with: a text in chunks, and their logits, a few rows a time.

Chunks are cut as llama.cpp's perplexity cuts them: whole ones of n_ctx tokens, the first token of
each replaced by BOS where the model begins texts with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from localllm.engines.base import EngineOptions
from localllm.errors import UsageError
from localllm.memory.limits import find_limits
from localllm.memory.verdict import choose_options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from localllm.engines.base import Engine, ModelFile
    from localllm.memory.need import Component

Progress = Callable[[int, int], None]  # chunks done, chunks in all

LOGIT_ROWS = 64  # rows of a step, all of whose logits are kept
PIECE_ROWS = 16  # handed out at once: numpy is deaf to Ctrl-C until a call returns


def cut(file: ModelFile, text: str, n_ctx: int, max_chunks: int = 0) -> list[list[int]]:
    """Whole chunks of n_ctx ids; max_chunks 0: all there are.

    Raises: UsageError, for a text of less than a chunk, or chunks longer than the model's context.
    """
    n_train = int(file.info["n_ctx_train"])
    if n_ctx > n_train:
        raise UsageError(f"chunks of {n_ctx} tokens, but the model's context has {n_train}")
    ids = file.tokenize(text, add_special=True)
    n_chunks = len(ids) // n_ctx
    if max_chunks:
        n_chunks = min(n_chunks, max_chunks)
    if n_chunks == 0:
        raise UsageError(
            f"the text has {len(ids)} tokens, less than one chunk of {n_ctx}",
            "a longer text, or a smaller --ctx",
        )
    chunks = [ids[i * n_ctx : (i + 1) * n_ctx] for i in range(n_chunks)]
    bos = file.tokenize("", add_special=True)[:1]
    if ids[:1] == bos:
        for chunk in chunks:
            chunk[:1] = bos
    return chunks


def open_engine(
    file: ModelFile,
    n_ctx: int,
    n_threads: int = 0,
    kv_k: str | None = None,
    kv_v: str | None = None,
    beside: Sequence[Component] = (),
) -> Engine:
    """An engine for such chunks, after a look at memory.

    beside: what else will be taken. Raises: DoesNotFitError.
    """
    n_rows = min(LOGIT_ROWS, n_ctx)
    asked = EngineOptions(
        n_ctx=n_ctx, n_batch=n_rows, n_logits=n_rows, n_threads=n_threads, kv_k=kv_k, kv_v=kv_v
    )
    options, _ = choose_options(file, asked, find_limits(), beside=beside)
    return file.open_engine(options)


def logits(
    engine: Engine, chunks: list[list[int]], first: int, progress: Progress | None = None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Logits [n, n_vocab] behind positions first, first + 1 … of each chunk, and the ids [n] that
    come next; the last position of a chunk has none. An array is valid until the next one.
    """
    session = engine.session()
    for done, chunk in enumerate(chunks):
        session.truncate(0)
        for start in range(0, len(chunk) - 1, engine.n_batch):
            rows = chunk[start : min(start + engine.n_batch, len(chunk) - 1)]
            n_kept = min(len(rows), max(0, start + len(rows) - first))
            engine.step([(session, rows, n_kept)])
            if n_kept == 0:
                continue
            end = start + len(rows)
            with engine.logits() as kept:
                values = np.frombuffer(kept, dtype=np.float32).reshape(n_kept, -1)
                following = np.array(chunk[end - n_kept + 1 : end + 1], dtype=np.int64)
                for piece in range(0, n_kept, PIECE_ROWS):
                    rows_of_piece = slice(piece, piece + PIECE_ROWS)
                    yield values[rows_of_piece], following[rows_of_piece]
                del values
        if progress:
            progress(done + 1, len(chunks))
    session.close()
