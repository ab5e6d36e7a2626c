"""One fresh process that measures our engine on one model: prompt, generation, memory's read rate.

Run by `run.py`; alone, with a Python that has localllm:

    python bench/own_speed.py MODEL.gguf

The counterpart of peer_speed.py: the same ids, only `Engine.step` inside the clock, a warm-up
before. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from localllm import _native


def measure_prompt(engine: _native.Engine, ids: list[int]) -> float:
    session = engine.session()
    start = time.perf_counter()
    engine.step([(session, ids, 1)])
    seconds = time.perf_counter() - start
    session.close()
    return len(ids) / seconds


def measure_generation(engine: _native.Engine, ids: list[int]) -> float:
    session = engine.session()
    start = time.perf_counter()
    for token in ids:
        engine.step([(session, [token], 1)])
    seconds = time.perf_counter() - start
    session.close()
    return len(ids) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--kernels", default=None)
    options = parser.parse_args()

    model = _native.Model(options.model)
    engine = _native.Engine(
        model,
        n_ctx=1024,
        n_batch=options.prompt,
        n_threads=options.threads,
        kernels=options.kernels,
    )
    n_vocab = model.info["n_vocab"]
    chance = random.Random(1)
    prompt = [chance.randrange(n_vocab) for _ in range(options.prompt)]
    generated = [chance.randrange(n_vocab) for _ in range(options.gen)]

    measure_prompt(engine, prompt)
    measure_generation(engine, generated[:8])
    print(
        json.dumps(
            {
                "kernels": engine.kernels,
                "token_bytes": model.info["token_bytes"],
                "prompt_tps": [measure_prompt(engine, prompt) for _ in range(options.repeat)],
                "gen_tps": [measure_generation(engine, generated) for _ in range(options.repeat)],
                "read_rate": _native.read_rate(256 << 20, options.threads, 0.3),
            }
        )
    )


if __name__ == "__main__":
    main()
