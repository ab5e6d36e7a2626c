"""Qwen3: norms on each head's q and k, and a head size of its own."""

from __future__ import annotations

from localllm.convert.families.family import Family
from localllm.convert.families.qwen2 import refuse_windows

FAMILY = Family(
    arch="qwen3",
    classes=("Qwen3ForCausalLM",),
    defaults={
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "head_dim": 128,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
    },
    keys=refuse_windows,
)
