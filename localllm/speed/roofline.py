"""The roofline as a picture: what each case reaches, below what the machine allows it.

Left of the ridge a case waits for memory, right of it for arithmetic. matplotlib is imported here
alone; it comes with the extra localllm[plot].
"""

from __future__ import annotations

import importlib.util
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
INCHES, DPI = (9.0, 5.4), 150
TEXT_POINTS = 8.5
LINE_POINTS = 12  # from one label to the next below it


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
        raise UsageError("--plot needs matplotlib, which is not here", "pip install localllm[plot]")


def find_points(run: Run) -> list[Point]:
    points = []
    for result in run.results:
        work = result.measured.work
        label = f"{result.measured.case}, {result.rate:.3g} tokens/s"
        points.append(Point(label, work.operations / work.read_bytes, result.tops))
    return points


def draw(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Writes the PNG: one slope, two ceilings and the points of each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    points = [find_points(run) for run in runs]
    x_range, y_range = find_ranges([p for some in points for p in some], [r.limits for r in runs])
    axes.set(xscale="log", yscale="log", xlim=x_range, ylim=y_range)
    for run, some, colour in zip(runs, points, cycle_colours(len(runs)), strict=True):
        draw_roof(axes, run, x_range, colour)
        axes.plot(
            [p.intensity for p in some],
            [p.tops for p in some],
            linestyle="none",
            marker="o",
            markersize=6,
            color=colour,
            label=str(run),
        )
        draw_labels(axes, some, colour)
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    axes.set_xlabel("operations per byte read (weights, keys and values)", color=INK)
    axes.set_ylabel("tera-operations per second", color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=TEXT_POINTS)
    figure.savefig(path, format="png")


def cycle_colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def find_ranges(
    points: Sequence[Point], all_limits: Sequence[Limits]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Room for every point, the ridges, and a label beside each."""
    ridges = [2 * limits.int8_macs / limits.read_bytes for limits in all_limits]
    peaks = [2 * max(limits.int8_macs, limits.float_macs) / 1e12 for limits in all_limits]
    xs = [point.intensity for point in points] + ridges
    ys = [point.tops for point in points] + peaks
    return (min(xs) / 2, max(xs) * 8), (min(ys) / 3, max(ys) * 3)


def draw_roof(axes: Any, run: Run, x_range: tuple[float, float], colour: str) -> None:
    limits = run.limits
    for name, macs, style in (
        ("int8", limits.int8_macs, "-"),
        ("float", limits.float_macs, "--"),
    ):
        peak, ridge = 2 * macs / 1e12, 2 * macs / limits.read_bytes
        axes.plot([max(ridge, x_range[0]), x_range[1]], [peak, peak], style, color=colour, lw=1.2)
        note(axes, f"{name} peak {peak:.3g} TOPS", x_range[1], peak, (-2, 3), "right", colour)
    ridge = 2 * max(limits.int8_macs, limits.float_macs) / limits.read_bytes
    slope = limits.read_bytes / 1e12
    axes.plot([x_range[0], ridge], [x_range[0] * slope, ridge * slope], color=colour, lw=1.2)
    middle = (x_range[0] * ridge) ** 0.5
    gbps = limits.read_bytes / 1e9
    note(axes, f"memory {gbps:.3g} GB/s ", middle, middle * slope, (-4, 4), "right", colour)


def draw_labels(axes: Any, points: Sequence[Point], colour: str) -> None:
    """Each label right of its point; where points crowd, labels go down in steps with a line."""
    figure = axes.get_figure()
    figure.canvas.draw()
    to_points = 72 / figure.dpi
    placed: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.tops):
        x, y = axes.transData.transform((point.intensity, point.tops)) * to_points
        wanted = y
        while any(abs(wanted - b) < LINE_POINTS and abs(x - a) < 150 for a, b in placed):
            wanted -= 1
        placed.append((x, wanted))
        note(
            axes,
            point.label,
            point.intensity,
            point.tops,
            (14, wanted - y - 3),
            "left",
            colour,
            leader=True,
        )


def note(
    axes: Any,
    text: str,
    x: float,
    y: float,
    offset: tuple[float, float],
    side: str,
    colour: str,
    leader: bool = False,
) -> None:
    line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkB": 3} if leader else None
    axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        ha=side,
        color=colour,
        fontsize=TEXT_POINTS,
        arrowprops=line,
    )
