"""One GGUF file made from another: the same metadata, other quants."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.convert import mixes
from localllm.convert.gguf_out import Progress, Tensor, write_gguf
from localllm.convert.gguf_values import u32
from localllm.engines.quantizer import QUANTS, Loss, TensorSource
from localllm.errors import UsageError

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile
    from localllm.engines.quantizer import Floats

QUANTIZATION_VERSION = 2  # of the block formats, as all readers know them


@dataclass(frozen=True)
class Choice:
    """What becomes of one tensor."""

    name: str
    dims: tuple[int, ...]
    before: str
    after: str
    offset: int

    @property
    def n_values(self) -> int:
        n = 1
        for dim in self.dims:
            n *= dim
        return n

    @property
    def n_bytes(self) -> int:
        """What it takes afterwards."""
        quant = QUANTS[self.after]
        return self.n_values // quant.block_dim * quant.block_bytes


def choose(
    file: ModelFile,
    mix: str,
    overrides: Sequence[tuple[str, str]] = (),
    importance: Mapping[str, Floats] | None = None,
) -> list[Choice]:
    """The quant of every tensor of a file, in the file's order.

    overrides: (pattern, quant) pairs, which go before the mix's rules. Raises: UsageError for one
    of several files.
    """
    n_files = file.meta("split.count") or 1
    if n_files > 1:
        raise UsageError(
            f"{os.fspath(file.path)!r} is one of {n_files} files, expected a model in one"
        )
    tensors = file.tensors()
    info = file.info
    shape = mixes.Shape(
        arch=info["arch"],
        n_layers=info["n_layers"],
        n_heads=info["n_heads"],
        n_kv_heads=info["n_kv_heads"],
        is_tied=all(name != "output.weight" for name, *_ in tensors),
        has_importance=importance is not None,
    )
    chooser = mixes.Chooser(mix, shape, overrides)
    after = {
        name: chooser.choose(name, dims) for name, _, dims, *_ in sorted(tensors, key=by_layer)
    }
    return [
        Choice(name, dims, quant, after[name], offset) for name, quant, dims, _, offset in tensors
    ]


def by_layer(tensor: tuple[str, str, tuple[int, ...], int, int]) -> tuple[int, str]:
    """The order in which the rules count: layer by layer, what belongs to none first."""
    parts = tensor[0].split(".")
    return (int(parts[1]) if parts[0] == "blk" and parts[1].isdigit() else -1, tensor[0])


def requantize(
    file: ModelFile,
    choices: Sequence[Choice],
    mix: str,
    out: Path,
    *,
    importance: Mapping[str, Floats] | None = None,
    threads: int = 0,
    measure: bool = False,
    progress: Progress | None = None,
) -> list[Loss]:
    """Writes the file anew with the quants chosen.

    importance: of each matrix, how much the squared error of a column counts; a matrix without is
    quantized with all alike. Raises: UsageError where one is of another shape, and as write_gguf.
    """
    metadata = file.meta_bytes()
    metadata["general.file_type"] = u32(mixes.MIXES[mix].file_type)
    metadata["general.quantization_version"] = u32(QUANTIZATION_VERSION)
    with reading(file.path) as fd:
        tensors = [make_tensor(choice, fd, importance or {}) for choice in choices]
        return write_gguf(
            out, metadata, tensors, threads=threads, measure=measure, progress=progress
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def make_tensor(choice: Choice, fd: int, importance: Mapping[str, Floats]) -> Tensor:
    columns = importance.get(choice.name)
    if columns is not None and columns.size != choice.dims[0]:
        raise UsageError(
            f"the importance of {choice.name} has {columns.size} columns, expected "
            f"{choice.dims[0]}",
            "a matrix of this very model",
        )
    source = TensorSource(
        fd=fd,
        offset=choice.offset,
        type=choice.before,
        n_rows=choice.n_values // choice.dims[0],
        row_dim=choice.dims[0],
    )
    return Tensor(choice.name, choice.dims, choice.after, source, columns)
