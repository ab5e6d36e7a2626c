"""Numbers as people write them, `4k` tokens or `1.5GiB` of memory, and bytes as they read them.

A single letter or an `i` counts in 1024, as context lengths and memory do; `kB MB GB TB` count in
1000, as disks and networks do.
"""

from __future__ import annotations

import re

from localllm.errors import UsageError

NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)

COUNT_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
BYTE_UNITS = {"": 1, "b": 1} | {
    spelling: factor
    for power, letter in enumerate("kmgt", start=1)
    for spelling, factor in (
        (letter, 1 << (10 * power)),
        (f"{letter}ib", 1 << (10 * power)),
        (f"{letter}b", 1000**power),
    )
}
BYTE_NAMES = ("B", "KiB", "MiB", "GiB", "TiB")


def parse_count(text: str) -> int:
    """Reads a whole number such as `512` or `4k` (4096)."""
    return parse(text, COUNT_UNITS, "a count such as 512 or 4k")


def parse_bytes(text: str) -> int:
    """Reads a size such as `1.5GiB`, `2G` (2 GiB) or `2GB` (2,000,000,000)."""
    return parse(text, BYTE_UNITS, "a size such as 512M, 2G or 1.5GiB")


def parse(text: str, units: dict[str, int], expected: str) -> int:
    found = NUMBER.fullmatch(text.strip())
    factor = units.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise UsageError(f"{text!r} is not {expected}")
    value = float(found[1]) * factor
    if "." not in found[1]:
        return int(found[1]) * factor
    if not value.is_integer() and factor == 1:
        raise UsageError(f"{text!r} is not a whole number")
    return int(value)


def format_bytes(n_bytes: int) -> str:
    """`98362432` as `93.8 MiB`; whole bytes below one KiB."""
    value, power = float(n_bytes), 0
    while abs(value) >= 1024 and power < len(BYTE_NAMES) - 1:
        value, power = value / 1024, power + 1
    return f"{n_bytes} B" if power == 0 else f"{value:.1f} {BYTE_NAMES[power]}"
