"""The native quantizer: tensors of one file written into another, with localllm's own errors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from localllm import _native
from localllm.engines.native import translate

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]


class QuantInfo(NamedTuple):
    """How a quant is stored: ggml's number for it, values and bytes of a block."""

    ggml_id: int
    block_dim: int
    block_bytes: int


QUANTS = {name: QuantInfo(*row) for name, row in _native.quants().items()}


class Loss(NamedTuple):
    """Sums over a tensor of importance * (x - x')^2, and of importance * x^2."""

    error: float
    total: float


@dataclass(frozen=True)
class TensorSource:
    """Rows of a tensor in an open file. type: one of QUANTS, or F8_E4M3.

    row_order: u32 [n_rows], the file's row that each one is; None: as they lie.
    scales: of F8_E4M3, f32, one for scale_rows x scale_cols values; None: all 1.
    """

    fd: int
    offset: int
    type: str
    n_rows: int
    row_dim: int
    row_order: NDArray[numpy.uint32] | None = None
    scales: Floats | None = None
    scale_rows: int = 0
    scale_cols: int = 0


def buffer(array: NDArray[Any] | None) -> memoryview | None:
    return None if array is None else array.data


class TensorWriter:
    """Threads that write tensors; one for a whole file. threads: 0 is the usable cores."""

    def __init__(self, threads: int = 0) -> None:
        try:
            self.quantizer = _native.Quantizer(n_threads=threads)
        except _native.Error as error:
            raise translate(error) from error

    def write(
        self,
        source: TensorSource,
        quant: str,
        fd: int,
        offset: int,
        *,
        importance: Floats | None = None,
        measure: bool = False,
        where: str = "",
    ) -> Loss:
        """Quantizes a tensor to `offset` of an open file; the loss is zeros unless measured.

        where: the tensor's name, for errors. Raises: OSError (a full disk …), EngineError,
        InterruptedByUserError.
        """
        try:
            return Loss(
                *self.quantizer.write(
                    src_fd=source.fd,
                    src_offset=source.offset,
                    src_type=source.type,
                    n_rows=source.n_rows,
                    row_dim=source.row_dim,
                    row_order=buffer(source.row_order),
                    scales=buffer(source.scales),
                    scale_rows=source.scale_rows,
                    scale_cols=source.scale_cols,
                    quant=quant,
                    out_fd=fd,
                    out_offset=offset,
                    importance=buffer(importance),
                    measure=measure,
                )
            )
        except _native.Error as error:
            if error.errno:
                raise OSError(error.errno, os.strerror(error.errno)) from error
            raise translate(error, where=f"{where}: " if where else "") from error
