"""Gemma 3: norms before and behind attention and FFN, five windowed layers to one that sees all.

The larger ones see images too; their text model is what is converted.
"""

from __future__ import annotations

from gguf.constants import Keys

from localllm.convert.checkpoint import Config
from localllm.convert.families.family import GELU, Family, Metadata, Note, head_dim
from localllm.convert.gguf_values import f32, flags, u32
from localllm.errors import IntegrityError

WINDOWED, FULL = "sliding_attention", "full_attention"
# Of this one the engines know that queries are scaled by the model's width, not by the heads'.
LAYERS_OF_27B = 62
SOFTCAPPING = {
    "attn_logit_softcapping": Keys.LLM.ATTN_LOGIT_SOFTCAPPING,
    "final_logit_softcapping": Keys.LLM.FINAL_LOGIT_SOFTCAPPING,
}


def keys(config: Config, note: Note) -> Metadata:
    if config.find("use_bidirectional_attention"):
        raise IntegrityError(f"{config.where} asks for attention in both directions")
    made: Metadata = {}
    if config.find("sliding_window") is not None:
        made[Keys.Attention.SLIDING_WINDOW] = u32(config.count("sliding_window"))
        made[Keys.Attention.SLIDING_WINDOW_PATTERN] = window_pattern(config)
    for setting, key in SOFTCAPPING.items():
        if config.find(setting) is not None:
            made[key] = f32(config.number(setting))
    scale, heads_width = config.number("query_pre_attn_scalar"), head_dim(config)
    if config.count("num_hidden_layers") == LAYERS_OF_27B:
        heads_width = config.count("hidden_size") // config.count("num_attention_heads")
    if scale != heads_width:
        made[Keys.Attention.SCALE] = f32(scale**-0.5 if scale > 0 else 0)
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
    norm_offset=1.0,
    left_out=("vision_tower.", "multi_modal_projector."),
    keys=keys,
)
