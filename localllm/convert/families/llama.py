"""Llama 1 to 3 and what was trained in its shape: Mistral, SmolLM2, TinyLlama, Yi …"""

from __future__ import annotations

from localllm.convert.checkpoint import Config
from localllm.convert.families.family import Family, Metadata, Note


def keys(config: Config, note: Note) -> Metadata:
    window = config.find("sliding_window")
    if window is not None and config.count("sliding_window") < config.count(
        "max_position_embeddings"
    ):
        note(
            f"its window of {window} tokens is not kept: every token sees all before it, which is "
            "the same up to that length"
        )
    return {}


FAMILY = Family(
    arch="llama",
    classes=("LlamaForCausalLM", "MistralForCausalLM", "LLaMAForCausalLM"),
    defaults={
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
    },
    pairs_adjacent=True,
    keys=keys,
)
