"""Writes model files of about a billion random weights, one for each quant that is measured.

    python bench/synthetic.py PATH QUANT        QUANT: Q4_K_M Q8_0 Q6_K Q4_0 F16 BF16

A quant is a row: how its block lies in memory, and which fields of a block of random bytes are then
set so that every weight is a plain number of about the size that keeps a residual stream of any
depth finite. So a file costs little more than the random bytes in it, and every bit pattern of the
codes occurs. The shapes are those of a 1B Llama; the mix of Q4_K_M and the head of the small quants
are the ones that quantizing a real model gives. The vocabulary is a byte-level BPE of letters,
large enough that reading it costs what a real one costs. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_letters
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quant
from gguf import LlamaFileType as FileType

Blocks = np.ndarray[Any, np.dtype[Any]]
Fill = Callable[[Blocks, np.random.Generator, float], None]


@dataclass(frozen=True)
class Shape:
    """The dimensions of a llama model with tied output."""

    n_layers: int = 16
    dim: int = 2048
    ffn_dim: int = 8192
    n_heads: int = 32
    n_kv_heads: int = 8
    n_vocab: int = 128256
    n_ctx: int = 16384

    @property
    def kv_dim(self) -> int:
        return self.dim // self.n_heads * self.n_kv_heads


# ---- blocks ------------------------------------------------------------------------------------
# `deviation` is the standard deviation that the block's weights should have, about.

CODE_DEVIATION = {4: 4.6, 6: 18.5, 8: 73.3}  # of equally likely codes of so many bits


def float_fields(base: int, low_bits: int) -> Fill:
    """Sign, mantissa and the lowest bit of the exponent stay random: 2^-7 to 2^-5 for every layer,
    no zeros, denormals or infinities."""

    def fill(blocks: Blocks, chance: np.random.Generator, deviation: float) -> None:
        blocks["w"] = blocks["w"] & (0x8000 | low_bits) | base

    return fill


def fill_q4_0(blocks: Blocks, chance: np.random.Generator, deviation: float) -> None:
    """Codes lie between -8 and 7, so only scales of both signs make their mean zero."""
    signs = chance.choice(np.array([-1.0, 1.0]), len(blocks))
    blocks["d"] = deviation / CODE_DEVIATION[4] * chance.uniform(0.7, 1.3, len(blocks)) * signs


def fill_q8_0(blocks: Blocks, chance: np.random.Generator, deviation: float) -> None:
    np.maximum(blocks["q"], -127, out=blocks["q"])  # what no quantizer writes
    blocks["d"] = deviation / CODE_DEVIATION[8] * chance.uniform(0.7, 1.3, len(blocks))


def fill_q4_k(blocks: Blocks, chance: np.random.Generator, deviation: float) -> None:
    """Scale and minimum of a sub-block are one number, and dmin is d times the mean code, so the
    weights' mean is zero. Numbers below 32 fit the low six bits of the packing of the first four
    sub-blocks and the low and high nibbles of the last four."""
    scales = chance.integers(8, 24, (len(blocks), 8), dtype=np.uint8)
    first, last = scales[:, :4], scales[:, 4:]
    high = (last >> 4) << 6
    low = last & 15
    blocks["scales"] = np.concatenate([first | high, first | high, low | low << 4], axis=1)
    blocks["d"] = deviation / (CODE_DEVIATION[4] * 16)
    blocks["dmin"] = 7.5 * deviation / (CODE_DEVIATION[4] * 16)


def fill_q6_k(blocks: Blocks, chance: np.random.Generator, deviation: float) -> None:
    signs = chance.integers(0, 2, (len(blocks), 16), dtype=np.int8) * 2 - 1
    blocks["scales"] = chance.integers(2, 8, (len(blocks), 16), dtype=np.int8) * signs
    blocks["d"] = deviation / (CODE_DEVIATION[6] * 4.5)


BLOCKS: dict[Quant, tuple[np.dtype[Any], Fill]] = {
    Quant.F16: (np.dtype([("w", "<u2")]), float_fields(8 << 10, 0x07FF)),
    Quant.BF16: (np.dtype([("w", "<u2")]), float_fields(120 << 7, 0x00FF)),
    Quant.Q4_0: (np.dtype([("d", "<f2"), ("q", "u1", 16)]), fill_q4_0),
    Quant.Q8_0: (np.dtype([("d", "<f2"), ("q", "i1", 32)]), fill_q8_0),
    Quant.Q4_K: (
        np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)]),
        fill_q4_k,
    ),
    Quant.Q6_K: (
        np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
        fill_q6_k,
    ),
}


def random_rows(
    quant: Quant, n_rows: int, row_dim: int, chance: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A matrix as the file holds it: bytes, [n_rows, bytes of a row]."""
    layout, fill = BLOCKS[quant]
    _, row_bytes = gguf.quant_shape_to_byte_shape((n_rows, row_dim), quant)
    data = np.frombuffer(bytearray(chance.bytes(n_rows * row_bytes)), np.uint8)
    fill(data.view(layout), chance, row_dim**-0.5)
    return data.reshape(n_rows, row_bytes)


# ---- mixes: the quant of each tensor -------------------------------------------------------------

Mix = Callable[[str, int, int], Quant]


def uniform(quant: Quant, head: Quant) -> Mix:
    return lambda role, layer, n_layers: head if role == "token_embd" else quant


def q4_k_m(role: str, layer: int, n_layers: int) -> Quant:
    """The first and the last eighth of the layers, and every third between, get more bits for the
    two matrices that suffer most."""
    eighth = n_layers // 8
    more = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
    wide = role == "token_embd" or (role in ("attn_v", "ffn_down") and more)
    return Quant.Q6_K if wide else Quant.Q4_K


MIXES: dict[str, tuple[Mix, FileType]] = {
    "Q4_K_M": (q4_k_m, FileType.MOSTLY_Q4_K_M),
    "Q8_0": (uniform(Quant.Q8_0, Quant.Q8_0), FileType.MOSTLY_Q8_0),
    "Q6_K": (uniform(Quant.Q6_K, Quant.Q6_K), FileType.MOSTLY_Q6_K),
    "Q4_0": (uniform(Quant.Q4_0, Quant.Q6_K), FileType.MOSTLY_Q4_0),
    "F16": (uniform(Quant.F16, Quant.F16), FileType.MOSTLY_F16),
    "BF16": (uniform(Quant.BF16, Quant.BF16), FileType.MOSTLY_BF16),
}


# ---- the vocabulary ------------------------------------------------------------------------------

N_CONTROL = 256


def byte_letters() -> list[str]:
    """The letter by which byte-level BPE writes each byte: itself where it is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def merged_tokens() -> Iterator[tuple[str, str]]:
    """Pairs of letters, then words of three: left and right part of each, in order of merging."""
    firsts = byte_letters()[ord(" ")] + ascii_letters
    yield from product(firsts, ascii_letters)
    for first, second, third in product(firsts, ascii_letters, ascii_letters):
        yield first + second, third


def vocabulary(n_vocab: int) -> tuple[list[str], list[str]]:
    """Tokens in order of their ids, control tokens last, and the merges."""
    letters = byte_letters()
    pairs = list(islice(merged_tokens(), n_vocab - len(letters) - N_CONTROL))
    control = [f"<|control_{i}|>" for i in range(N_CONTROL)]
    return (
        letters + [left + right for left, right in pairs] + control,
        [f"{left} {right}" for left, right in pairs],
    )


# ---- the file ------------------------------------------------------------------------------------


def matrices(shape: Shape, mix: Mix) -> Iterator[tuple[str, Quant, int, int]]:
    """Name, quant, rows and length of a row of every matrix, in the order of the file."""
    roles = {
        "attn_q": (shape.dim, shape.dim),
        "attn_k": (shape.kv_dim, shape.dim),
        "attn_v": (shape.kv_dim, shape.dim),
        "attn_output": (shape.dim, shape.dim),
        "ffn_gate": (shape.ffn_dim, shape.dim),
        "ffn_up": (shape.ffn_dim, shape.dim),
        "ffn_down": (shape.dim, shape.ffn_dim),
    }
    head = mix("token_embd", 0, shape.n_layers)
    yield "token_embd.weight", head, shape.n_vocab, shape.dim
    for layer in range(shape.n_layers):
        for role, (n_rows, row_dim) in roles.items():
            quant = mix(role, layer, shape.n_layers)
            yield f"blk.{layer}.{role}.weight", quant, n_rows, row_dim


def norm_names(shape: Shape) -> list[str]:
    of_layer = ("attn_norm", "ffn_norm")
    names = [f"blk.{layer}.{role}.weight" for layer in range(shape.n_layers) for role in of_layer]
    return [*names, "output_norm.weight"]


def describe(writer: gguf.GGUFWriter, shape: Shape, file_type: FileType) -> None:
    writer.add_name("synthetic")
    writer.add_file_type(file_type)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.dim)
    writer.add_feed_forward_length(shape.ffn_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.dim // shape.n_heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    tokens, merges = vocabulary(shape.n_vocab)
    n_plain = shape.n_vocab - N_CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * n_plain + [gguf.TokenType.CONTROL] * N_CONTROL)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(n_plain)
    writer.add_eos_token_id(n_plain + 1)


def write_model(path: Path, quant: str, shape: Shape | None = None) -> None:
    """Writes beside `path` and renames, so a file that is there is whole. One tensor at a time is
    in memory."""
    shape = shape or Shape()
    mix, file_type = MIXES[quant]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    describe(writer, shape, file_type)
    plan = list(matrices(shape, mix))
    for name, kind, n_rows, row_dim in plan:
        bytes_shape = gguf.quant_shape_to_byte_shape((n_rows, row_dim), kind)
        n_bytes = n_rows * bytes_shape[1]
        writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
    ones = np.ones(shape.dim, np.float32)
    for name in norm_names(shape):
        writer.add_tensor_info(name, ones.shape, ones.dtype, ones.nbytes, raw_dtype=Quant.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    chance = np.random.default_rng(1)
    for _, kind, n_rows, row_dim in plan:
        writer.write_tensor_data(random_rows(kind, n_rows, row_dim, chance))
    for _ in norm_names(shape):
        writer.write_tensor_data(ones)
    writer.close()
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("quant", choices=MIXES)
    options = parser.parse_args()
    write_model(options.path, options.quant)


if __name__ == "__main__":
    main()
