"""The engine's structs as ctypes sees them, each written down once.

A class is named as its struct is, in CamelCase and without `ll_`; members have C's names and
order. test_native_structs.py has the C compiler hold every one against its header.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
)
from ctypes import c_void_p as ptr
from typing import Any

from localllm import _native

QUANTS = list(_native.quants())  # the names of `enum quant`, in its order


# ---- localllm.h --------------------------------------------------------------------------------


class Error(ctypes.Structure):
    _fields_ = (
        ("code", c_int),
        ("offset", c_uint64),
        ("message", c_char * 512),
        ("system", c_int),
    )


class String(ctypes.Structure):
    _fields_ = (("data", ptr), ("n_bytes", c_size_t))

    def value(self) -> bytes:
        return ctypes.string_at(self.data, self.n_bytes)


class Meta(ctypes.Structure):
    _fields_ = (
        ("key", String),
        ("type", c_int),
        ("element_type", c_int),
        ("n_elements", c_uint64),
        ("data", ptr),
        ("n_bytes", c_size_t),
    )


class LogitBias(ctypes.Structure):
    _fields_ = (("id", c_int32), ("bias", c_float))


def setting_type(high: float) -> type[ctypes._SimpleCData[Any]]:
    """That of a sampler setting, by its highest value."""
    if isinstance(high, float):
        return c_float
    return c_uint64 if high >> 32 else c_int32


class Sampling(ctypes.Structure):
    _fields_ = (
        *((name, setting_type(high)) for name, _, high, _ in _native.sampling()),
        ("biases", POINTER(LogitBias)),
        ("n_biases", c_size_t),
    )


# ---- format/ -----------------------------------------------------------------------------------


class ActsValues(ctypes.Union):
    _fields_ = (("f32", ptr), ("bf16", ptr), ("q", ptr))


class Acts(ctypes.Structure):
    _anonymous_ = ("values",)
    _fields_ = (
        ("kind", c_int),
        ("n", c_size_t),
        ("n_cols", c_size_t),
        ("values", ActsValues),
        ("d", ptr),
        ("sum", ptr),
        ("sums", ptr),
    )


class QuantTraits(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("ggml_id", c_uint32),
        ("block_dim", c_uint32),
        ("block_bytes", c_uint32),
        ("acts", c_int),
        ("dequantize", CFUNCTYPE(None, ptr, ptr, c_size_t)),
        ("dot", CFUNCTYPE(c_float, ptr, POINTER(Acts), c_size_t)),
    )


class GgufTensor(ctypes.Structure):
    _fields_ = (
        ("name", String),
        ("quant", POINTER(QuantTraits)),
        ("ggml_id", c_uint32),
        ("n_dims", c_uint32),
        ("shape", c_uint64 * 4),
        ("offset", c_uint64),
        ("n_bytes", c_uint64),
        ("data", ptr),
    )


# ---- kernels/ ----------------------------------------------------------------------------------


class AttendChunk(ctypes.Structure):
    _fields_ = (
        ("k", ptr),
        ("v", ptr),
        ("k_dim", c_size_t),
        ("v_dim", c_size_t),
        ("k_type", c_int),
        ("v_type", c_int),
        ("next_k", ptr),
        ("next_v", ptr),
    )


class AttendState(ctypes.Structure):
    _fields_ = (("m", c_float), ("l", c_float), ("o", ptr))


class Product(ctypes.Structure):
    _fields_ = (
        ("rows", ptr),
        ("row_bytes", c_size_t),
        ("n_rows", c_size_t),
        ("a", POINTER(Acts)),
        ("col0", c_size_t),
        ("n_cols", c_size_t),
        ("y", ptr),
        ("y_stride", c_size_t),
        ("scratch", ptr),
    )


class PeakLoop(ctypes.Structure):
    _fields_ = (("run", ptr), ("macs", c_uint64))


MATMUL = CFUNCTYPE(None, POINTER(Product))
TWO_VECTORS = CFUNCTYPE(None, ptr, ptr, c_size_t)
THREE_VECTORS = CFUNCTYPE(None, ptr, ptr, ptr, c_size_t)


class Kernels(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("is_available", CFUNCTYPE(c_bool)),
        ("matmul", ptr * len(QUANTS)),  # each a MATMUL, or NULL
        ("quantize", CFUNCTYPE(None, POINTER(Acts), c_size_t, ptr)),
        ("rms_norm", CFUNCTYPE(None, ptr, ptr, c_float, ptr, c_size_t)),
        ("add", TWO_VECTORS),
        ("silu_mul", THREE_VECTORS),
        ("gelu_mul", THREE_VECTORS),
        ("to_f16", TWO_VECTORS),
        ("largest", CFUNCTYPE(c_float, ptr, c_size_t)),
        ("sum_weights", CFUNCTYPE(c_uint64, ptr, c_size_t, c_float, c_double)),
        (
            "attend",
            CFUNCTYPE(
                None, POINTER(AttendChunk), ptr, c_size_t, c_size_t, c_float, ptr, ptr, ptr, ptr
            ),
        ),
        ("attend_merge", CFUNCTYPE(None, POINTER(AttendState), POINTER(AttendState), c_size_t)),
        ("matmul_scratch", CFUNCTYPE(c_size_t, c_int, c_size_t, c_size_t, c_size_t)),
        ("attend_scratch", CFUNCTYPE(c_size_t, c_size_t, c_size_t, c_size_t)),
        ("task_macs", c_size_t),
        ("peaks", PeakLoop * 2),  # int8, float
    )


# ---- model/ ------------------------------------------------------------------------------------


class LayerGroup(ctypes.Structure):
    _fields_ = (
        ("kind", c_int),
        ("window", c_uint32),
        ("n_kv_heads", c_uint32),
        ("k_dim", c_uint32),
        ("v_dim", c_uint32),
        ("n_layers", c_uint32),
    )


class Plan(ctypes.Structure):
    _fields_ = (
        ("model", ptr),
        ("steps", ptr),
        ("n_steps", c_size_t),
        ("buffer_dim", c_uint32 * 5),
        ("groups", LayerGroup * 8),
        ("n_groups", c_uint32),
    )


# Every struct of this file by its name in C.
STRUCTS = {
    "ll_error": Error,
    "ll_string": String,
    "ll_meta": Meta,
    "ll_logit_bias": LogitBias,
    "ll_sampling": Sampling,
    "acts": Acts,
    "quant_traits": QuantTraits,
    "gguf_tensor": GgufTensor,
    "attend_chunk": AttendChunk,
    "attend_state": AttendState,
    "product": Product,
    "kernels": Kernels,
    "layer_group": LayerGroup,
    "plan": Plan,
    "peak_loop": PeakLoop,
}
