"""What is compared and what it should reach: the models, and per row the goal, as data.

Goals are ratios to the better setting of llama.cpp on two AVX-512 cores. `elsewhere` is what
ik_llama.cpp reached over llama.cpp in the same row: measured on other hardware with other versions,
so it orients and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchModel:
    """`source` is a name in the catalog, or the quant of a file that synthetic.py writes."""

    name: str
    title: str
    source: str
    is_synthetic: bool


@dataclass(frozen=True)
class Goal:
    """`ratio`: ours / the peer's, at least this, or at most where less is better; `own`: our figure
    itself, at most."""

    ratio: float | None = None
    stretch: float | None = None
    elsewhere: float | None = None
    own: float | None = None


def synthetic(name: str, quant: str) -> BenchModel:
    return BenchModel(name, f"1B {quant}", quant, is_synthetic=True)


MODELS = (
    BenchModel("smollm2", "smollm2 135m Q4_1", "smollm2:135m", is_synthetic=False),
    BenchModel("gemma3", "gemma3 270m Q4_K_M", "gemma3:270m", is_synthetic=False),
    synthetic("1b-q4_k_m", "Q4_K_M"),
    synthetic("1b-q8_0", "Q8_0"),
    synthetic("1b-q6_k", "Q6_K"),
    synthetic("1b-q4_0", "Q4_0"),
    synthetic("1b-f16", "F16"),
    synthetic("1b-bf16", "BF16"),
)

# Attention over a long context is measured where weights are the usual ones.
DEEP_MODEL = "1b-q4_k_m"

LOAD, MEMORY, PEAK = "load", "memory", "peak"


def over(phase: str, beside: str) -> str:
    """The row in which ours is held against another phase of ours."""
    return f"{phase} over {beside}"


GOALS = {
    ("smollm2", "prompt"): Goal(6.0, 7.0, elsewhere=5.5),
    ("smollm2", "generation"): Goal(1.6, 1.9, elsewhere=1.5),
    ("smollm2", "batch"): Goal(5.0),
    ("gemma3", "prompt"): Goal(2.4, 3.0, elsewhere=2.2),
    ("gemma3", "generation"): Goal(1.6, 1.8, elsewhere=1.55),
    ("gemma3", "batch"): Goal(4.0),
    ("1b-q4_k_m", "prompt"): Goal(1.45, 1.65, elsewhere=1.0),
    ("1b-q4_k_m", "generation"): Goal(1.05, 1.2),
    ("1b-q4_k_m", "batch"): Goal(2.5),
    ("1b-q4_k_m", "deep-prompt"): Goal(2.3),
    ("1b-q4_k_m", "deep-generation"): Goal(1.6),
    ("1b-q4_k_m", "deep-prompt-q8_0"): Goal(2.3),
    ("1b-q4_k_m", "deep-generation-q8_0"): Goal(1.6),
    ("1b-q4_k_m", over("deep-prompt-q8_0", "deep-prompt")): Goal(1.0),
    ("1b-q4_k_m", over("deep-generation-q8_0", "deep-generation")): Goal(1.0),
    ("1b-q8_0", "prompt"): Goal(3.3, 4.0, elsewhere=2.8),
    ("1b-q8_0", "generation"): Goal(1.1, 1.3),
    ("1b-q8_0", "batch"): Goal(2.5),
    ("1b-q6_k", "prompt"): Goal(1.4),
    ("1b-q6_k", "generation"): Goal(1.05),
    ("1b-q6_k", "batch"): Goal(2.0),
    ("1b-q4_0", "prompt"): Goal(1.4),
    ("1b-q4_0", "generation"): Goal(1.05),
    ("1b-q4_0", "batch"): Goal(2.0),
    ("1b-f16", "prompt"): Goal(1.1),
    ("1b-f16", "generation"): Goal(1.05),
    ("1b-bf16", "prompt"): Goal(1.1),
    ("1b-bf16", "generation"): Goal(1.05),
    ("smollm2", LOAD): Goal(own=150.0),
    ("1b-q4_k_m", LOAD): Goal(0.2),
    ("1b-q4_k_m", MEMORY): Goal(0.65),
    ("1b-q4_k_m", PEAK): Goal(0.65),
}

# Without AVX-512 and AVX-VNNI on either side.
AVX2_GOALS = {
    ("1b-q4_k_m", "prompt"): Goal(1.0),
    ("1b-q4_k_m", "generation"): Goal(1.0),
}

# The share of memory's read rate that generation should reach with the 1B models. The rate of a
# shared machine moves; what lies above the cap is not asked for.
READ_SHARE_GOAL = 0.93
READ_RATE_CAP = 60e9


def find_goal(model: str, phase: str, isa: str) -> Goal:
    goals = AVX2_GOALS if isa == "avx2" else GOALS
    return goals.get((model, phase), Goal())
