"""The bits of the arithmetic belong to its version: LL_ARITHMETIC of native/localllm.h.

Kept prefixes and snapshots are found by that number, so KV of other bits under the same number
would be mixed with theirs. Here the KV of two tiny models and the dot of every quant are held
against what golden/arithmetic.json has recorded for the version. Nothing that enters depends on
libm or on a generator that a package may change.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from golden.tiny_models import TINY_MODELS, token_ids, write_gguf
from native_structs import QUANTS, Acts, QuantTraits

from localllm import _native

RECORDED = Path(__file__).resolve().parent / "golden" / "arithmetic.json"
MODELS = [model for model in TINY_MODELS if model.name in ("qwen3", "gemma3")]
KV_TYPES = ("f16", "q8_0", "q4_0")
N, N_ROWS = 1024, 4  # of the dots
# Byte offsets of the f16 fields of a block; every other byte may hold anything.
F16_FIELDS = {
    "F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "IQ4_NL": (0,), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
    "Q6_K": (208,), "IQ4_XS": (0,), "BF16": (0,), "F32": (2,),
}  # fmt: skip


def kv_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of KV block 0, by model and type."""
    hashes = {}
    for tiny in MODELS:
        path = folder / f"{tiny.name}.gguf"
        write_gguf(tiny, path)
        model = _native.Model(str(path))
        for kv in KV_TYPES:
            engine = _native.Engine(model, n_ctx=64, n_threads=2, kv_k=kv, kv_v=kv)
            session = engine.session()
            engine.step([(session, token_ids(tiny), 0)])
            hashes[f"kv {tiny.name} {kv}"] = hashlib.sha256(session.get_block(0)).hexdigest()
    return hashes


def fixed_bytes(name: str, n: int) -> np.ndarray:
    return np.frombuffer(hashlib.shake_128(name.encode()).digest(n), np.uint8)


def fixed_rows(name: str, traits: QuantTraits) -> np.ndarray:
    """[N_ROWS, row bytes]: codes of every kind under scales below 2 of both signs."""
    n_blocks = N_ROWS * N // traits.block_dim
    blocks = fixed_bytes(name, n_blocks * traits.block_bytes).reshape(n_blocks, -1).copy()
    for offset in F16_FIELDS.get(name, ()):
        blocks[:, offset + 1] &= 0xBF
    if name == "MXFP4":
        blocks[:, 0] = 120
    return blocks.reshape(N_ROWS, -1)


def dots(lib: ctypes.CDLL) -> dict[str, str]:
    """The f32 bits of some dots of every quant, in hexadecimal."""
    lib.acts_bytes.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)
    lib.acts_bytes.restype = ctypes.c_size_t
    pointer = ctypes.POINTER(Acts)
    lib.acts_place.argtypes = (pointer, ctypes.c_int, *[ctypes.c_size_t] * 2, ctypes.c_void_p)
    lib.acts_quantize.argtypes = (pointer, ctypes.c_size_t, ctypes.c_void_p)
    x = (fixed_bytes("activations", 2 * N).view(np.int16) / np.float32(8192)).astype(np.float32)
    found = {}
    table = (QuantTraits * len(QUANTS)).in_dll(lib, "quant_table")
    for name, traits in zip(QUANTS, table, strict=True):
        room = np.zeros(lib.acts_bytes(traits.acts, N, 1) + 64, np.uint8)
        acts = Acts()
        memory = room.ctypes.data + -room.ctypes.data % 64
        lib.acts_place(ctypes.byref(acts), traits.acts, N, 1, memory)
        lib.acts_quantize(ctypes.byref(acts), 0, x.ctypes.data)
        rows = fixed_rows(name, traits)
        sums = [traits.dot(row.ctypes.data, ctypes.byref(acts), 0) for row in rows]
        assert np.isfinite(sums).all() and all(sums)
        found[f"dot {name}"] = np.array(sums, np.float32).tobytes().hex()
    return found


def test_other_bits_are_another_version(internals: ctypes.CDLL, tmp_path: Path) -> None:
    version, _ = _native.kv_format()
    found = kv_hashes(tmp_path) | dots(internals)
    recorded = json.loads(RECORDED.read_text()).get(str(version), {})
    changed = [what for what in recorded if found.get(what) != recorded[what]]
    if changed:
        pytest.fail(
            f"version {version} of the arithmetic had other bits: {', '.join(changed)}. "
            "Raise LL_ARITHMETIC; what stands in golden/arithmetic.json is never changed."
        )
    unrecorded = {what: bits for what, bits in found.items() if what not in recorded}
    if unrecorded:
        rows = json.dumps(unrecorded, indent=4)
        pytest.fail(f'golden/arithmetic.json lacks of version "{version}": {rows}')
