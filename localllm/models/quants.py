"""The quants that models are published in, from the best to the smallest, in one table.

Quality is the order of the rows: measured losses of released models differ in size, seldom in
order. The bits include scales and what a mix stores finer, for a model of some billion weights.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Quant(NamedTuple):
    name: str
    bits: float  # per weight, about


# BF16 is how most models are trained, so F32 adds bytes and nothing else.
QUANTS = (
    Quant("BF16", 16),
    Quant("F32", 32),
    Quant("F16", 16),
    Quant("Q8_K_XL", 9.5),
    Quant("Q8_0", 8.5),
    Quant("Q6_K_XL", 7.3),
    Quant("Q6_K_L", 6.7),
    Quant("Q6_K", 6.56),
    Quant("Q5_K_XL", 5.8),
    Quant("Q5_K_L", 5.8),
    Quant("Q5_K_M", 5.69),
    Quant("Q5_1", 6.0),
    Quant("Q5_K_S", 5.54),
    Quant("Q5_0", 5.5),
    Quant("Q4_K_XL", 5.0),
    Quant("Q4_K_L", 5.0),
    Quant("Q4_K_M", 4.85),
    Quant("Q4_K_S", 4.58),
    Quant("IQ4_NL", 4.5),
    Quant("IQ4_XS", 4.3),
    Quant("Q4_1", 5.0),
    Quant("Q4_0", 4.55),
    Quant("MXFP4", 4.25),
    Quant("Q3_K_XL", 4.4),
    Quant("Q3_K_L", 4.27),
    Quant("IQ3_M", 3.7),
    Quant("Q3_K_M", 3.91),
    Quant("IQ3_S", 3.5),
    Quant("IQ3_XS", 3.3),
    Quant("Q3_K_S", 3.5),
    Quant("IQ3_XXS", 3.1),
    Quant("Q2_K_XL", 3.1),
    Quant("Q2_K_L", 3.1),
    Quant("Q2_K", 2.96),
    Quant("IQ2_M", 2.7),
    Quant("IQ2_S", 2.5),
    Quant("Q2_K_S", 2.7),
    Quant("IQ2_XS", 2.4),
    Quant("IQ2_XXS", 2.1),
    Quant("IQ1_M", 1.9),
    Quant("TQ2_0", 2.1),
    Quant("TQ1_0", 1.7),
    Quant("IQ1_S", 1.6),
)
BY_NAME = {quant.name: quant for quant in QUANTS}
RANKS = {quant.name: rank for rank, quant in enumerate(QUANTS)}

# What to take where nobody says: the usual balance of size and quality first.
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q5_K_M", "Q8_0", "F16", "BF16", "F32")

# A mix of another recipe, such as UD-Q4_K_XL, is a quant of its own with its plain one's rank.
RECIPE = "UD-"
WORD = re.compile(
    rf"(?<![A-Z0-9_])(?:{RECIPE})?"
    rf"(?:{'|'.join(sorted(map(re.escape, BY_NAME), key=len, reverse=True))})(?![A-Z0-9_])"
)


def find_quant(file_name: str) -> str | None:
    """The quant that stands in a file's path, the last one where there are several."""
    found = WORD.findall(file_name.upper())
    return found[-1] if found else None


def without_quant(file_name: str) -> str:
    """The name in capitals without its quants: what files of one model have in common, also
    m-Q8_0.gguf and m-F16-Q4_K_M.gguf."""
    return re.sub(r"[-._]+", "-", WORD.sub("", file_name.upper()))


def has_quant(file_name: str, quant: str) -> bool:
    """Whether the quant stands in the path as a word: Q4_K is not in model-Q4_K_M.gguf."""
    word = rf"(?<![A-Z0-9_]){re.escape(quant.upper())}(?![A-Z0-9_])"
    return re.search(word, file_name.upper()) is not None


def rank(quant: str) -> tuple[int, bool]:
    """Sorts the best first, and of one quant the plain file before another recipe's."""
    return RANKS[quant.removeprefix(RECIPE)], quant.startswith(RECIPE)


def rank_near(name: str) -> int:
    """The rank of a quant, also of one that no file is named after: Q4_K is like its mixes."""
    plain = name.removeprefix(RECIPE)
    near = (rank for known, rank in RANKS.items() if known.startswith(plain))
    return RANKS[plain] if plain in RANKS else next(near, len(QUANTS))
