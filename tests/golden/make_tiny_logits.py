"""Writes tiny_logits.npz: what transformers computes for the models of tiny_models.py.

    python tests/golden/make_tiny_logits.py            # needs torch and transformers
    LOCALLLM_PEER_PYTHON=… python tests/golden/make_tiny_logits.py   # also checks with llama.cpp

Everything is float32 with eager attention. The engine keeps keys and values as F16, and so does
the judge: HalfCache rounds them as they enter the cache, and nothing else. The largest difference
that this rounding makes is printed for each model, beside llama.cpp's distance from the judge.

transformers has one size of heads. A model whose values have another is computed with heads of the
larger, in which what is missing is zero: zero channels of queries, keys and values add nothing.

With the logits goes a checksum of the weights, so that a test notices if tiny_models.py no longer
makes the ones these logits belong to. transformers computes RoPE's frequencies and angles in
float32, the engine in double; over N_TOKENS positions the difference is far below the tolerance.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tiny_models import (
    DIM,
    N_VOCAB,
    PLAIN_MODELS,
    TINY_MODELS,
    TinyModel,
    make_weights,
    token_ids,
    weights_checksum,
    write_gguf,
)
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HERE = Path(__file__).resolve().parent
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}


class HalfCache(DynamicCache):
    """A cache whose keys and values are rounded to F16 as they enter."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(
            key_states.half().float(), value_states.half().float(), *args, **kwargs
        )
        return keys, values


def judge_dim(model: TinyModel) -> int:
    return max(model.head_dim, model.v_dim)


def padded_heads(weight: NDArray[np.float32], dim: int, to: int, n_parts: int) -> torch.Tensor:
    """Rows of heads of `dim` channels, each head's equal parts filled up with zeros to `to`."""
    parts = weight.reshape(-1, dim // n_parts, *weight.shape[1:])
    padded = np.zeros((len(parts), to // n_parts, *weight.shape[1:]), np.float32)
    padded[:, : dim // n_parts] = parts
    return torch.from_numpy(padded.reshape(-1, *weight.shape[1:]))


def judge_weights(model: TinyModel) -> dict[str, torch.Tensor]:
    """The weights with heads of one size; rotated pairs are channels of both halves of a head."""
    state, dim = {}, judge_dim(model)
    for name, weight in make_weights(model).items():
        if ".q_proj." in name or ".k_proj." in name:
            state[name] = padded_heads(weight, model.head_dim, dim, 2)
        elif ".v_proj." in name:
            state[name] = padded_heads(weight, model.v_dim, dim, 1)
        elif ".o_proj." in name:
            state[name] = padded_heads(weight.T, model.v_dim, dim, 1).T
        else:
            state[name] = torch.from_numpy(weight)
    return state


def keep_key_size(judge: PreTrainedModel, model: TinyModel) -> None:
    """Angles and the scale of scores as of heads of head_dim, where the judge's are larger."""
    half, base = model.head_dim // 2, model.rope["rope_theta"]
    frequencies = torch.zeros(judge_dim(model) // 2)
    frequencies[:half] = base ** (-torch.arange(half) / half)
    judge.model.rotary_emb.inv_freq = frequencies
    for layer in judge.model.layers:
        layer.self_attn.scaling = model.head_dim**-0.5


def build_judge(model: TinyModel) -> PreTrainedModel:
    is_mistral = model.name.startswith("mistral")
    config_class, model_class = CLASSES["mistral" if is_mistral else model.arch]
    rope: dict[str, Any] = dict(model.rope)
    extra: dict[str, Any] = {}
    if model.arch == "gemma3":
        local = {"rope_type": "default", "rope_theta": model.local_rope_base}
        rope = {"full_attention": rope, "sliding_attention": local}
        kinds = ("full_attention", "sliding_attention")
        extra = {
            "layer_types": [kinds[model.is_local(i)] for i in range(model.n_layers)],
            "sliding_window": model.window,
            "query_pre_attn_scalar": model.head_dim,
        }
    if is_mistral:
        extra = {"sliding_window": None}
    config = config_class(
        vocab_size=N_VOCAB,
        hidden_size=DIM,
        intermediate_size=model.ffn_dim,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads,
        head_dim=judge_dim(model),
        max_position_embeddings=model.n_ctx,
        rms_norm_eps=model.eps,
        tie_word_embeddings=model.tied,
        rope_parameters=rope,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
        **extra,
    )
    judge: PreTrainedModel = model_class(config).to(torch.float32).eval()
    missing, unexpected = judge.load_state_dict(judge_weights(model), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{model.name}: missing {missing}, unexpected {unexpected}")
    if "lm_head.weight" in missing and not model.tied:
        raise SystemExit(f"{model.name}: the output matrix is missing")
    judge.tie_weights()
    if judge_dim(model) > model.head_dim:
        keep_key_size(judge, model)
    return judge


def judge_logits(judge: PreTrainedModel, ids: list[int], half_cache: bool) -> NDArray[np.float32]:
    cache = (HalfCache if half_cache else DynamicCache)(config=judge.config)
    with torch.no_grad():
        out = judge(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    logits: NDArray[np.float32] = out.logits[0].numpy()
    return logits


def peer_logits(python: str, model: TinyModel, ids: list[int]) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "model.gguf", Path(folder) / "logits.npy"
        write_gguf(model, path)
        (Path(folder) / "ids.txt").write_text(" ".join(map(str, ids)))
        script = HERE / "peer_logits.py"
        subprocess.run([python, script, path, Path(folder) / "ids.txt", out], check=True)
        logits: NDArray[np.float32] = np.load(out)
    return logits


def main() -> None:
    torch.set_num_threads(2)
    peer = os.environ.get("LOCALLLM_PEER_PYTHON")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print("largest differences as parts of the largest logit:")
    stored: dict[str, Any] = {}
    for model in TINY_MODELS:
        judge, ids = build_judge(model), token_ids(model)
        logits = judge_logits(judge, ids, half_cache=True)
        largest = np.abs(logits).max()
        rounding = np.abs(judge_logits(judge, ids, half_cache=False) - logits).max() / largest
        line = f"{model.name:15} largest {largest:7.3f}  F16 cache {rounding:.1e}"
        if peer and model in PLAIN_MODELS:
            distance = np.abs(peer_logits(peer, model, ids) - logits).max() / largest
            line += f"  llama.cpp {distance:.1e}"
        print(line)
        stored[f"{model.name} logits"] = logits
        stored[f"{model.name} weights"] = np.uint32(weights_checksum(model))
    np.savez_compressed(HERE / "tiny_logits.npz", **stored)


if __name__ == "__main__":
    main()
