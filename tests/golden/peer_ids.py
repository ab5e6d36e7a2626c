"""Tokenizes texts with llama.cpp: PEER_PYTHON tests/golden/peer_ids.py MODEL.gguf < TEXTS > IDS

Runs in an environment that has llama-cpp-python. TEXTS is a JSON list of texts, IDS a JSON list of
lists of ids; nothing is put around a text, and control tokens in it are recognised.
"""

from __future__ import annotations

import ctypes
import json
import sys

import llama_cpp


def main() -> None:
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {sys.argv[1]}")
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    found = []
    for text in json.load(sys.stdin):
        raw = text.encode()
        ids = (llama_cpp.llama_token * (len(raw) + 16))()
        n = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), False, True)
        found.append(list(ids[:n]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
