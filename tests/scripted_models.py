"""Tiny models whose answers are written down in advance, as GGUF files the program runs for real.

Every token has its own axis in the residual stream and the layers add nothing to it, so the output
matrix is a table: behind token A comes token B. A prompt in the template ends with a newline, and
behind that begins the answer. A token with several successors draws among them evenly, which is
what seeds are tested with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

DIM = 512  # at least one axis per token
HEAD_DIM = 64
N_HEADS = DIM // HEAD_DIM
N_KV_HEADS = 2
FFN_DIM = 64
CERTAIN = 30.0  # logit of a successor; all others have 0

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
THINKING = (
    CHATML + "{% if enable_thinking is defined and not enable_thinking %}{{ 'K' }}{% endif %}"
)

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = "<|im_end|>"


@dataclass(frozen=True)
class Script:
    """What a model says: each chain is a byte of the prompt and what follows it, in order."""

    chains: Sequence[Sequence[str | bytes]]
    choices: dict[str, Sequence[str]] = field(default_factory=dict)
    template: str | None = CHATML
    n_ctx: int = 512


# The accented letter is two tokens, and newlines trail.
ANSWER = "The capital is Paris\u00e9."
PARIS = Script([["\n", "The", " capital", " is", " Paris", b"\xc3", b"\xa9", ".", "\n\n", END]])
ENDLESS = Script(
    [["\n", " la"], ["L", " la"]],
    choices={" la": (" la", " lo"), " lo": (" la", " lo")},
    n_ctx=131072,
)
SHORT_CONTEXT = Script(ENDLESS.chains, ENDLESS.choices, n_ctx=64)
BARE = Script([["?", " Yes", ".", END]], template=None)
THINKER = Script(
    [["\n", "<think>", "Hm", ", well", "</think>", "\n\n", "Yes", END], ["K", " No", END]],
    template=THINKING,
)

SCRIPTS = {
    "paris": PARIS,
    "endless": ENDLESS,
    "short": SHORT_CONTEXT,
    "bare": BARE,
    "thinker": THINKER,
}


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


ALPHABET = byte_alphabet()


def spell(token: str | bytes) -> str:
    data = token.encode() if isinstance(token, str) else token
    return "".join(ALPHABET[byte] for byte in data)


def write_script(script: Script, path: Path) -> Path:
    """Writes the model that follows a script."""
    ids = {spell(bytes([byte])): byte for byte in range(256)}
    words = [token for chain in script.chains for token in chain]
    words += [word for options in script.choices.values() for word in options]
    for word in words:
        if word not in CONTROL:
            ids.setdefault(spell(word), len(ids))
    ids.setdefault(spell(" t"), len(ids))
    control = {text: len(ids) + i for i, text in enumerate(CONTROL)}

    def find(token: str | bytes) -> int:
        return control[token] if token in control else ids[spell(token)]

    tokens = [*ids, *control]
    successors = {find(a): [find(b)] for chain in script.chains for a, b in pairwise(chain)}
    successors |= {find(a): [find(b) for b in options] for a, options in script.choices.items()}

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(script.n_ctx)
    writer.add_embedding_length(DIM)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN_DIM)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(len(tokens))
    add_tokenizer(writer, tokens, control, script.template)
    for name, tensor in weights(len(tokens), successors).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(
    writer: gguf.GGUFWriter, tokens: list[str], control: dict[str, int], template: str | None
) -> None:
    kinds = [gguf.TokenType.CONTROL if t in control else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{spell(' ')} t"])
    writer.add_bos_token_id(control["<|endoftext|>"])
    writer.add_eos_token_id(control[END])
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def weights(n_vocab: int, successors: dict[int, list[int]]) -> dict[str, np.ndarray]:
    """Every tensor, float32 [rows, columns]."""
    embedding = np.zeros((n_vocab, DIM), np.float32)
    output = np.zeros((n_vocab, DIM), np.float32)
    for id in range(n_vocab):
        embedding[id, id] = np.sqrt(DIM)  # root mean square 1, so the norms leave it alone
        for successor in successors.get(id, []):
            output[successor, id] = CERTAIN / np.sqrt(DIM)
    noise = np.random.default_rng(1)

    def random(*shape: int) -> np.ndarray:
        return (noise.standard_normal(shape) / DIM).astype(np.float32)

    return {
        "token_embd.weight": embedding,
        "output_norm.weight": np.ones(DIM, np.float32),
        "output.weight": output,
        "blk.0.attn_norm.weight": np.ones(DIM, np.float32),
        "blk.0.attn_q.weight": random(DIM, DIM),
        "blk.0.attn_k.weight": random(N_KV_HEADS * HEAD_DIM, DIM),
        "blk.0.attn_v.weight": random(N_KV_HEADS * HEAD_DIM, DIM),
        "blk.0.attn_output.weight": np.zeros((DIM, DIM), np.float32),
        "blk.0.ffn_norm.weight": np.ones(DIM, np.float32),
        "blk.0.ffn_gate.weight": random(FFN_DIM, DIM),
        "blk.0.ffn_up.weight": random(FFN_DIM, DIM),
        "blk.0.ffn_down.weight": np.zeros((DIM, FFN_DIM), np.float32),
    }
