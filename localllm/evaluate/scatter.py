"""A picture of what quants cost: their size against their divergence from the reference.

matplotlib is imported here and in roofline.py alone; it comes with the extra localllm[plot].
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

INCHES = (8, 5)
DPI = 120


class Point(NamedTuple):
    label: str
    file_bytes: int
    divergence: float  # mean KL in nats
    error: float


def draw(path: Path, reference: str, points: Sequence[Point]) -> None:
    """Writes the PNG; the divergence is on a logarithmic scale where all of it is positive."""
    from matplotlib.figure import Figure

    # Where the first use builds a font cache it would say so, and stderr is not a library's.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    if all(point.divergence > 0 for point in points):
        axes.set_yscale("log")
    for point in points:
        mebibytes = point.file_bytes / 2**20
        axes.errorbar(mebibytes, point.divergence, yerr=point.error, fmt="o", capsize=3)
        axes.annotate(
            point.label.replace("$", r"\$"),
            (mebibytes, point.divergence),
            xytext=(6, 6),
            textcoords="offset points",
        )
    axes.set_xlabel("size of the file, MiB")
    axes.set_ylabel("mean KL divergence, nats")
    axes.set_title(f"against {reference}".replace("$", r"\$"))
    axes.margins(0.15)
    axes.grid(True, alpha=0.3)
    figure.savefig(path)
