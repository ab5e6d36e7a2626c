"""RoPE: from config.json's settings, in their old and new spelling, to metadata and factors.

rope_parameters holds everything, or one such object for each kind of layer; before, rope_theta and
rope_scaling lay side by side. What Llama 3 calls scaling is a factor for each frequency, which a
GGUF file holds as a tensor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gguf.constants import Keys, RopeScalingType

from localllm.convert.checkpoint import Config
from localllm.convert.families.family import Metadata, head_dim
from localllm.convert.gguf_values import f32, string, u32
from localllm.errors import IntegrityError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

FULL, WINDOWED = "full_attention", "sliding_attention"
KIND = "rope_type"
KNOWN = ("default", "linear", "llama3", "yarn")
SCALINGS = {"linear": RopeScalingType.LINEAR, "yarn": RopeScalingType.YARN}
YARN_BETAS = {
    "beta_fast": Keys.Rope.SCALING_YARN_BETA_FAST,
    "beta_slow": Keys.Rope.SCALING_YARN_BETA_SLOW,
}


def rope_keys(config: Config) -> tuple[Metadata, NDArray[numpy.float32] | None]:
    """The metadata, and f32 [head_dim / 2] by which frequencies are divided, where there are any.

    Raises: IntegrityError for a scaling that the engine does not have.
    """
    rope, windowed = find_parameters(config)
    partial = {"partial_rotary_factor": config.find("partial_rotary_factor") or 1.0}
    if rope.over(partial).number("partial_rotary_factor") != 1:
        raise IntegrityError(f"{config.where} rotates a part of each head, which is not supported")
    kind = rope.text(KIND) if rope.find(KIND) else "default"
    if kind not in KNOWN:
        raise IntegrityError(f"RoPE scaling {kind[:40]!r}; known are {', '.join(KNOWN)}")
    keys = {
        Keys.Rope.DIMENSION_COUNT: u32(head_dim(config)),
        Keys.Rope.FREQ_BASE: f32(rope.number("rope_theta")),
    }
    if windowed is not None:
        if windowed.find(KIND) not in (None, "default"):
            raise windowed.wrong(KIND, "default")
        keys[Keys.Rope.FREQ_BASE_SWA] = f32(windowed.number("rope_theta"))
    if kind in SCALINGS:
        keys[Keys.Rope.SCALING_TYPE] = string(SCALINGS[kind].value)
        keys[Keys.Rope.SCALING_FACTOR] = f32(positive(rope, "factor"))
    if kind == "yarn":
        keys |= yarn_keys(rope, config)
    factors = llama3_factors(rope, config) if kind == "llama3" else None
    return keys, factors


def find_parameters(config: Config) -> tuple[Config, Config | None]:
    """The parameters of layers that see everything, and of windowed ones where they differ."""
    theta = {} if config.find("rope_theta") is None else {"rope_theta": config.find("rope_theta")}
    given = config.part("rope_parameters")
    if given.find(FULL) is not None:
        return spelled_anew(given.part(FULL).over(theta)), given.part(WINDOWED)
    local = config.find("rope_local_base_freq")
    windowed = None if local is None else Config({"rope_theta": local}, config.where)
    if given.given:
        return spelled_anew(given.over(theta)), windowed
    return spelled_anew(config.part("rope_scaling").over(theta)), windowed


def spelled_anew(rope: Config) -> Config:
    """Older files say type for rope_type."""
    kind: dict[str, Any] = {} if rope.find("type") is None else {KIND: rope.find("type")}
    return rope.over(kind)


def positive(rope: Config, key: str) -> float:
    value = rope.number(key)
    if value <= 0:
        raise rope.wrong(key, "a number above 0")
    return value


def yarn_keys(rope: Config, config: Config) -> Metadata:
    """Source: Peng et al. 2023, "YaRN", and its parameters in transformers."""
    if rope.find("truncate") is False or rope.find("mscale") or rope.find("mscale_all_dim"):
        raise IntegrityError(
            f"{rope.where} sets truncate, mscale or mscale_all_dim, which is not supported"
        )
    original = "original_max_position_embeddings"
    within = rope if rope.find(original) is not None else config
    key = original if within is rope else "max_position_embeddings"
    keys = {Keys.Rope.SCALING_ORIG_CTX_LEN: u32(within.count(key))}
    for beta, beta_key in YARN_BETAS.items():
        if rope.find(beta) is not None:
            keys[beta_key] = f32(positive(rope, beta))
    if rope.find("attention_factor") is not None:
        usual = 1 + 0.1 * math.log(max(positive(rope, "factor"), 1))
        keys[Keys.Rope.SCALING_ATTN_FACTOR] = f32(positive(rope, "attention_factor") / usual)
    return keys


def llama3_factors(rope: Config, config: Config) -> NDArray[numpy.float32]:
    """1 for short wavelengths, `factor` for long ones, a smooth step between.

    Source: the Llama 3.1 model's own description of its scaling.
    """
    import numpy as np

    low, high = positive(rope, "low_freq_factor"), positive(rope, "high_freq_factor")
    if not high > low:
        raise rope.wrong("high_freq_factor", f"more than low_freq_factor, {low:g}")
    half = head_dim(config) // 2
    wavelength = 2 * math.pi * rope.number("rope_theta") ** (np.arange(half) / half)
    turns = rope.count("original_max_position_embeddings") / wavelength
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors = 1.0 / ((1.0 - smooth) / positive(rope, "factor") + smooth)
    return factors.astype(np.float32)
