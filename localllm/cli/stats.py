"""What an answer cost: tokens, rates, and memory, predicted and measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from localllm.cli.answer import describe
from localllm.cli.needs import component_json
from localllm.units import format_bytes

if TYPE_CHECKING:
    from localllm.answer.footprint import Footprint
    from localllm.answer.generate import Result

COLUMN = 11


def lines(result: Result, footprint: Footprint) -> Iterator[str]:
    """The block that --stats prints behind an answer."""
    yield from describe(result).split("; ")
    yield f"{'memory':<14}{'predicted':>{COLUMN}}{'measured':>{COLUMN}}"
    for component in footprint.predicted.components:
        if component.touched_bytes:
            part = footprint.measured_parts.get(component.name)
            shown = "" if part is None else format_bytes(part)
            line = f"  {component.name:<12}{format_bytes(component.touched_bytes):>{COLUMN}}"
            yield f"{line}{shown:>{COLUMN}}".rstrip()
    for name, predicted, measured in footprint.rows:
        shown = "unknown" if measured is None else format_bytes(measured)
        yield f"{name:<14}{format_bytes(predicted):>{COLUMN}}{shown:>{COLUMN}}"


def memory_json(footprint: Footprint) -> dict[str, Any]:
    return {
        "components": [
            {**component_json(part), "measured_bytes": footprint.measured_parts.get(part.name)}
            for part in footprint.predicted.components
        ],
        "totals": {
            name.replace(" ", "_"): {"predicted_bytes": predicted, "measured_bytes": measured}
            for name, predicted, measured in footprint.rows
        },
    }
