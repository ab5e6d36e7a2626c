"""One GGUF file made from another, or from all files of a split one: the same metadata, other
quants."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.convert import mixes
from localllm.convert.gguf_out import Progress, Tensor, write_gguf
from localllm.convert.gguf_values import u32
from localllm.convert.tensor_quants import Chooser
from localllm.engines.quantizer import QUANTS, Loss, TensorSource
from localllm.errors import UsageError
from localllm.models.sources.split import model_files, parse_split

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile, TensorInfo
    from localllm.engines.quantizer import Floats

QUANTIZATION_VERSION = 2  # of the block formats, as all readers know them
# What only a file has that is one of several; the one that is made of them is not.
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class Choice:
    """What becomes of one tensor. after: its new quant."""

    tensor: TensorInfo
    after: str

    @property
    def n_values(self) -> int:
        return math.prod(self.tensor.shape)

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

    overrides: (pattern, quant) pairs, which go before the mix's rules.
    """
    tensors = file.tensors()
    info = file.info
    shape = mixes.Shape(
        arch=info["arch"],
        n_layers=info["n_layers"],
        n_heads=info["n_heads"],
        n_kv_heads=info["n_kv_heads"],
        is_tied=all(tensor.name != "output.weight" for tensor in tensors),
        has_importance=importance is not None,
    )
    chooser = Chooser(mix, shape, overrides)
    after = {t.name: chooser.choose(t.name, t.shape) for t in sorted(tensors, key=by_layer)}
    return [Choice(tensor, after[tensor.name]) for tensor in tensors]


def beside(source: Path, mix: str) -> Path:
    """Where a file is made of another, or of a split one, unless somebody says where."""
    split = parse_split(source.name)
    return source.with_name(f"{split.prefix if split else source.stem}-{mix}.gguf")


def by_layer(tensor: TensorInfo) -> tuple[int, str]:
    """The order in which the rules count: layer by layer, what belongs to none first."""
    parts = tensor.name.split(".")
    return (int(parts[1]) if parts[0] == "blk" and parts[1].isdigit() else -1, tensor.name)


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
    for key in SPLIT_KEYS:
        metadata.pop(key, None)
    metadata["general.file_type"] = u32(mixes.MIXES[mix].file_type)
    metadata["general.quantization_version"] = u32(QUANTIZATION_VERSION)
    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(reading(path)) for path in model_files(file.path)]
        tensors = [
            make_tensor(choice, fds[choice.tensor.file], importance or {}) for choice in choices
        ]
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
    name, shape = choice.tensor.name, choice.tensor.shape
    columns = importance.get(name)
    if columns is not None and columns.size != shape[0]:
        raise UsageError(
            f"the importance of {name} has {columns.size} columns, expected {shape[0]}",
            "a matrix of this very model",
        )
    source = TensorSource(
        fd=fd,
        offset=choice.tensor.offset,
        type=choice.tensor.quant,
        n_rows=choice.n_values // shape[0],
        row_dim=shape[0],
    )
    return Tensor(name, shape, choice.after, source, columns)
