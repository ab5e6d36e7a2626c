"""What keys and values are worth being stored as, as tables; docs/kv.md has the measurements."""

from __future__ import annotations

from typing import NamedTuple


class KvPair(NamedTuple):
    """The types of keys and of values, as --cache-type-k and --cache-type-v take them."""

    k: str = "f16"
    v: str = "f16"

    def describe(self) -> str:
        return self.k if self.k == self.v else f"{self.k} and {self.v}"


PLAIN = KvPair()

# The finest first. Keys of four bits are worth it nowhere.
PAIRS = (PLAIN, KvPair("q8_0", "q8_0"), KvPair("q8_0", "q4_0"))

# The quant of weights that moves a model's predictions about as far as keys, or values, of a type.
KEYS_LIKE = {"f16": "F32", "q8_0": "Q8_0", "q4_0": "Q2_K"}
VALUES_LIKE = {"f16": "F32", "q8_0": "Q8_0", "q4_0": "Q5_K_M"}


def pair_of(k: str | None, v: str | None) -> KvPair:
    """The pair that was asked for; None is the plain type."""
    return KvPair(k or PLAIN.k, v or PLAIN.v)
