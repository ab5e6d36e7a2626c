"""How far llama.cpp, and our engine, are from a float32 run of the same quantized weights.

    LOCALLLM_PEER_PYTHON=/path/to/python python tests/golden/reference_run.py \
        smollm2=/path/to/smollm2.gguf gemma3=/path/to/gemma3.gguf

Needs torch, transformers and gguf, and a Python that has llama-cpp-python. The weights of each file
are dequantized by the gguf package and run by transformers in float32 with a float32 cache over the
first 512 tokens of text.txt; that is the reference. Against it stand llama.cpp with its defaults
and, where `localllm` can be imported, our engine. Written: `<model>_reference.npz` (see
compact_reference.py) and the figures of llama.cpp in figures.json; everything is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from compact_reference import compact_divergence, compress, exact_divergence
from numpy.typing import NDArray
from tiny_models import GEMMA3_NAMES, GLOBAL_NAMES, LAYER_NAMES
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
N_TOKENS = 512


class WeightFile:
    """A GGUF file: its metadata, and its tensors as float32 under Hugging Face names."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.arch: str = self.reader.fields["general.architecture"].contents()

    def get(self, key: str, default: Any = None) -> Any:
        field = self.reader.fields.get(f"{self.arch}.{key}")
        return default if field is None else field.contents()

    def hugging_face_weights(self) -> dict[str, torch.Tensor]:
        layer_names = GEMMA3_NAMES if self.arch == "gemma3" else LAYER_NAMES
        by_role = {gguf_role: name for name, gguf_role in layer_names.items()}
        by_global = {gguf_role: name for name, gguf_role in GLOBAL_NAMES.items()}
        weights: dict[str, torch.Tensor] = {}
        for tensor in self.reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            stem = tensor.name.removesuffix(".weight")
            if stem.startswith("blk."):
                _, layer, role = stem.split(".")
                name = f"model.layers.{layer}.{by_role[role]}.weight"
            else:
                prefix = "" if stem == "output" else "model."
                name = f"{prefix}{by_global[stem]}.weight"
            if self.arch == "llama" and stem.endswith(("attn_q", "attn_k")):
                values = halve_heads(values, self.get("rope.dimension_count"))
            if self.arch == "gemma3" and stem.endswith("norm"):
                values = values - np.float32(1.0)
            weights[name] = torch.from_numpy(np.ascontiguousarray(values))
        return weights


def halve_heads(weight: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Undoes the interleaving of rotary pairs that llama's converter applies to rows."""
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def build_reference(file: WeightFile) -> transformers.PreTrainedModel:
    """Every field from the file's own metadata; gemma3's defaults as its format has them."""
    weights = file.hugging_face_weights()
    n_heads, dim = file.get("attention.head_count"), file.get("embedding_length")
    base = file.get("rope.freq_base", 10000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    n_layers, extra = file.get("block_count"), {}
    if file.arch == "gemma3":
        local = {"rope_type": "default", "rope_theta": 10000.0}
        rope = {"full_attention": rope, "sliding_attention": local}
        kinds = ("sliding_attention", "full_attention")
        extra = {
            "layer_types": [kinds[layer % 6 == 5] for layer in range(n_layers)],
            "sliding_window": file.get("attention.sliding_window"),
            "query_pre_attn_scalar": file.get("attention.key_length"),
        }
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    }
    config_class, model_class = classes[file.arch]
    config = config_class(
        vocab_size=weights["model.embed_tokens.weight"].shape[0],
        hidden_size=dim,
        intermediate_size=file.get("feed_forward_length"),
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=file.get("attention.head_count_kv"),
        head_dim=file.get("attention.key_length", dim // n_heads),
        max_position_embeddings=file.get("context_length"),
        rms_norm_eps=file.get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings="lm_head.weight" not in weights,
        rope_parameters=rope,
        pad_token_id=None,
        attn_implementation="eager",
        **extra,
    )
    model: transformers.PreTrainedModel = model_class(config).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def reference_logits(file: WeightFile, ids: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        out = build_reference(file)(torch.tensor([ids]), use_cache=False)
    logits: NDArray[np.float32] = out.logits[0].numpy()
    return logits


def peer_run(python: str, path: Path, folder: Path) -> tuple[list[int], NDArray[np.float32], str]:
    """llama.cpp's ids of the text, its logits, and the version of llama-cpp-python."""
    tokenize = (
        "import sys, llama_cpp; from pathlib import Path;"
        "m = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False);"
        "print(llama_cpp.__version__, *m.tokenize(Path(sys.argv[2]).read_bytes()))"
    )
    shown = subprocess.run(
        [python, "-c", tokenize, path, HERE / "text.txt"],
        check=True,
        capture_output=True,
        text=True,
    )
    version, *words = shown.stdout.split()
    ids = [int(word) for word in words][:N_TOKENS]
    if len(ids) < N_TOKENS:
        raise SystemExit(f"text.txt has only {len(ids)} tokens")
    (folder / "ids.txt").write_text(" ".join(map(str, ids)))
    out = folder / "logits.npy"
    subprocess.run([python, HERE / "peer_logits.py", path, folder / "ids.txt", out], check=True)
    return ids, np.load(out), version


def our_logits(path: Path, ids: list[int]) -> NDArray[np.float32] | None:
    try:
        import localllm
    except ImportError:
        return None
    with localllm.load(str(path), ctx=N_TOKENS) as model:
        logits: NDArray[np.float32] = model.logits(ids)
    return logits


def main() -> None:
    torch.set_num_threads(2)
    peer = os.environ.get("LOCALLLM_PEER_PYTHON")
    if not peer or len(sys.argv) < 2:
        raise SystemExit(__doc__)
    figures: dict[str, Any] = {}
    for argument in sys.argv[1:]:
        name, _, path_text = argument.partition("=")
        path = Path(path_text)
        with tempfile.TemporaryDirectory() as folder:
            ids, peer_logits, version = peer_run(peer, path, Path(folder))
        reference = reference_logits(WeightFile(path), ids)
        compact = compress(np.array(ids, np.int32), reference)
        compact.save(HERE / f"{name}_reference.npz")
        print(f"{name}: {N_TOKENS} tokens; mean KL to the float32 run, top-1 agreement")
        rows = {f"llama.cpp ({version})": peer_logits, "localllm": our_logits(path, ids)}
        for engine, logits in rows.items():
            if logits is None:
                print(f"  {engine:20} not importable here")
                continue
            exact, top1 = exact_divergence(reference, logits)
            estimate, _ = compact_divergence(compact, logits)
            error = estimate / exact - 1.0
            print(f"  {engine:20} KL {exact:.6f}  top-1 {top1:.4f}  compact form {error:+.2%}")
            if engine != "localllm":
                figures[name] = {
                    "peer": f"llama-cpp-python {version}",
                    "n_tokens": N_TOKENS,
                    "kl_exact": exact,
                    "kl_compact": estimate,
                    "top1": top1,
                }
    (HERE / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
