"""GGUF files written tensor by tensor: the header first, then every tensor at its offset.

The destination appears whole or not at all: what is written has another name until it is complete
and on the disk. Memory is a few chunks of rows, whatever the size of the model.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from localllm.convert.gguf_values import text
from localllm.disk import require_space
from localllm.engines.quantizer import QUANTS, Loss, TensorSource, TensorWriter
from localllm.errors import UsageError

if TYPE_CHECKING:
    from localllm.engines.quantizer import Floats

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT = 32  # what a file without general.alignment has

# Called with the values done and all there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file that is written. dims: GGUF's order, the row first."""

    name: str
    dims: tuple[int, ...]
    quant: str
    source: TensorSource
    importance: Floats | None = None  # [dims[0]]

    @property
    def n_values(self) -> int:
        return self.source.n_rows * self.source.row_dim

    @property
    def n_bytes(self) -> int:
        """What it takes in the file."""
        quant = QUANTS[self.quant]
        return self.n_values // quant.block_dim * quant.block_bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, bytes],
    tensors: Sequence[Tensor],
    *,
    threads: int = 0,
    measure: bool = False,
    progress: Progress | None = None,
    accept: Callable[[Path], None] | None = None,
) -> list[Loss]:
    """Writes a GGUF file; returns the loss of each tensor, zeros unless `measure`.

    metadata: every key's value as it lies in a file, from its type on. accept: called with a file
    of the final size that lacks only the matrices, and may raise.
    Raises: DoesNotFitError where the disk is too full, OSError, EngineError where a tensor holds
    what is not finite, InterruptedByUserError.
    """
    writer = TensorWriter(threads)
    header, ends = make_header(metadata, tensors)
    n_values, n_done = sum(tensor.n_values for tensor in tensors), 0
    losses: dict[int, Loss] = {}
    require_space(path.absolute().parent, ends[-1])
    with replacing(path) as partial, partial.open("wb") as file:
        start(file, header, ends)
        for i in vectors_first(tensors):
            if accept is not None and len(losses) == n_vectors(tensors):
                accept(partial)
            losses[i] = write_tensor(writer, tensors[i], file, ends[i], measure)
            n_done += tensors[i].n_values
            if progress is not None:
                progress(n_done, n_values)
        os.fsync(file.fileno())
    return [losses[i] for i in range(len(tensors))]


def sketch_gguf(path: Path, metadata: Mapping[str, bytes], tensors: Sequence[Tensor]) -> None:
    """Writes a GGUF file whose matrices are holes: enough to plan with. Raises as write_gguf."""
    writer = TensorWriter(1)
    header, ends = make_header(metadata, tensors)
    with path.open("wb") as file:
        start(file, header, ends)
        for i in vectors_first(tensors)[: n_vectors(tensors)]:
            write_tensor(writer, tensors[i], file, ends[i])


def start(file: BinaryIO, header: bytes, ends: Sequence[int]) -> None:
    """Writes the header, and gives the file its size."""
    file.write(header)
    file.truncate(ends[-1])


def vectors_first(tensors: Sequence[Tensor]) -> list[int]:
    """The order in which tensors are written; they lie in the file in their own."""
    return sorted(range(len(tensors)), key=lambda i: len(tensors[i].dims) > 1)


def n_vectors(tensors: Sequence[Tensor]) -> int:
    return sum(len(tensor.dims) == 1 for tensor in tensors)


def write_tensor(
    writer: TensorWriter, tensor: Tensor, file: BinaryIO, offset: int, measure: bool = False
) -> Loss:
    return writer.write(
        tensor.source,
        tensor.quant,
        file.fileno(),
        offset,
        importance=tensor.importance,
        measure=measure,
        where=tensor.name,
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its name when all went well, and else is gone.

    What an attempt that was killed left behind goes with the next one.
    """
    if path.is_dir():
        raise UsageError(f"{os.fspath(path)!r} is a folder, and must be a file")
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def make_header(
    metadata: Mapping[str, bytes], tensors: Sequence[Tensor]
) -> tuple[bytes, list[int]]:
    """Everything before the tensors' bytes; where each begins, and last where all end."""
    align = alignment(metadata)
    offsets = [0]
    for tensor in tensors:
        offsets.append(padded(offsets[-1] + tensor.n_bytes, align))
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [text(key), value]
    for tensor, offset in zip(tensors, offsets, strict=False):
        n_dims = len(tensor.dims)
        ggml_id = QUANTS[tensor.quant].ggml_id
        parts += [text(tensor.name), struct.pack(f"<I{n_dims}Q", n_dims, *tensor.dims)]
        parts += [struct.pack("<IQ", ggml_id, offset)]
    header = b"".join(parts)
    begin = padded(len(header), align)
    return header.ljust(begin, b"\0"), [begin + offset for offset in offsets]


def alignment(metadata: Mapping[str, bytes]) -> int:
    given = metadata.get("general.alignment")
    return struct.unpack("<I", given[4:])[0] if given else ALIGNMENT


def padded(n_bytes: int, align: int) -> int:
    return -(-n_bytes // align) * align
