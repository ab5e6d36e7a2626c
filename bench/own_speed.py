"""One fresh process that measures our engine on one model, and the machine's limits beside it.

Run by `run.py`; alone, with a Python that has localllm:

    python bench/own_speed.py MODEL.gguf --phases prompt,generation

The counterpart of peer_speed.py. Prints one JSON object: tokens per second by phase, and for each
phase what memory gave just before and just after it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from phases import CHUNK, PHASES, Phase, Timeline, find_phases, measure, measure_all

from localllm import _native

READ_BYTES = 256 << 20
LOOK_SECONDS = 0.3
# These are multiplied as floats; the weights of every other quant as int8.
FLOAT_QUANTS = ("f32", "f16", "bf16")


class OwnTimeline:
    """Sessions of one engine, all at the same position."""

    def __init__(self, model: _native.Model, engine: _native.Engine, n_sequences: int) -> None:
        self.n_vocab: int = model.info["n_vocab"]
        self.engine = engine
        self.sessions = [engine.session() for _ in range(n_sequences)]

    def feed(self, rows: list[list[int]]) -> float:
        entries = [(session, ids, 1) for session, ids in zip(self.sessions, rows, strict=True)]
        start = time.perf_counter()
        self.engine.step(entries)
        return time.perf_counter() - start

    def rewind(self, position: int) -> None:
        for session in self.sessions:
            left = session.truncate(position)
            if left != position:
                raise SystemExit(f"rewound to {left}, not to {position}")

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.engine.close()


def layer_tensors(model: _native.Model) -> list[tuple[str, int]]:
    """Quant and number of weights of every matrix that each token of a prompt is multiplied with;
    the head is needed for the last token only."""
    return [
        (quant, shape[0] * shape[1])
        for name, quant, shape, *_ in model.tensors()
        if name.startswith("blk.") and len(shape) == 2
    ]


def measure_peak(kernels: str, is_float: bool, n_threads: int) -> float | None:
    """Multiply-adds per second of this processor; None where the engine cannot tell."""
    peak = getattr(_native, "peak", None)
    return peak(kernels, is_float, n_threads, LOOK_SECONDS) if peak else None


def kv_bytes(model: _native.Model, phase: Phase) -> int:
    """Of the positions that the phase begins behind."""
    if phase.depth == 0:
        return 0
    return model.plan(n_ctx=phase.depth, kv_k=phase.kv, kv_v=phase.kv)["kv_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--phases", default=",".join(phase.name for phase in PHASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernels", default=None)
    options = parser.parse_args()

    model = _native.Model(options.model)
    kernels = options.kernels or _native.machine()["kernels"][0]
    read_rates: dict[str, list[float]] = {}

    def open_timeline(n_sequences: int, n_ctx: int, kv: str) -> Timeline:
        engine = _native.Engine(
            model,
            n_ctx=n_ctx,
            n_sessions=n_sequences,
            n_batch=CHUNK,
            n_logits=n_sequences,
            n_threads=options.threads,
            kernels=kernels,
            kv_k=kv,
            kv_v=kv,
        )
        return OwnTimeline(model, engine, n_sequences)

    def read_rate() -> float:
        return _native.read_rate(READ_BYTES, options.threads, LOOK_SECONDS)

    def measure_beside_memory(phase: Phase, timeline: Timeline) -> float:
        before = read_rate()
        speed = measure(phase, timeline)
        read_rates[phase.name] = [before, read_rate()]
        return speed

    phases = find_phases(options.phases.split(","))
    tensors = layer_tensors(model)
    is_float = all(quant.lower() in FLOAT_QUANTS for quant, _ in tensors)
    report: dict[str, Any] = {
        "kernels": kernels,
        "speeds": measure_all(phases, open_timeline, measure_beside_memory),
        "read_rates": read_rates,
        "token_bytes": {
            phase.name: model.info["token_bytes"] + kv_bytes(model, phase) for phase in phases
        },
        "token_macs": sum(n_weights for _, n_weights in tensors),
        "peak_macs": measure_peak(kernels, is_float, options.threads),
        "arithmetic": "float" if is_float else "int8",
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
