"""Qwen2 and Qwen2.5: llama's shape with biases on q, k and v."""

from __future__ import annotations

from localllm.convert.checkpoint import Config
from localllm.convert.families.family import Family, Metadata, Note
from localllm.errors import IntegrityError


def refuse_windows(config: Config, note: Note) -> Metadata:
    """The setting exists, and no released model of these families has it on."""
    if config.find("use_sliding_window") and config.find("sliding_window") is not None:
        raise IntegrityError(
            f"{config.where} turns sliding windows on, which is not supported for this family"
        )
    return {}


FAMILY = Family(
    arch="qwen2",
    classes=("Qwen2ForCausalLM",),
    defaults={
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
    },
    keys=refuse_windows,
)
