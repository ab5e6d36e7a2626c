"""The roofline as a picture: what each case reaches, below what the machine allows it.

Left of the ridge a case waits for memory, right of it for arithmetic. Points are numbered and the
numbers explained beside the picture, so that no label lies on another, however close the points.
matplotlib is imported here alone; it comes with the extra localllm[plot].
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.errors import UsageError
from localllm.speed.limits import Limits

if TYPE_CHECKING:
    from localllm.speed.record import Run

COLOURS = ("#1f5fa8", "#b3541e", "#3f7d3a", "#7b4b94")
INK, GRID = "#333333", "#dddddd"
INCHES, DPI = (11.0, 5.6), 150
KEY_SHARE = 0.36  # of the width
KEY_LINES = 26
TEXT_POINTS = 9
BADGE_POINTS = 13  # apart from its dot and from any other
BADGE_PLACES = [
    (BADGE_POINTS * ring * x, BADGE_POINTS * ring * y)
    for ring in (1, 2, 3)
    for x, y in ((1, 0), (0, -1), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
]


@dataclass(frozen=True)
class Point:
    """One case: operations per byte read, and tera-operations per second reached."""

    label: str
    intensity: float
    tops: float


def check_available(path: Path) -> None:
    """Before anything is measured. Raises UsageError."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot draws a PNG, so {str(path)!r} must end in .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not here", "pip install 'localllm[plot]'"
        )


def find_points(run: Run) -> list[Point]:
    points = []
    for result in run.results:
        work = result.measured.work
        label = f"{result.measured.case}: {result.rate:.1f} tokens/s"
        points.append(Point(label, work.operations / work.read_bytes, result.tops))
    return points


def draw(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Writes the PNG: for each run a slope, two ceilings, its points, and the key to them."""
    from matplotlib.figure import Figure

    # Where the first use builds a font cache it would say so, and stderr is not a library's.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes, key = figure.subplots(1, 2, width_ratios=(1 - KEY_SHARE, KEY_SHARE))
    points = [find_points(run) for run in runs]
    x_range, y_range = find_ranges([p for some in points for p in some], [r.limits for r in runs])
    axes.set(xscale="log", yscale="log", xlim=x_range, ylim=y_range)
    key.set_axis_off()
    figure.canvas.draw()  # settles the layout, which the badges are placed by
    line, taken = 0, [place_in_points(axes, p) for some in points for p in some]
    n_lines = max(KEY_LINES, sum(len(some) + 2 for some in points))
    for i, (run, some) in enumerate(zip(runs, points, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        draw_roof(axes, run.limits, x_range, colour)
        heading = f"{run}, memory {run.limits.read_bytes / 1e9:.3g} GB/s"
        write_line(key, line / n_lines, heading, colour, weight="bold")
        for number, point in enumerate(some, start=1):
            draw_point(axes, point, number, colour, taken)
            write_line(key, (line + number) / n_lines, f"{number:>2}  {point.label}", colour)
        line += len(some) + 2
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    axes.set_xlabel("operations per byte read (weights, keys and values)", color=INK)
    axes.set_ylabel("tera-operations per second", color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def place_in_points(axes: Any, point: Point) -> tuple[float, float]:
    x, y = axes.transData.transform((point.intensity, point.tops)) * 72 / DPI
    return float(x), float(y)


def draw_point(
    axes: Any, point: Point, number: int, colour: str, taken: list[tuple[float, float]]
) -> None:
    """A dot, and its number on a badge in the nearest place beside it that is free."""
    x, y = place_in_points(axes, point)
    free = [
        (right, up)
        for right, up in BADGE_PLACES
        if all(math.dist((x + right, y + up), other) >= BADGE_POINTS - 1 for other in taken)
    ]
    right, up = free[0] if free else BADGE_PLACES[-1]
    taken.append((x + right, y + up))
    place = (point.intensity, point.tops)
    axes.plot(*place, marker="o", markersize=5, color=colour)
    axes.annotate(
        str(number),
        place,
        xytext=(right, up),
        textcoords="offset points",
        ha="center",
        va="center",
        color="white",
        fontsize=TEXT_POINTS - 2,
        bbox={"boxstyle": "circle,pad=0.25", "color": colour},
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
    )


def write_line(key: Any, down: float, text: str, colour: str, weight: str = "normal") -> None:
    key.text(
        0,
        1 - down,
        text,
        color=colour,
        fontsize=TEXT_POINTS,
        weight=weight,
        va="top",
        transform=key.transAxes,
    )


def find_ranges(
    points: Sequence[Point], all_limits: Sequence[Limits]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Room for every point and for the ridges."""
    ridges = [2 * limits.int8_macs / limits.read_bytes for limits in all_limits]
    peaks = [2 * max(limits.int8_macs, limits.float_macs) / 1e12 for limits in all_limits]
    xs = [point.intensity for point in points] + ridges
    ys = [point.tops for point in points] + peaks
    return (min(xs) / 3, max(xs) * 12), (min(ys) / 3, max(ys) * 2)


def draw_roof(axes: Any, limits: Limits, x_range: tuple[float, float], colour: str) -> None:
    slope = limits.read_bytes / 1e12
    for name, macs, style in (("int8", limits.int8_macs, "-"), ("float", limits.float_macs, "--")):
        peak = 2 * macs / 1e12
        ridge = peak / slope
        axes.plot([x_range[0], ridge], [x_range[0] * slope, peak], color=colour, lw=1.2)
        axes.plot([ridge, x_range[1]], [peak, peak], style, color=colour, lw=1.2)
        axes.annotate(
            f"{name} peak, {peak:.3g} TOPS",
            (x_range[1], peak),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=TEXT_POINTS,
        )
