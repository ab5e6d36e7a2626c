"""Tiny random models, one for each family and each kind of RoPE scaling, made from a seed alone.

A model is a row of TINY_MODELS. Its weights come from a fixed integer hash, so they need not be
stored: the same bits appear wherever this file runs. Every weight is a multiple of 2^-10 below 2
in size, hence exact in F16 as in F32. `write_gguf` needs numpy and gguf only;
`make_tiny_logits.py` feeds the same weights to transformers and stores the logits that the engine
is held against. Weights carry Hugging Face names and layouts; `gguf_tensors` applies what a
converter does (the row permutation of llama's q and k, the +1 on gemma's norms, llama3's factors).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

N_TOKENS = 64
N_VOCAB = 320
DIM = 64


@dataclass(frozen=True)
class TinyModel:
    """One model. `rope` is transformers' rope_parameters, of the global layers for gemma3."""

    name: str
    arch: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    rope: dict[str, Any]
    tied: bool = False
    n_ctx: int = 256
    window: int = 0
    window_period: int = 6
    local_rope_base: float = 10000.0
    writes_window_keys: bool = False
    weight_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
    tokenizer: str = "llama"
    value_dim: int = 0  # channels of a value where they are not head_dim
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def eps(self) -> float:
        return 1e-6 if self.arch in ("gemma3", "qwen3") else 1e-5

    @property
    def v_dim(self) -> int:
        return self.value_dim or self.head_dim

    @property
    def has_qkv_bias(self) -> bool:
        return self.arch == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        return self.arch in ("qwen3", "gemma3")

    def is_local(self, layer: int) -> bool:
        return self.window > 0 and layer % self.window_period < self.window_period - 1


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}


def plain_rope(base: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base}


def linear_rope(base: float, factor: float) -> dict[str, Any]:
    return {"rope_type": "linear", "rope_theta": base, "factor": factor}


F16 = gguf.GGMLQuantizationType.F16

TINY_MODELS = (
    TinyModel("llama3", "llama", 3, 4, 2, 16, 160, LLAMA3_ROPE, n_ctx=8192, tokenizer="llama-bpe"),
    TinyModel("llama2-linear", "llama", 2, 4, 4, 16, 96, linear_rope(10000.0, 4.0)),
    TinyModel("mistral-f16", "llama", 2, 4, 2, 24, 128, plain_rope(1e6), weight_type=F16),
    TinyModel("qwen2", "qwen2", 3, 4, 2, 16, 128, plain_rope(1e6), tied=True, tokenizer="qwen2"),
    TinyModel("qwen3", "qwen3", 3, 4, 2, 32, 96, plain_rope(1e6), tied=True, tokenizer="qwen2"),
    TinyModel("qwen3-yarn", "qwen3", 2, 4, 1, 32, 96, YARN_ROPE, n_ctx=8192, tokenizer="qwen2"),
    TinyModel("gemma3", "gemma3", 7, 4, 1, 32, 96, linear_rope(1e6, 8.0), tied=True, window=16),
    TinyModel(
        "gemma3-keys",
        "gemma3",
        4,
        4,
        2,
        16,
        96,
        plain_rope(5e5),
        tied=True,
        window=9,
        window_period=3,
        local_rope_base=20000.0,
        writes_window_keys=True,
    ),
    TinyModel(
        "gemma3-values",
        "gemma3",
        4,
        4,
        2,
        24,
        96,
        plain_rope(1e6),
        tied=True,
        window=20,
        window_period=2,
        writes_window_keys=True,
        value_dim=16,
    ),
    TinyModel(
        "qwen2-values",
        "qwen2",
        3,
        4,
        2,
        16,
        128,
        plain_rope(1e6),
        tied=True,
        tokenizer="qwen2",
        value_dim=40,
    ),
)

# Those of which checkpoints and the peer know the shape.
PLAIN_MODELS = tuple(model for model in TINY_MODELS if model.v_dim == model.head_dim)


# ---- numbers from a seed ------------------------------------------------------------------------


def hash_words(seed: int, n: int) -> NDArray[np.uint64]:
    """n well-mixed 64-bit words: a counter through an invertible multiply-xorshift hash."""
    with np.errstate(over="ignore"):
        words = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        words += np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))


def random_floats(name: str, shape: tuple[int, ...], deviation: float) -> Floats:
    """Roughly normal multiples of 2^-10: the sum of four uniform 16-bit parts of a hash."""
    words = hash_words(zlib.crc32(name.encode()), math.prod(shape))
    parts = sum(
        ((words >> np.uint64(s)) & np.uint64(0xFFFF)).astype(np.float64) for s in (0, 16, 32, 48)
    )
    unit = (parts / 65535.0 - 2.0) * math.sqrt(3.0)
    return (np.round(unit * deviation * 1024.0) / 1024.0).astype(np.float32).reshape(shape)


def token_ids(model: TinyModel) -> list[int]:
    """The text of a model: N_TOKENS ids, each of the vocabulary as likely."""
    words = hash_words(zlib.crc32(f"{model.name} ids".encode()), N_TOKENS)
    return [int(word % np.uint64(N_VOCAB)) for word in words]


# ---- weights in Hugging Face names and layouts --------------------------------------------------


def make_weights(model: TinyModel) -> dict[str, Floats]:
    q_dim, k_dim = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    v_dim, heads_dim = model.n_kv_heads * model.v_dim, model.n_heads * model.v_dim
    weights: dict[str, Floats] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        weights[name] = random_floats(f"{model.name} {name}", (rows, columns), columns**-0.5)

    def vector(name: str, n: int, middle: float) -> None:
        weights[name] = middle + random_floats(f"{model.name} {name}", (n,), 0.2)

    norm_middle = 0.0 if model.arch == "gemma3" else 1.0
    embedding = random_floats(f"{model.name} embedding", (N_VOCAB, DIM), 0.25)
    weights["model.embed_tokens.weight"] = embedding
    if not model.tied:
        matrix("lm_head.weight", N_VOCAB, DIM)
    vector("model.norm.weight", DIM, norm_middle)
    for layer in range(model.n_layers):
        prefix = f"model.layers.{layer}."
        for role, rows in (("q", q_dim), ("k", k_dim), ("v", v_dim)):
            matrix(f"{prefix}self_attn.{role}_proj.weight", rows, DIM)
            if model.has_qkv_bias:
                vector(f"{prefix}self_attn.{role}_proj.bias", rows, 0.0)
        if model.has_qk_norm:
            vector(f"{prefix}self_attn.q_norm.weight", model.head_dim, norm_middle)
            vector(f"{prefix}self_attn.k_norm.weight", model.head_dim, norm_middle)
        matrix(f"{prefix}self_attn.o_proj.weight", DIM, heads_dim)
        matrix(f"{prefix}mlp.gate_proj.weight", model.ffn_dim, DIM)
        matrix(f"{prefix}mlp.up_proj.weight", model.ffn_dim, DIM)
        matrix(f"{prefix}mlp.down_proj.weight", DIM, model.ffn_dim)
        vector(f"{prefix}input_layernorm.weight", DIM, norm_middle)
        vector(f"{prefix}post_attention_layernorm.weight", DIM, norm_middle)
        if model.arch == "gemma3":
            vector(f"{prefix}pre_feedforward_layernorm.weight", DIM, norm_middle)
            vector(f"{prefix}post_feedforward_layernorm.weight", DIM, norm_middle)
    return weights


def weights_checksum(model: TinyModel) -> int:
    """Stored beside a judge's logits, to notice if the weights are no longer those it saw."""
    checksum = 0
    for name, weight in sorted(make_weights(model).items()):
        checksum = zlib.crc32(weight.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum


# ---- what a converter does ----------------------------------------------------------------------

GLOBAL_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA3_NAMES = LAYER_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(arch: str, name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    stem, kind = name.removeprefix("model.").rsplit(".", 1)
    if not stem.startswith("layers."):
        return f"{GLOBAL_NAMES[stem]}.{kind}"
    _, layer, role = stem.split(".", 2)
    names = GEMMA3_NAMES if arch == "gemma3" else LAYER_NAMES
    return f"blk.{layer}.{names[role]}.{kind}"


def interleave_heads(weight: Floats, n_heads: int) -> Floats:
    """llama's rotary pairs are (i, i + half) in Hugging Face rows and (2i, 2i + 1) in GGUF rows."""
    halves = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def llama3_factors(model: TinyModel) -> Floats:
    """What each pair's frequency is divided by (Llama 3's smooth step between 1 and `factor`)."""
    rope, half = model.rope, model.head_dim // 2
    wavelength = 2 * math.pi * np.power(rope["rope_theta"], np.arange(half) / half)
    turns = rope["original_max_position_embeddings"] / wavelength
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Floats = (1.0 / ((1.0 - smooth) / rope["factor"] + smooth)).astype(np.float32)
    return factors


def gguf_tensors(model: TinyModel) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {}
    for name, weight in make_weights(model).items():
        if model.arch == "llama" and "self_attn.q_proj" in name:
            weight = interleave_heads(weight, model.n_heads)
        if model.arch == "llama" and "self_attn.k_proj" in name:
            weight = interleave_heads(weight, model.n_kv_heads)
        if model.arch == "gemma3" and name.endswith("norm.weight"):
            weight = weight + np.float32(1.0)
        tensors[gguf_name(model.arch, name)] = weight
    if model.rope["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(model)
    return tensors


# ---- the file -----------------------------------------------------------------------------------


def byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte: itself, else 256 onwards."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, n_hidden = [], 0
    for byte in range(256):
        letters.append(chr(byte if byte in shown else 256 + n_hidden))
        n_hidden += byte not in shown
    return letters


def add_tokenizer(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    """A vocabulary of all bytes, two special tokens and letters that no text needs."""
    special, n_special = gguf.TokenType.CONTROL, 3
    fill = [f"filler{i}" for i in range(N_VOCAB - 256 - n_special)]
    kinds = [special] * n_special
    if model.tokenizer == "llama":
        kinds[0] = gguf.TokenType.UNKNOWN
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *fill]
        kinds += [gguf.TokenType.BYTE] * 256
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * 3 + [-1000.0] * (N_VOCAB - 3))
        writer.add_unk_token_id(0)
    else:
        merged = ["th", "the"]
        tokens = ["<|pad|>", "<|begin|>", "<|end|>", *byte_letters(), *merged, *fill[2:]]
        kinds += [gguf.TokenType.NORMAL] * 256
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(model.tokenizer)
        writer.add_token_merges(["t h", "th e"])
    kinds += [gguf.TokenType.NORMAL] * (N_VOCAB - len(kinds))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def add_rope(writer: gguf.GGUFWriter, model: TinyModel) -> None:
    rope = model.rope
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_float32(f"{model.arch}.rope.scaling.yarn_beta_fast", rope["beta_fast"])
        writer.add_float32(f"{model.arch}.rope.scaling.yarn_beta_slow", rope["beta_slow"])


def write_gguf(model: TinyModel, path: Path, split_tensors: int = 0) -> None:
    """One file, or with split_tensors files of at most so many, which get numbered names."""
    writer = gguf.GGUFWriter(path, model.arch, split_max_tensors=split_tensors)
    writer.add_name(f"tiny {model.name}")
    writer.add_context_length(model.n_ctx)
    writer.add_embedding_length(DIM)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.ffn_dim)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_layer_norm_rms_eps(model.eps)
    if model.head_dim * model.n_heads != DIM or model.value_dim:
        writer.add_key_length(model.head_dim)
        writer.add_value_length(model.v_dim)
    if model.window:
        writer.add_sliding_window(model.window)
    if model.writes_window_keys:
        writer.add_uint32(f"{model.arch}.attention.sliding_window_pattern", model.window_period)
        writer.add_float32(f"{model.arch}.rope.freq_base_swa", model.local_rope_base)
    writer.add_vocab_size(N_VOCAB)
    add_rope(writer, model)
    add_tokenizer(writer, model)
    for name, tensor in gguf_tensors(model).items():
        is_matrix = tensor.ndim == 2
        half = is_matrix and model.weight_type == gguf.GGMLQuantizationType.F16
        writer.add_tensor(name, tensor.astype(np.float16) if half else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
