"""How the next token is drawn: the settings, and where a setting nobody gave comes from.

Precedence: what the caller gives, then the model file's own `general.sampling.*` keys, then
temperature 0.7 and top-p 0.95. What there is and how far each may go is one list, LL_SAMPLING in
native/localllm.h. The engine applies them in one fixed order: bias, penalties, top-k, typical-p,
top-p, min-p, temperature, draw; the draw depends on (seed, position) alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from localllm.errors import UsageError

MODEL_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
    "penalty_last_n": "general.sampling.penalty_last_n",
}

DEFAULTS: dict[str, float] = {"temperature": 0.7, "top_p": 0.95}


@functools.cache
def ranges() -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each setting as the engine's own list has them; ints
    where it is a whole number."""
    from localllm import _native

    return {name: (low, high) for name, low, high, _ in _native.sampling()}


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler. Temperature 0 takes the likeliest token every time.

    Raises: UsageError, for a value outside its range.
    """

    temperature: float = 0.7
    top_k: int = 0  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.0  # 0: off
    typical_p: float = 1.0  # 1: off
    repeat_penalty: float = 1.0  # 1: off
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64  # how many of the latest tokens the penalties see
    seed: int | None = None  # None: random, and told afterwards
    biases: tuple[tuple[int, float], ...] = ()  # (id, added to its logit)

    def __post_init__(self) -> None:
        for name, (low, high) in ranges().items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                label = name.replace("_", "-")
                raise UsageError(f"{label} is {value}, but must lie between {low:g} and {high:g}")


@dataclass(frozen=True)
class SeededSampling(Sampling):
    """Sampling whose seed is decided, as the engine wants it."""

    seed: int = 0


def seeded(sampling: Sampling) -> SeededSampling:
    """The same settings with a seed, a random one where none was given."""
    values = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    if values["seed"] is None:
        values["seed"] = random_seed()
    return SeededSampling(**values)


def random_seed() -> int:
    """32 bits of the system's randomness: short enough to type again."""
    import os

    return int.from_bytes(os.urandom(4), "little")


def settled(given: dict[str, Any], meta: Callable[[str], Any]) -> Sampling:
    """The settings given (None: not given), completed from the model's keys and the defaults."""
    values: dict[str, Any] = dict(DEFAULTS)
    for name, key in MODEL_KEYS.items():
        value = meta(key)
        low, high = ranges()[name]
        if isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high:
            values[name] = type(getattr(Sampling, name))(value)
    values.update({name: value for name, value in given.items() if value is not None})
    return replace(Sampling(), **values)
