"""Which quant each tensor of a model gets by a mix, as llama.cpp's quantizer chooses.

Whatever the mix, vectors and norms stay F32, the head is never below Q6_K, and a row that is no
whole number of blocks falls back to a quant whose blocks are smaller.
Source: llama.cpp's llama_tensor_get_type, for the families this engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from localllm.convert.mixes import MIXES, Shape
from localllm.engines.quantizer import QUANTS

FLOATS = ("F32", "F16", "BF16")

# Where a row is no whole number of a quant's superblocks.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}


@dataclass
class Chooser:
    """Chooses the quants of one model's tensors; they are asked for layer by layer, in order.

    overrides: (pattern of a tensor's name, quant) pairs, which go before the mix's rules.
    """

    mix: str
    shape: Shape
    overrides: Sequence[tuple[str, str]] = ()
    n_seen: dict[str, int] = field(default_factory=dict)

    def choose(self, name: str, dims: Sequence[int]) -> str:
        """The quant of a tensor; dims in GGUF's order, the row first."""
        if not is_matrix(name, dims):
            return "F32"
        return fitting(self.wanted(name, dims), dims[0])

    def wanted(self, name: str, dims: Sequence[int]) -> str:
        mix = MIXES[self.mix]
        role = name.split(".")[-2]
        i = self.n_seen.get(role, 0)
        self.n_seen[role] = i + 1
        for pattern, quant in self.overrides:
            if fnmatchcase(name, pattern):
                return quant
        if mix.quant in FLOATS:
            return mix.quant
        if role == "output" or (role == "token_embd" and self.shape.is_tied):
            return head_quant(mix.quant, dims[0])
        for holds, quant in mix.rules.get(role, ()):
            if holds(i, self.shape):
                return self.widened(role, quant)
        return self.widened(role, mix.quant)

    def widened(self, role: str, quant: str) -> str:
        """The V of llama's 80 layers is so small beside the rest that it never gets few bits."""
        is_large = self.shape.arch == "llama" and self.shape.n_layers == 80
        return "Q5_K" if is_large and role == "attn_v" and quant in ("Q3_K", "Q4_K") else quant


def is_matrix(name: str, dims: Sequence[int]) -> bool:
    return len(dims) > 1 and name.endswith(".weight") and not name.endswith("_norm.weight")


def head_quant(quant: str, n: int) -> str:
    return "Q8_0" if quant == "Q8_0" or n % QUANTS[quant].block_dim else "Q6_K"


def fitting(quant: str, n: int) -> str:
    """The quant, or what it falls back to for rows of n values."""
    while n % QUANTS[quant].block_dim:
        quant = FALLBACKS.get(quant, "F16")
    return quant
