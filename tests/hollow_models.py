"""Models whose weights are holes in their files: any shape and size at the cost of the header.

A hole reads as zeros, which is a valid model of every quant: all logits are equal and every answer
is the first token again and again. Its pages become resident as those of real weights do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quant
from scripted_models import ALPHABET

END = "<|end|>"


@dataclass(frozen=True)
class Hollow:
    """The dimensions of a llama model, or of a gemma3 where it has a window, and the quant of its
    matrices."""

    n_layers: int = 4
    dim: int = 512
    ffn_dim: int = 1536
    n_heads: int = 8
    n_kv_heads: int = 4
    n_vocab: int = 8192
    n_ctx: int = 8192
    quant: str = "Q8_0"
    is_tied: bool = True
    window: int = 0  # of five layers in six

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        return self.head_dim * self.n_kv_heads

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """Name, rows and columns of each."""
        yield "token_embd.weight", self.n_vocab, self.dim
        if not self.is_tied:
            yield "output.weight", self.n_vocab, self.dim
        roles = {
            "attn_q": (self.dim, self.dim),
            "attn_k": (self.kv_dim, self.dim),
            "attn_v": (self.kv_dim, self.dim),
            "attn_output": (self.dim, self.dim),
            "ffn_gate": (self.ffn_dim, self.dim),
            "ffn_up": (self.ffn_dim, self.dim),
            "ffn_down": (self.dim, self.ffn_dim),
        }
        for layer in range(self.n_layers):
            for role, (n_rows, n_columns) in roles.items():
                yield f"blk.{layer}.{role}.weight", n_rows, n_columns

    def norms(self) -> Iterator[tuple[str, int]]:
        """Name and length of each."""
        roles = {"attn_norm": self.dim, "ffn_norm": self.dim}
        if self.window:
            roles |= {"attn_q_norm": self.head_dim, "attn_k_norm": self.head_dim}
            roles |= {"post_attention_norm": self.dim, "post_ffw_norm": self.dim}
        for layer in range(self.n_layers):
            for role, n in roles.items():
                yield f"blk.{layer}.{role}.weight", n
        yield "output_norm.weight", self.dim


# Shapes that differ in what dominates: weights, a vocabulary, KV, many small layers, wide rows; and
# one that gives KV back.
SHAPES = {
    "small": Hollow(),
    "kv": Hollow(n_layers=8, dim=512, n_kv_heads=8),
    "vocabulary": Hollow(n_layers=2, dim=256, ffn_dim=512, n_heads=4, n_vocab=200_000),
    "untied": Hollow(n_layers=4, n_vocab=64_000, is_tied=False, quant="Q4_0"),
    "deep": Hollow(n_layers=32, dim=256, ffn_dim=768, n_heads=4, n_kv_heads=2, quant="F16"),
    "windowed": Hollow(n_layers=12, ffn_dim=2048, n_kv_heads=8, window=512),
    "wide": Hollow(n_layers=2, dim=2048, ffn_dim=8192, n_heads=16, n_kv_heads=2, quant="Q4_K"),
}

# About the sizes of Llama 3 70B as Q4_K: 40 GB.
HUGE = Hollow(
    n_layers=80, dim=8192, ffn_dim=28672, n_heads=64, n_kv_heads=8, n_vocab=128256, n_ctx=131072,
    quant="Q4_K", is_tied=False,
)  # fmt: skip


def write_hollow(path: Path, model: Hollow) -> Path:
    """Writes the header; the rest of the file, of the size it would have, is one hole."""
    writer = gguf.GGUFWriter(str(path), "gemma3" if model.window else "llama")
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(model.dim)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.ffn_dim)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    if model.window:
        writer.add_sliding_window(model.window)
    add_tokenizer(writer, model.n_vocab)
    kind = Quant[model.quant]
    for name, n_rows, n_columns in model.matrices():
        shape = gguf.quant_shape_to_byte_shape((n_rows, n_columns), kind)
        n_bytes = n_rows * shape[1]
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), n_bytes, raw_dtype=kind)
    for name, n in model.norms():
        writer.add_tensor_info(name, (n,), np.dtype(np.float32), n * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.stat().st_size
    aligned = [-(-info.nbytes // 32) * 32 for info in writer.tensors[0].values()]
    with path.open("r+b") as file:
        file.truncate(-(-header // 32) * 32 + sum(aligned))
    return path


def count_words(n_vocab: int) -> int:
    return n_vocab - len(ALPHABET) - 2


def random_text(n_tokens: int, n_vocab: int, seed: int = 1) -> str:
    """A text of so many words of the vocabulary, so that its rows are read from all over."""
    numbers = np.random.default_rng(seed).integers(0, count_words(n_vocab), n_tokens)
    return "".join(f"<{i}>" for i in numbers)


def add_tokenizer(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """Every byte and one merge, then the words <0>, <1>, <2> …, then the end."""
    words = [f"<{i}>" for i in range(count_words(n_vocab))]
    kinds = [gguf.TokenType.NORMAL] * (len(ALPHABET) + 1)
    kinds += [gguf.TokenType.USER_DEFINED] * len(words) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*ALPHABET, "ab", *words, END])
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_bos_token_id(n_vocab - 1)
    writer.add_add_bos_token(False)
