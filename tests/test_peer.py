"""What this project writes, llama.cpp loads and says the same; run where llama-cpp-python is.

$LOCALLLM_PEER_PYTHON, or the environment that `make bench` makes, names the Python that has it;
without one these tests skip.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from checkpoints import Floats
from conftest import ROOT
from golden import tiny_models
from golden.tiny_models import PLAIN_MODELS, TINY_MODELS, TinyModel
from tokenizer_cases import byte_level_vocabulary, sentencepiece_vocabulary, strings

import localllm
from localllm import engines
from localllm.convert.from_checkpoint import convert_checkpoint

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def peer_python() -> Path:
    named = os.environ.get("LOCALLLM_PEER_PYTHON")
    python = Path(named) if named else ROOT / "build/peer-venv/bin/python"
    if not python.exists():
        pytest.skip("there is no Python with llama-cpp-python ($LOCALLLM_PEER_PYTHON)")
    return python


def peer_logits(python: Path, path: Path, ids: list[int]) -> Floats:
    folder = path.parent
    (folder / "ids.txt").write_text(" ".join(map(str, ids)))
    script = [python, GOLDEN / "peer_logits.py", path, folder / "ids.txt", folder / "logits.npy"]
    subprocess.run(script, check=True, capture_output=True, timeout=120)
    logits: Floats = np.load(folder / "logits.npy")
    return logits


def our_logits(path: Path, ids: list[int]) -> Floats:
    with localllm.load(path) as model:
        return model.logits(ids)


def spread(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


FORMS = [("F32", 1, "F32"), ("BF16", 3, "F32"), ("F16", 2, "F16"), ("F8_E4M3", 2, "BF16"),
         ("F32", 1, "Q8_0"), ("BF16", 2, "Q4_K_M"), ("F32", 3, "Q3_K_M")]  # fmt: skip


@pytest.mark.parametrize("tiny", PLAIN_MODELS, ids=lambda tiny: tiny.name)
def test_converted_models_give_the_peers_logits(
    tiny: TinyModel, peer_python: Path, tmp_path: Path
) -> None:
    ids = tiny_models.token_ids(tiny)
    for i, (dtype, n_shards, quant) in enumerate(FORMS):
        folder = checkpoints.write_tiny(tiny, tmp_path / str(i), dtype, n_shards)
        path = tmp_path / f"{i}.gguf"
        convert_checkpoint(folder, path, "F32")
        exact = our_logits(path, ids)
        convert_checkpoint(folder, path, quant)
        ours, theirs = our_logits(path, ids), peer_logits(peer_python, path, ids)
        apart = spread(ours - theirs) / spread(exact)
        # Caches hold F16; and where acts are rounded to int8, each engine does it its own way.
        noise = spread(theirs - exact) / spread(exact)
        assert apart <= (1e-3 if quant == "F32" else max(noise, 5e-3)), (dtype, quant, apart, noise)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2", "spm"])
def test_converted_tokenizers_give_the_peers_ids(
    kind: str, peer_python: Path, tmp_path: Path
) -> None:
    tiny = next(model for model in TINY_MODELS if model.name == "qwen3")
    folder = checkpoints.write_tiny(tiny, tmp_path / "plain")
    vocabulary = sentencepiece_vocabulary() if kind == "spm" else byte_level_vocabulary(kind)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    if kind == "spm":
        (folder / "tokenizer.model").write_bytes(checkpoints.spm_model(vocabulary, prefix=True))
    else:
        checkpoints.write_json(folder / "tokenizer.json", checkpoints.bpe_json(vocabulary))
    weights = tiny_models.make_weights(tiny)
    weights["model.embed_tokens.weight"] = np.zeros(
        (len(vocabulary.tokens), tiny_models.DIM), np.float32
    )
    checkpoints.write_weights(folder, weights)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    texts = [text for text in strings(5, 1000) if "\0" not in text]
    script = [peer_python, GOLDEN / "peer_ids.py", tmp_path / "made.gguf"]
    done = subprocess.run(
        script, input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=120
    )
    file = engines.open_model(tmp_path / "made.gguf")
    wrong = [
        (text, ids, mine)
        for text, ids in zip(texts, json.loads(done.stdout), strict=True)
        if ids != (mine := file.tokenize(text, control=True))
    ]
    file.close()
    assert wrong == []
