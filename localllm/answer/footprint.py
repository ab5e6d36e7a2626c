"""What a run was predicted to take, beside what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localllm.memory import process
from localllm.memory.need import Extent, Kind, Need
from localllm.memory.process import Usage
from localllm.models.sources.split import model_files

if TYPE_CHECKING:
    from localllm.answer.generate import Result
    from localllm.answer.model import Model


@dataclass(frozen=True)
class Footprint:
    """predicted: for the positions and rows that were used. What the system keeps quiet is None."""

    predicted: Need
    measured: Usage | None
    measured_model_bytes: int | None  # resident pages of the model's files
    measured_parts: Mapping[str, int]  # by component, where it can be told from the others

    @property
    def predicted_model_bytes(self) -> int:
        parts = self.predicted.components
        return sum(part.touched_bytes for part in parts if part.name in MODEL_COMPONENTS)

    @property
    def rows(self) -> list[tuple[str, int, int | None]]:
        """Kinds of memory, predicted and measured bytes of each; the peak is of all at once."""
        found, model_bytes = self.measured, self.measured_model_bytes
        other = None if found is None or model_bytes is None else found.file_bytes - model_bytes
        predicted_other = self.predicted.touched(Kind.file) - self.predicted_model_bytes
        anonymous = self.predicted.touched(Kind.anonymous)
        return [
            ("model file", self.predicted_model_bytes, model_bytes),
            ("other files", predicted_other, other),
            ("anonymous", anonymous, found.anonymous_bytes if found else None),
            ("peak", self.predicted.touched(), found.peak_bytes if found else None),
        ]


MODEL_COMPONENTS = ("weights", "metadata")
# The components that an engine keeps apart, by its names for them.
KEPT = {"kv_bytes": "kv cache", "scratch_bytes": "scratch", "logits_bytes": "logits"}


def of(model: Model, result: Result) -> Footprint:
    """Taken while the model is open, when its answer is complete."""
    n_fed = result.n_prompt - result.n_reused
    extent = Extent(
        n_positions=result.n_prompt + result.n_generated,
        n_rows=min(n_fed, model.engine.n_batch),
    )
    return Footprint(
        model.need(extent),
        process.measure(),
        process.mapped_bytes(model_files(model.file.path)),
        {KEPT[key]: n_bytes for key, n_bytes in model.engine.resident().items()},
    )
