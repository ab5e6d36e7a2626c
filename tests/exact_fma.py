"""fmaf and float32 sums in exact rational arithmetic, to check the order of the engine's sums."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np


def round_f32(value: Fraction) -> np.float32:
    """The float32 nearest to `value`, ties to even; `value` lies within float32's range."""
    near = np.float32(float(value))
    around = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    return min(around, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(np.uint32)) & 1))


def fma(a: float | np.float32, b: float | np.float32, c: float | np.float32) -> np.float32:
    """a * b + c rounded once."""
    return round_f32(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


def tree16(lanes: Iterable[np.float32]) -> np.float32:
    """The sum of 16 lanes by halves: 8, 4, 2, 1."""
    values = list(lanes)
    assert len(values) == 16
    while len(values) > 1:
        half = len(values) // 2
        values = [values[i] + values[i + half] for i in range(half)]
    return values[0]
