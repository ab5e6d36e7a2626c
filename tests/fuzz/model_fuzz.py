"""Whole models with flipped headers: opened, tokenized, run and sampled, or refused; never a crash.

    python tests/fuzz/model_fuzz.py [MUTANTS_PER_MODEL] [SEED]

`make asan` runs it on the sanitized engine. What is accepted must also compute: a file may lie in
ways that no header shows, and then a value that is not finite is the error.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.tiny_models import TINY_MODELS, TinyModel, write_gguf

from localllm import _native

TEXT = b"Hello world 123 \xff\xfe <|im_end|>"
NUMBERS = (0, 1, 2, 3, 5, 7, 64, 255, 0x7F, 0x80000000, 0xFFFFFFFF)
MOST_ROWS = 70  # more than one KV block


def mutate(data: bytes, header_bytes: int, rng: random.Random) -> bytes:
    """A few numbers of the header replaced by small, large or random ones."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        width = rng.choice((1, 1, 4, 8))
        at = rng.randrange(header_bytes - width)
        value = rng.choice((*NUMBERS, rng.getrandbits(32))) & ((1 << 8 * width) - 1)
        mutant[at : at + width] = value.to_bytes(width, "little")
    return bytes(mutant)


def use(path: Path, kernels: str) -> None:
    model = _native.Model(str(path))
    model.tokenize(TEXT, control=True, add_special=True)
    n_ctx = min(MOST_ROWS + 10, model.info["n_ctx_train"])
    engine = _native.Engine(model, n_ctx=n_ctx, n_threads=1, kernels=kernels)
    ids = [i % model.info["n_vocab"] for i in range(min(MOST_ROWS, n_ctx))]
    session = engine.session()
    engine.step([(session, ids, 1)])
    settings = {"temperature": 0.7, "top_p": 0.9, "repeat_penalty": 1.1, "penalty_last_n": 64}
    engine.sample([(session, 0, settings)])


def use_split(tiny: TinyModel, folder: Path, n_mutants: int, rng: random.Random) -> Iterator[str]:
    """The same with a model in several files, one of which is changed at a time."""
    write_gguf(tiny, folder / "split.gguf", split_tensors=7)
    paths = sorted(folder.glob("split-*.gguf"))
    for _ in range(n_mutants):
        path = rng.choice(paths)
        data = path.read_bytes()
        path.write_bytes(mutate(data, max(data.rfind(b".weight"), 64), rng))
        try:
            use(rng.choice(paths), "scalar")
            yield "accepted"
        except _native.Error as error:
            yield error.code
        path.write_bytes(data)
    for path in paths:
        path.unlink()


def main(n_mutants: int, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    kernels = _native.machine()["kernels"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        for tiny in TINY_MODELS:
            write_gguf(tiny, path)
            data = path.read_bytes()
            header_bytes = data.rfind(b".weight")
            for _ in range(n_mutants):
                path.write_bytes(mutate(data, header_bytes, rng))
                try:
                    use(path, rng.choice(kernels))
                    outcomes["accepted"] += 1
                except _native.Error as error:
                    outcomes[error.code] += 1
            outcomes.update(use_split(tiny, Path(folder), n_mutants // 4, rng))
    print(f"model_fuzz: seed {seed}, {dict(outcomes)}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*numbers, *(200, 1)[len(numbers) :])
