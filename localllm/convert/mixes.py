"""The named mixes, in one table: every quant that a model can be written with.

A mix is a row: the quant of most tensors, and rules for the roles that deserve another. A rule is
a list of (condition, quant) pairs, of which the first that holds counts. What each tensor of a
model gets by them is told by tensor_quants.py.
Source: the rules of llama.cpp's llama_tensor_get_type, for the families this engine runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from localllm.errors import UsageError


@dataclass(frozen=True)
class Shape:
    """What the rules ask of a model."""

    arch: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    is_tied: bool  # the embedding is the head too
    has_importance: bool = False

    @property
    def n_shared(self) -> int:
        """Query heads of one KV head."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0


Condition = Callable[[int, Shape], bool]
Rule = Sequence[tuple[Condition, str]]


def always(i: int, shape: Shape) -> bool:
    return True


def first(n: int) -> Condition:
    return lambda i, shape: i < n


def first_part(of: int) -> Condition:
    """The first 1 / of of the layers."""
    return lambda i, shape: i < shape.n_layers // of


def more_bits(i: int, shape: Shape) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = shape.n_layers // 8
    return i < eighth or i >= 7 * shape.n_layers // 8 or (i - eighth) % 3 == 2


def many_shared(i: int, shape: Shape) -> bool:
    """V is small where four or more heads share it, so its bits cost little."""
    return shape.n_shared >= 4


def unimportant_first_eighth(i: int, shape: Shape) -> bool:
    return not shape.has_importance and i < shape.n_layers // 8


def important_first_eighth(i: int, shape: Shape) -> bool:
    return shape.has_importance and i < shape.n_layers // 8


class Mix(NamedTuple):
    """file_type: general.file_type, by which readers name the whole file."""

    quant: str
    file_type: int
    rules: Mapping[str, Rule] = {}


MORE_BITS: Mapping[str, Rule] = {
    "attn_v": [(more_bits, "Q6_K")],
    "ffn_down": [(more_bits, "Q6_K")],
}
IQ4: Mapping[str, Rule] = {
    "attn_v": [(many_shared, "Q5_K")],
    "ffn_down": [(unimportant_first_eighth, "Q5_K")],
}

MIXES: dict[str, Mix] = {
    "F32": Mix("F32", 0),
    "F16": Mix("F16", 1),
    "BF16": Mix("BF16", 32),
    "Q8_0": Mix("Q8_0", 7),
    "Q6_K": Mix("Q6_K", 18),
    "Q5_K_M": Mix("Q5_K", 17, MORE_BITS),
    "Q5_K_S": Mix("Q5_K", 16),
    "Q5_1": Mix("Q5_1", 9),
    "Q5_0": Mix("Q5_0", 8, {"ffn_down": [(important_first_eighth, "Q5_1")]}),
    "Q4_K_M": Mix("Q4_K", 15, MORE_BITS),
    "Q4_K_S": Mix(
        "Q4_K", 14, {"attn_v": [(first(4), "Q5_K")], "ffn_down": [(first_part(8), "Q5_K")]}
    ),
    "Q4_1": Mix("Q4_1", 3),
    "Q4_0": Mix("Q4_0", 2, {"ffn_down": [(important_first_eighth, "Q4_1")]}),
    "IQ4_NL": Mix("IQ4_NL", 25, IQ4),
    "IQ4_XS": Mix("IQ4_XS", 30, IQ4),
    "MXFP4": Mix("MXFP4", 38),
    "Q3_K_L": Mix(
        "Q3_K",
        13,
        {
            "attn_v": [(always, "Q5_K")],
            "ffn_down": [(always, "Q5_K")],
            "attn_output": [(always, "Q5_K")],
        },
    ),
    "Q3_K_M": Mix(
        "Q3_K",
        12,
        {
            "attn_v": [(first(2), "Q5_K"), (always, "Q4_K")],
            "ffn_down": [(first_part(16), "Q5_K"), (always, "Q4_K")],
            "attn_output": [(always, "Q4_K")],
        },
    ),
    "Q3_K_S": Mix("Q3_K", 11),
    "Q2_K": Mix(
        "Q2_K",
        10,
        {
            "attn_v": [(many_shared, "Q4_K"), (always, "Q3_K")],
            "ffn_down": [(always, "Q3_K")],
            "attn_output": [(always, "Q3_K")],
        },
    ),
}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def can_make(quant: str) -> bool:
    """Whether a checkpoint, or a GGUF file, can become a file of that quant."""
    return quant in MIXES


def find_mix(name: str) -> str:
    """The mix of that name, whatever its case. Raises: UsageError."""
    upper = name.upper()
    found = ALIASES.get(upper, upper)
    if found not in MIXES:
        raise UsageError(f"there is no quant {name!r}", "one of " + ", ".join(MIXES))
    return found
