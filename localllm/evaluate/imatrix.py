"""Collects the importance of a model's inputs over a text, in the engine's own prefill.

Every row keeps its logits, since only such rows go through all of the last layer; the sums do not
depend on how the chunks (see texts.py) are cut into steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from localllm.engines.base import EngineOptions
from localllm.evaluate.imatrix_file import Importance, Sums
from localllm.evaluate.texts import Progress
from localllm.memory.need import Component, Kind

if TYPE_CHECKING:
    from localllm.engines.base import Engine, ModelFile

DOUBLE, SINGLE = 8, 4  # bytes
LAYERS = "blk."  # what the names of a layer's weights begin with


def memory(file: ModelFile) -> Component:
    """What collect() takes beside the engine's own memory: the engine's sums, in double, then the
    sums of every matrix as they are handed out, in double, and as they are kept, in single."""
    n_columns = sum(tensor.shape[0] for tensor in file.tensors() if len(tensor.shape) == 2)
    n_bytes = file.plan(EngineOptions()).importance_bytes + n_columns * (DOUBLE + SINGLE)
    return Component("importance", Kind.anonymous, n_bytes, n_bytes)


def collect(
    engine: Engine,
    chunks: list[list[int]],
    *,
    dataset: str = "",
    with_output: bool = False,
    progress: Progress | None = None,
) -> Importance:
    """The sums over all chunks. The engine keeps the logits of as many rows as its batch has.

    with_output: also of the output matrix. Raises: EngineError, InterruptedByUserError.
    """
    session = engine.session()
    engine.set_importance(True)
    for done, chunk in enumerate(chunks):
        session.truncate(0)
        for start in range(0, len(chunk), engine.n_batch):
            rows = chunk[start : start + engine.n_batch]
            engine.step([(session, rows, len(rows))])
        if progress:
            progress(done + 1, len(chunks))
    engine.set_importance(False)
    session.close()
    sums = {
        name: Sums(
            np.frombuffer(squares, dtype=np.float64).astype(np.float32).reshape(1, -1),
            np.array([n_rows], dtype=np.float32),
        )
        for name, n_rows, squares in engine.importance()
        if with_output or name.startswith(LAYERS)
    }
    return Importance(sums, [dataset] if dataset else [], len(chunks), len(chunks[0]))
