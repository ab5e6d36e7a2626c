"""One fresh process that measures llama-cpp-python on one model.

Run by `run.py` with the peer's own Python; alone:

    build/peer-venv/bin/python bench/peer_speed.py MODEL.gguf --phases prompt,batch --repack on

The counterpart of own_speed.py. The peer is driven through its C API so that nothing of its Python
layer is charged to it: only `llama_decode` with `llama_synchronize` is inside the clock. Flash
attention is on. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from typing import Any

import llama_cpp
from phases import CHUNK, PHASES, Timeline, find_phases, measure_all

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class PeerTimeline:
    """One context with some sequences, all at the same position, and a reusable batch."""

    def __init__(self, model: Any, context: Any, n_sequences: int) -> None:
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.context = context
        self.memory = llama_cpp.llama_get_memory(context)
        self.batch = llama_cpp.llama_batch_init(CHUNK, 0, 1)
        self.n_sequences = n_sequences
        self.position = 0

    def feed(self, rows: list[list[int]]) -> float:
        batch, row = self.batch, 0
        for sequence, ids in enumerate(rows):
            for i, token in enumerate(ids):
                batch.token[row] = token
                batch.pos[row] = self.position + i
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence
                batch.logits[row] = i == len(ids) - 1
                row += 1
        batch.n_tokens = row
        self.position += len(rows[0])
        start = time.perf_counter()
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_synchronize(self.context)
        seconds = time.perf_counter() - start
        if status != 0:
            raise SystemExit(f"llama_decode returned {status}")
        return seconds

    def rewind(self, position: int) -> None:
        for sequence in range(self.n_sequences):
            if not llama_cpp.llama_memory_seq_rm(self.memory, sequence, position, -1):
                raise SystemExit(f"the peer cannot rewind to {position}")
        self.position = position

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def open_context(
    model: Any, *, n_sequences: int, n_ctx: int, kv: str, n_threads: int, unified: bool
) -> PeerTimeline:
    """`n_ctx` positions for every sequence; `unified`: all sequences share one buffer of KV."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx * n_sequences
    params.n_seq_max = n_sequences
    params.n_batch = params.n_ubatch = CHUNK
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.type_k = params.type_v = KV_TYPES[kv]
    params.kv_unified = unified
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp cannot make a context")
    return PeerTimeline(model, context, n_sequences)


def open_model(path: str, repack: bool) -> Any:
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = repack
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--phases", default=",".join(phase.name for phase in PHASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repack", choices=("on", "off"), default="on")
    options = parser.parse_args()

    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = open_model(options.model, options.repack == "on")
    phases = find_phases(options.phases.split(","))

    def measure_with(unified: bool) -> dict[str, float]:
        """Where there is one sequence, how several share the KV makes no difference."""

        def open_timeline(n_sequences: int, n_ctx: int, kv: str) -> Timeline:
            return open_context(
                model,
                n_sequences=n_sequences,
                n_ctx=n_ctx,
                kv=kv,
                n_threads=options.threads,
                unified=unified,
            )

        chosen = [phase for phase in phases if phase.n_sequences > 1 or not unified]
        return measure_all(chosen, open_timeline)

    print(
        json.dumps(
            {
                "version": llama_cpp.__version__,
                "system": llama_cpp.llama_print_system_info().decode(),
                "speeds": measure_with(unified=False),
                "unified_speeds": measure_with(unified=True),
            }
        )
    )


if __name__ == "__main__":
    main()
