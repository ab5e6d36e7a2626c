"""One fresh process that measures llama-cpp-python on one model: prompt and generation.

Run by `run.py` with the peer's own Python; alone:

    build/peer-venv/bin/python bench/peer_speed.py MODEL.gguf --repack on --flash on

Only `llama_decode` is inside the clock: no tokenizing, no sampling, no detokenizing. One JSON
object is printed. The peer is driven through its C API so that nothing of its Python layer is
charged to it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import llama_cpp


@dataclass
class Peer:
    """A loaded model and one context, with a reusable batch of `n_prompt` rows."""

    model: Any
    context: Any
    batch: Any
    n_vocab: int

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, ids: list[int], first_position: int) -> None:
        """Feeds `ids` as one batch and asks for the logits of its last row."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for row, token in enumerate(ids):
            batch.token[row] = token
            batch.pos[row] = first_position + row
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0
            batch.logits[row] = row == len(ids) - 1
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        llama_cpp.llama_synchronize(self.context)


def open_peer(path: str, *, threads: int, repack: bool, flash: bool, n_prompt: int) -> Peer:
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.use_extra_bufts = repack
    model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 1024
    params.n_batch = params.n_ubatch = n_prompt
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        if flash
        else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp cannot make a context")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return Peer(model, context, llama_cpp.llama_batch_init(n_prompt, 0, 1), n_vocab)


def measure_prompt(peer: Peer, ids: list[int]) -> float:
    peer.clear()
    start = time.perf_counter()
    peer.decode(ids, 0)
    return len(ids) / (time.perf_counter() - start)


def measure_generation(peer: Peer, ids: list[int]) -> float:
    peer.clear()
    start = time.perf_counter()
    for position, token in enumerate(ids):
        peer.decode([token], position)
    return len(ids) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--repack", choices=("on", "off"), default="on")
    parser.add_argument("--flash", choices=("on", "off"), default="on")
    options = parser.parse_args()

    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    peer = open_peer(
        options.model,
        threads=options.threads,
        repack=options.repack == "on",
        flash=options.flash == "on",
        n_prompt=options.prompt,
    )
    chance = random.Random(1)
    prompt = [chance.randrange(peer.n_vocab) for _ in range(options.prompt)]
    generated = [chance.randrange(peer.n_vocab) for _ in range(options.gen)]

    measure_prompt(peer, prompt)
    measure_generation(peer, generated[:8])
    print(
        json.dumps(
            {
                "version": llama_cpp.__version__,
                "system": llama_cpp.llama_print_system_info().decode(),
                "prompt_tps": [measure_prompt(peer, prompt) for _ in range(options.repeat)],
                "gen_tps": [measure_generation(peer, generated) for _ in range(options.repeat)],
            }
        )
    )


if __name__ == "__main__":
    main()
