"""The error of our blocks over that of llama.cpp's, for every quant.

    python bench/quantize_error.py [MODEL.gguf TENSOR …] [--rows 64]

Values are normal, Laplace and Student (3 degrees of freedom), and the tensors named of a file; each
with all values alike and with log-normal importance. The error is sum of importance * (x - x')^2,
with x' as the gguf package reads the blocks; below 1 ours is smaller. The peer's quantizer is the
library inside llama-cpp-python, called directly.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize
from peer_python import get_peer_python

from localllm.engines.quantizer import QUANTS, TensorSource, TensorWriter

FLOATS = ("F32", "F16", "BF16")
N = 1024


def peer_library() -> ctypes.CDLL:
    find = "import llama_cpp, pathlib; print(pathlib.Path(llama_cpp.__file__).parent / 'lib')"
    shown = subprocess.run(
        [get_peer_python("native"), "-c", find], check=True, capture_output=True, text=True
    )
    library = ctypes.CDLL(str(next(Path(shown.stdout.strip()).glob("libggml-base.so*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, pointer, pointer, count, count, count, pointer,
    ]  # fmt: skip
    return library


def quantize_ours(quant: str, x: Any, importance: Any) -> Any:
    info = QUANTS[quant]
    n_rows, n = x.shape
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out:
        source.write(x.tobytes())
        source.flush()
        TensorWriter().write(
            TensorSource(source.fileno(), 0, "F32", n_rows, n),
            quant,
            out.fileno(),
            0,
            importance=importance,
        )
        n_bytes = x.size // info.block_dim * info.block_bytes
        return np.frombuffer(os.pread(out.fileno(), n_bytes, 0), np.uint8)


def quantize_peer(library: ctypes.CDLL, quant: str, x: Any, importance: Any) -> Any:
    info = QUANTS[quant]
    out = np.zeros(x.size // info.block_dim * info.block_bytes, np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library.ggml_quantize_chunk(
        info.ggml_id, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], weights
    )
    return out


def error(quant: str, x: Any, importance: Any, blocks: Any) -> float:
    read = dequantize(blocks.reshape(x.shape[0], -1), gguf.GGMLQuantizationType[quant])
    weights = 1.0 if importance is None else importance
    return float((weights * (x.astype(np.float64) - read) ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("tensors", nargs="*")
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    chance, shape = np.random.default_rng(7), (options.rows, N)
    values = {
        "normal": chance.normal(0, 0.02, shape),
        "laplace": chance.laplace(0, 0.02, shape),
        "student": chance.standard_t(3, shape) * 0.02,
    }
    if options.model is not None:
        for tensor in gguf.GGUFReader(options.model).tensors:
            if tensor.name in options.tensors:
                whole = dequantize(tensor.data, tensor.tensor_type)
                values[tensor.name] = whole[:, : whole.shape[1] // 256 * 256]
    library = peer_library()
    print("quant", *(f"{name}  {name}+importance" for name in values), sep="  ")
    for quant in QUANTS:
        if quant in FLOATS:
            continue
        cells = []
        for given in values.values():
            x = np.ascontiguousarray(given, np.float32)
            weights = np.random.default_rng(8).lognormal(0, 1.5, x.shape[1]).astype(np.float32)
            for importance in (None, weights):
                ours = error(quant, x, importance, quantize_ours(quant, x, importance))
                theirs = error(quant, x, importance, quantize_peer(library, quant, x, importance))
                cells.append(f"{ours / theirs:.3f}" if theirs else f"{ours:.2g} to 0")
        print(quant, *cells, sep="  ")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
