"""Checkpoints as Hugging Face publishes them, made for tests: weights, settings, tokenizers.

Tiny ones of every family come from golden/tiny_models.py, whose weights transformers has run; those
of the real models are made by dequantizing their GGUF files. Nothing here is shared with what is
tested but the names of the format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from golden import tiny_models
from golden.tiny_models import TinyModel
from numpy.typing import NDArray
from tokenizer_cases import (
    BYTE,
    CONTROL,
    FAMILIES,
    IGNORE_MERGES,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_metadata,
    read_vocabulary,
)

from localllm import _native

Floats = NDArray[np.float32]
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}


# ---- safetensors ---------------------------------------------------------------------------------


def bf16(values: Floats) -> bytes:
    """Rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def f8_values() -> Floats:
    """What the 256 codes of E4M3 stand for: sign, 4 bits of exponent, 3 of fraction."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, (codes & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    size[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -size, size).astype(np.float32)


def f8(values: Floats) -> bytes:
    """The nearest code of each value, which is at most 448 in size."""
    table = f8_values()
    order = np.argsort(np.where(np.isnan(table), np.inf, table), kind="stable")[:254]
    ordered = table[order]
    right = np.clip(np.searchsorted(ordered, values), 1, 253)
    nearer = np.abs(values - ordered[right - 1]) <= np.abs(ordered[right] - values)
    return order[np.where(nearer, right - 1, right)].astype(np.uint8).tobytes()


ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
ENCODERS = {
    "F32": lambda values: np.ascontiguousarray(values, "<f4").data,
    "F16": lambda values: np.ascontiguousarray(values, "<f2").data,
    "BF16": bf16,
    "F8_E4M3": f8,
}


def write_safetensors(path: Path, tensors: Sequence[tuple[str, str, Floats]]) -> None:
    """tensors: name, dtype and values of each."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, values in tensors:
        end = at + values.size * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, values in tensors:
            file.write(ENCODERS[dtype](values))


def write_weights(
    folder: Path, weights: Mapping[str, Floats], dtype: str = "F32", n_shards: int = 1
) -> None:
    """One file, or several with an index; vectors of an 8-bit checkpoint are BF16."""
    named = [
        (
            name,
            "BF16" if dtype == "F8_E4M3" and (values.ndim == 1 or is_head(name)) else dtype,
            values,
        )
        for name, values in weights.items()
    ]
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", named)
        return
    where = {}
    for i in range(n_shards):
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        write_safetensors(folder / file, named[i::n_shards])
        where |= {name: file for name, *_ in named[i::n_shards]}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_weights(path: Path) -> dict[str, Floats]:
    """The weights of a GGUF file as the gguf package dequantizes them. Where they lie is asked of
    the engine: that package takes ten seconds to read past a large vocabulary."""
    raw = np.memmap(path, np.uint8, "r")
    found = {}
    for name, quant, shape, n_bytes, offset, _ in _native.Model(str(path)).tensors():
        data = raw[offset : offset + n_bytes].reshape(*shape[:0:-1], -1)
        kind = gguf.GGMLQuantizationType[quant]
        if kind == gguf.GGMLQuantizationType.F32:
            found[name] = data.view("<f4").reshape(shape[::-1])
        else:
            found[name] = gguf.quants.dequantize(data, kind).astype(np.float32)
    return found


def write_real(path: Path, folder: Path) -> dict[str, Floats]:
    """The checkpoint from which a GGUF file could have come: its weights dequantized by the gguf
    package, under Hugging Face's names and in their layout. Returns them under GGUF's."""
    metadata, vocabulary = read_metadata(path), read_vocabulary(path)
    arch = metadata["general.architecture"]
    names = tiny_models.GEMMA3_NAMES if arch == "gemma3" else tiny_models.LAYER_NAMES
    names = {v: k for k, v in (names | tiny_models.GLOBAL_NAMES).items()}

    def setting(key: str) -> Any:
        return metadata.get(f"{arch}.{key}")

    n_heads = {"attn_q": setting("attention.head_count")}
    n_heads["attn_k"] = setting("attention.head_count_kv")
    found, plain = read_weights(path), {}
    for name, values in found.items():
        *layer, role, kind = name.split(".")
        if arch == "llama" and role in n_heads:
            pairs = values.reshape(n_heads[role], -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        if arch == "gemma3" and role.endswith("norm"):
            values = values - np.float32(1)
        prefix = f"model.layers.{layer[1]}." if layer else "" if role == "output" else "model."
        plain[f"{prefix}{names[role]}.{kind}"] = values
    write_weights(folder, plain, n_shards=2)
    config = {
        "architectures": [CLASSES[arch]],
        "hidden_size": setting("embedding_length"),
        "intermediate_size": setting("feed_forward_length"),
        "num_hidden_layers": setting("block_count"),
        "num_attention_heads": setting("attention.head_count"),
        "num_key_value_heads": setting("attention.head_count_kv"),
        "head_dim": setting("attention.key_length"),
        "rms_norm_eps": setting("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": setting("context_length"),
        "rope_theta": setting("rope.freq_base"),
        "sliding_window": setting("attention.sliding_window"),
        "tie_word_embeddings": "lm_head.weight" not in plain,
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
    }
    write_json(folder / "config.json", config)
    if vocabulary.model == "gpt2":
        write_json(folder / "tokenizer.json", bpe_json(vocabulary))
    else:
        prefix = metadata.get("tokenizer.ggml.add_space_prefix") is not False
        (folder / "tokenizer.model").write_bytes(spm_model(vocabulary, prefix))
    return found


def is_head(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name


# ---- tokenizers ----------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def added_tokens(v: Vocabulary) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": type != USER_DEFINED,
        }
        for id, (text, type) in enumerate(zip(v.tokens, v.types or [], strict=True))
        if type in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def bpe_json(v: Vocabulary) -> dict[str, Any]:
    """tokenizer.json of byte-level BPE, with the pre-tokenizer spelled as its publishers do."""
    name = v.pre or "default"
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    regexes = [published(regex) for regex in FAMILIES[name]]
    if name == "gpt-2":
        steps: list[dict[str, Any]] = [letters | {"use_regex": True}]
    elif name == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, letters | {"use_regex": True}]
    else:
        splits = [
            {"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False}
            for r in regexes
        ]
        steps = [*splits, letters | {"use_regex": False}]
    assert v.merges is not None
    return {
        "version": "1.0",
        "added_tokens": added_tokens(v),
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": steps[0]
        if len(steps) == 1
        else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": letters | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": name in IGNORE_MERGES,
            "vocab": {
                text: id
                for id, text in enumerate(v.tokens)
                if v.types is None or v.types[id] not in (CONTROL, USER_DEFINED)
            },
            "merges": v.merges,
        },
    }


def published(regex: str) -> str:
    """The judge spells both cases out; the models' own files use a flag."""
    return regex.replace(
        "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    )


def spm_json(v: Vocabulary, prefix: bool) -> dict[str, Any]:
    """tokenizer.json of a SentencePiece model: every way to make a token of two is a merge."""
    assert v.scores is not None and v.types is not None
    ids = {text: id for id, text in enumerate(v.tokens)}
    merges = [
        (-v.scores[id], id, text[:n], text[n:])
        for text, id in ids.items()
        if v.types[id] not in (CONTROL, UNKNOWN)
        for n in range(1, len(text))
        if text[:n] in ids and text[n:] in ids
    ]
    merges.sort(key=lambda merge: merge[:2])
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    ]
    if prefix:
        steps.insert(0, {"type": "Prepend", "prepend": "\u2581"})
    return {
        "version": "1.0",
        "added_tokens": added_tokens(v),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [[left, right] for _, _, left, right in merges],
        },
    }


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def spm_model(v: Vocabulary, prefix: bool, kind: int = 2) -> bytes:
    """tokenizer.model as SentencePiece writes it."""
    assert v.scores is not None and v.types is not None
    types = {1: 1, UNKNOWN: 2, CONTROL: 3, USER_DEFINED: 4, 5: 5, BYTE: 6}
    pieces = [
        field(1, field(1, text.encode()) + field(2, float(score)) + field(3, types[type]))
        for text, score, type in zip(v.tokens, v.scores, v.types, strict=True)
    ]
    trainer = field(2, field(3, kind) + field(35, 1) + field(40, 0) + field(43, -1))
    normalizer = field(
        3, field(1, b"identity") + field(2, b"") + field(3, int(prefix)) + field(4, 0)
    )
    return b"".join(pieces) + trainer + normalizer


# ---- whole checkpoints ---------------------------------------------------------------------------


def tiny_vocabulary(model: TinyModel) -> Vocabulary:
    """The vocabulary that tiny_models.write_gguf gives the same model."""
    n = tiny_models.N_VOCAB
    if model.tokenizer == "llama":
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[1] * (n - 259)]
        tokens += [f"filler{i}" for i in range(n - 259)]
        return Vocabulary(tokens, types, "llama", None, None, [0.0] * 3 + [-1000.0] * (n - 3))
    fill = [f"filler{i}" for i in range(2, n - 259)]
    tokens = ["<|pad|>", "<|begin|>", "<|end|>", *tiny_models.byte_letters(), "th", "the", *fill]
    return Vocabulary(
        tokens, [CONTROL] * 3 + [1] * (n - 3), pre=model.tokenizer, merges=["t h", "th e"]
    )


def tiny_config(model: TinyModel) -> dict[str, Any]:
    """config.json in the spelling that most published files have."""
    config: dict[str, Any] = {
        "architectures": [CLASSES[model.arch]],
        "model_type": model.arch,
        "hidden_size": tiny_models.DIM,
        "intermediate_size": model.ffn_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.eps,
        "max_position_embeddings": model.n_ctx,
        "vocab_size": tiny_models.N_VOCAB,
        "tie_word_embeddings": model.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    rope = dict(model.rope)
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if model.arch == "gemma3":
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": model.window,
            "sliding_window_pattern": model.window_period,
            "rope_local_base_freq": model.local_rope_base,
            "query_pre_attn_scalar": model.head_dim,
        }
    else:
        config["hidden_act"] = "silu"
    return config


def write_tiny(
    model: TinyModel, folder: Path, dtype: str = "F32", n_shards: int = 1, **changed: Any
) -> Path:
    """A tiny checkpoint. changed: settings of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, tiny_models.make_weights(model), dtype, n_shards)
    write_json(folder / "config.json", tiny_config(model) | changed)
    vocabulary = tiny_vocabulary(model)
    if model.tokenizer == "llama":
        (folder / "tokenizer.model").write_bytes(spm_model(vocabulary, prefix=True))
    else:
        write_json(folder / "tokenizer.json", bpe_json(vocabulary))
    settings = {"bos_token": vocabulary.tokens[1], "eos_token": vocabulary.tokens[2]}
    write_json(folder / "tokenizer_config.json", settings | {"add_bos_token": False})
    return folder
