"""The peer's nearest thing to `localllm run`: the prompt on stdin, the answer streamed to stdout.

    build/peer-venv/bin/python bench/peer_answer.py MODEL.gguf N_TOKENS

llama-cpp-python through its own Python interface, with the model's chat template where it has one.
"""

from __future__ import annotations

import sys

import llama_cpp


def main() -> None:
    path, n_tokens = sys.argv[1], int(sys.argv[2])
    llama = llama_cpp.Llama(path, n_ctx=2048, n_threads=2, n_threads_batch=2, verbose=False)
    prompt = sys.stdin.read()
    messages = [{"role": "user", "content": prompt}]
    if "tokenizer.chat_template" in llama.metadata:
        chunks = llama.create_chat_completion(
            messages, max_tokens=n_tokens, temperature=0.0, stream=True
        )
        texts = (chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    else:
        chunks = llama.create_completion(prompt, max_tokens=n_tokens, temperature=0.0, stream=True)
        texts = (chunk["choices"][0]["text"] for chunk in chunks)
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
