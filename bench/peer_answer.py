"""The peer's nearest thing to `localllm run --raw`: a prompt on stdin, its continuation on stdout.

    build/peer-venv/bin/python bench/peer_answer.py MODEL.gguf N_TOKENS on|off N_THREADS
    build/peer-venv/bin/python bench/peer_answer.py MODEL.gguf N_TOKENS default

llama-cpp-python through its own Python interface. on or off is repacking, which that
interface has no parameter for; with both flash attention is on. default is what the interface does
by itself.
"""

from __future__ import annotations

import sys
from typing import Any

import llama_cpp.llama_cpp as api
from llama_cpp import Llama

CONTEXT = 2048

default_params = api.llama_model_default_params


def open_model(path: str, repack: bool, n_threads: int) -> Llama:
    def params_with_repack() -> Any:
        params = default_params()
        params.use_extra_bufts = repack
        return params

    api.llama_model_default_params = params_with_repack
    return Llama(
        path,
        n_ctx=CONTEXT,
        n_threads=n_threads,
        n_threads_batch=n_threads,
        flash_attn=True,
        verbose=False,
    )


def main() -> None:
    path, n_tokens, setting = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if setting == "default":
        llama = Llama(path, n_ctx=CONTEXT, verbose=False)
    else:
        llama = open_model(path, setting == "on", int(sys.argv[4]))
    chunks = llama.create_completion(
        sys.stdin.read(), max_tokens=n_tokens, temperature=0.0, stream=True
    )
    for chunk in chunks:
        sys.stdout.write(chunk["choices"][0]["text"])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
