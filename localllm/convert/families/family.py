"""What differs from family to family in a checkpoint's settings and weights.

A family is one file in this folder, and one line in its table. What its tensors are called the gguf
package's map for its arch says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf.constants import Keys

from localllm.convert.checkpoint import Config
from localllm.convert.gguf_values import f32, u32

# A function that is called with each sentence that a user should read about a conversion.
Note = Callable[[str], None]
# Values as they lie in a file, by their keys; "{arch}" in a key stands for the family's.
Metadata = dict[str, bytes]

SILU = ("silu", "swish")
GELU = ("gelu_pytorch_tanh", "gelu_tanh")


def no_keys(config: Config, note: Note) -> Metadata:
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
    pairs_adjacent: bool = False  # RoPE turns channels 2i and 2i + 1: rows of q and k are permuted
    norm_offset: float = 0.0  # what the stored weights of norms lack
    left_out: tuple[str, ...] = ()  # prefixes of weights that are not the text model's
    keys: Callable[[Config, Note], Metadata] = no_keys


def common_keys(config: Config) -> Metadata:
    """The metadata that every family has."""
    return {
        Keys.LLM.BLOCK_COUNT: u32(config.count("num_hidden_layers")),
        Keys.LLM.CONTEXT_LENGTH: u32(config.count("max_position_embeddings")),
        Keys.LLM.EMBEDDING_LENGTH: u32(config.count("hidden_size")),
        Keys.LLM.FEED_FORWARD_LENGTH: u32(config.count("intermediate_size")),
        Keys.Attention.HEAD_COUNT: u32(config.count("num_attention_heads")),
        Keys.Attention.HEAD_COUNT_KV: u32(n_kv_heads(config)),
        Keys.Attention.KEY_LENGTH: u32(head_dim(config)),
        Keys.Attention.VALUE_LENGTH: u32(head_dim(config)),
        Keys.Attention.LAYERNORM_RMS_EPS: f32(config.number("rms_norm_eps")),
    }


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
