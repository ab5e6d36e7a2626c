"""Gemma 3: norms before and behind attention and FFN, five windowed layers to one that sees all.

The larger ones see images too; their text model is what is converted.
"""

from __future__ import annotations

from localllm.convert.checkpoint import Config
from localllm.convert.families.family import GELU, LAYER_ROLES, Family, Keys, Note, head_dim
from localllm.convert.gguf_values import f32, flags, u32
from localllm.errors import IntegrityError

WINDOWED, FULL = "sliding_attention", "full_attention"
# Of this one the engines know that queries are scaled by the model's width, not by the heads'.
LAYERS_OF_27B = 62


def keys(config: Config, note: Note) -> Keys:
    if config.find("use_bidirectional_attention"):
        raise IntegrityError(f"{config.where} asks for attention in both directions")
    made = {}
    if config.find("sliding_window") is not None:
        made["gemma3.attention.sliding_window"] = u32(config.count("sliding_window"))
        made["gemma3.attention.sliding_window_pattern"] = window_pattern(config)
    for setting in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.find(setting) is not None:
            made[f"gemma3.{setting}"] = f32(config.number(setting))
    scale, heads_width = config.number("query_pre_attn_scalar"), head_dim(config)
    if config.count("num_hidden_layers") == LAYERS_OF_27B:
        heads_width = config.count("hidden_size") // config.count("num_attention_heads")
    if scale != heads_width:
        made["gemma3.attention.scale"] = f32(scale**-0.5 if scale > 0 else 0)
    return made


def window_pattern(config: Config) -> bytes:
    """One number where every nth layer sees all, else a flag for each layer."""
    kinds, n_layers = config.find("layer_types"), config.count("num_hidden_layers")
    if kinds is None:
        return u32(config.count("sliding_window_pattern"))
    if not isinstance(kinds, list) or len(kinds) != n_layers or set(kinds) - {WINDOWED, FULL}:
        raise config.wrong("layer_types", f"{n_layers} of {WINDOWED} and {FULL}")
    period = kinds.index(FULL) + 1 if FULL in kinds else 0
    if all(
        (kind == FULL) == (period > 0 and i % period == period - 1) for i, kind in enumerate(kinds)
    ):
        return u32(period)
    return flags([kind == WINDOWED for kind in kinds])


FAMILY = Family(
    arch="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    activation=GELU,
    # Source: transformers' Gemma3TextConfig, whose files leave out what equals it.
    defaults={
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
    layer_roles={
        **LAYER_ROLES,
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    norm_offset=1.0,
    left_out=("vision_tower.", "multi_modal_projector."),
    keys=keys,
)
