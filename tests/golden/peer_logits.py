"""Runs llama.cpp over given token ids and stores the logits of every position.

    PEER_PYTHON tests/golden/peer_logits.py MODEL.gguf IDS.txt OUT.npy

Runs in an environment that has llama-cpp-python; its default settings (F16 cache, flash attention
as it chooses, repacking on), all ids in one batch, two threads. IDS.txt holds the ids separated by
white space; OUT.npy gets float32 [n_ids, n_vocab].
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def main() -> None:
    model_path, ids_path, out_path = sys.argv[1:]
    ids = [int(word) for word in Path(ids_path).read_text().split()]
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        model_path.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"llama.cpp cannot load {model_path}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = max(len(ids), 64)
    params.n_threads = params.n_threads_batch = 2
    context = llama_cpp.llama_init_from_model(model, params)

    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for row, token in enumerate(ids):
        batch.token[row] = token
        batch.pos[row] = row
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = 0
        batch.logits[row] = True
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    flat = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(ids) * n_vocab,))
    np.save(out_path, flat.reshape(len(ids), n_vocab))


if __name__ == "__main__":
    main()
