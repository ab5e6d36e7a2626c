"""What a model family's checkpoints are called, and what differs from family to family.

A family is one file in this folder, and one line in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localllm.convert.checkpoint import Config
from localllm.convert.gguf_values import f32, u32

# Who is told what a user should know of a conversion.
Note = Callable[[str], None]
Keys = dict[str, bytes]

GLOBAL_ROLES = {"embed_tokens": "token_embd", "norm": "output_norm"}

# Hugging Face's names of a layer's weights, in the order in which the file gets them.
LAYER_ROLES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

SILU = ("silu", "swish")
GELU = ("gelu_pytorch_tanh", "gelu_tanh")


def no_keys(config: Config, note: Note) -> Keys:
    return {}


@dataclass(frozen=True)
class Family:
    """arch: general.architecture. classes: of transformers, as config.json names them.

    defaults: what those classes assume of settings that a config.json need not give.
    keys: metadata beyond what all families have; may raise for settings that the engine lacks.
    """

    arch: str
    classes: tuple[str, ...]
    activation: tuple[str, ...] = SILU
    defaults: Mapping[str, Any] = field(default_factory=dict)
    layer_roles: Mapping[str, str] = field(default_factory=lambda: LAYER_ROLES)
    pairs_adjacent: bool = False  # RoPE turns channels 2i and 2i + 1: rows of q and k are permuted
    norm_offset: float = 0.0  # what the stored weights of norms lack
    left_out: tuple[str, ...] = ()  # prefixes of weights that are not the text model's
    keys: Callable[[Config, Note], Keys] = no_keys


def common_keys(arch: str, config: Config) -> Keys:
    """The metadata that every family has."""
    keys = {
        "block_count": u32(config.count("num_hidden_layers")),
        "context_length": u32(config.count("max_position_embeddings")),
        "embedding_length": u32(config.count("hidden_size")),
        "feed_forward_length": u32(config.count("intermediate_size")),
        "attention.head_count": u32(config.count("num_attention_heads")),
        "attention.head_count_kv": u32(n_kv_heads(config)),
        "attention.key_length": u32(head_dim(config)),
        "attention.value_length": u32(head_dim(config)),
        "attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
    }
    return {f"{arch}.{key}": value for key, value in keys.items()}


def n_kv_heads(config: Config) -> int:
    given = config.find("num_key_value_heads") is not None
    return config.count("num_key_value_heads" if given else "num_attention_heads")


def head_dim(config: Config) -> int:
    if config.find("head_dim") is not None:
        return config.count("head_dim")
    heads, dim = config.count("num_attention_heads"), config.count("hidden_size")
    if dim % heads:
        raise config.wrong("hidden_size", f"a multiple of num_attention_heads, {heads}")
    return dim // heads
