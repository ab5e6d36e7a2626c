"""Asks llama.cpp's quantizer which quant each tensor of a few models gets, and stores the answers.

    PEER_PYTHON tests/golden/peer_mixes.py OUT.json

Runs in an environment that has llama-cpp-python, gguf and numpy. The models are llamas of zeros
with one row of each shape that matters to the rules: rows that are and are not whole superblocks,
tied and untied heads, many and few heads sharing a KV head, several depths.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

# name: layers, dim, ffn_dim, heads, KV heads, tied
MODELS = {
    "deep": (32, 256, 512, 8, 2, False),
    "shallow": (6, 256, 512, 8, 4, True),
    "narrow": (16, 96, 288, 6, 3, True),
    "uneven": (22, 256, 320, 8, 2, False),
}
# Of MIXES: those that llama.cpp has under the same number and for models without experts.
MIXES = {
    "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8, "Q4_K_M": 15,
    "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12,
    "Q3_K_S": 11, "Q2_K": 10,
}  # fmt: skip
N_VOCAB = 64


def write_model(path: Path, shape: tuple[int, int, int, int, int, bool]) -> None:
    n_layers, dim, ffn_dim, n_heads, n_kv_heads, tied = shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(ffn_dim)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(N_VOCAB)])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([1] * N_VOCAB)
    kv_dim = dim // n_heads * n_kv_heads
    shapes = {"token_embd.weight": (N_VOCAB, dim), "output_norm.weight": (dim,)}
    if not tied:
        shapes["output.weight"] = (N_VOCAB, dim)
    for layer in range(n_layers):
        shapes |= {
            f"blk.{layer}.{name}.weight": dims
            for name, dims in {
                "attn_norm": (dim,),
                "attn_q": (dim, dim),
                "attn_k": (kv_dim, dim),
                "attn_v": (kv_dim, dim),
                "attn_output": (dim, dim),
                "ffn_norm": (dim,),
                "ffn_gate": (ffn_dim, dim),
                "ffn_up": (ffn_dim, dim),
                "ffn_down": (dim, ffn_dim),
            }.items()
        }
    for name, dims in shapes.items():
        kind = np.float32 if len(dims) == 1 else np.float16
        writer.add_tensor(name, np.zeros(dims, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in MODELS.items():
            source, out = Path(folder, "in.gguf"), Path(folder, "out.gguf")
            write_model(source, shape)
            answers[name] = {"shape": shape, "quants": {}}
            for mix, number in MIXES.items():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype, params.nthread = number, 1
                code = llama_cpp.llama_model_quantize(
                    str(source).encode(), str(out).encode(), ctypes.byref(params)
                )
                if code:
                    raise SystemExit(f"llama.cpp refused {mix} for {name}")
                answers[name]["quants"][mix] = by_role(out)
    Path(sys.argv[1]).write_text(json.dumps(answers, indent=1) + "\n")


def by_role(path: Path) -> dict[str, str]:
    """Of each role, the quants of the layers in order, as "Q6_K*3 Q4_K*5"."""
    found: dict[str, dict[int, str]] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) > 1:
            parts = tensor.name.split(".")
            layer = int(parts[1]) if parts[0] == "blk" else 0
            found.setdefault(parts[-2], {})[layer] = tensor.tensor_type.name
    return {
        role: " ".join(
            f"{quant}*{len(list(run))}"
            for quant, run in itertools.groupby(layers[i] for i in sorted(layers))
        )
        for role, layers in sorted(found.items())
    }


if __name__ == "__main__":
    main()
