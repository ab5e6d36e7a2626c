"""The named mixes against the choices of llama.cpp's quantizer, which tests/golden/peer_mixes.py
recorded, and against files that it wrote."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from conftest import ROOT

from localllm import engines
from localllm.convert import mixes, requantize
from localllm.convert.tensor_quants import FALLBACKS, Chooser
from localllm.engines.quantizer import QUANTS
from localllm.errors import UsageError
from localllm.models.quants import BY_NAME, PREFERRED

RECORDED: dict[str, Any] = json.loads((ROOT / "tests" / "golden" / "mixes.json").read_text())


def chosen(shape: tuple[int, int, int, int, int, bool], mix: str) -> dict[str, str]:
    """The choices for a llama, written as peer_mixes.py writes them."""
    n_layers, dim, ffn_dim, n_heads, n_kv_heads, tied = shape
    chooser = Chooser(mix, mixes.Shape("llama", n_layers, n_heads, n_kv_heads, tied))
    roles = ["attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"]
    found: dict[str, list[str]] = {}
    for role in ["token_embd"] if tied else ["output", "token_embd"]:
        found[role] = [chooser.choose(f"{role}.weight", (dim, 64))]
    for layer, role in itertools.product(range(n_layers), roles):
        n = ffn_dim if role == "ffn_down" else dim
        quant = chooser.choose(f"blk.{layer}.{role}.weight", (n, 64))
        found.setdefault(role, []).append(quant)
    return {
        role: " ".join(f"{quant}*{len(list(run))}" for quant, run in itertools.groupby(quants))
        for role, quants in sorted(found.items())
    }


@pytest.mark.parametrize("model", RECORDED)
@pytest.mark.parametrize("mix", RECORDED["deep"]["quants"])
def test_the_choices_are_those_of_llama_cpp(model: str, mix: str) -> None:
    recorded = RECORDED[model]
    assert chosen(recorded["shape"], mix) == recorded["quants"][mix]


@pytest.mark.parametrize(("model", "mix"), [("smollm2", "Q4_1"), ("gemma3", "Q4_K_M")])
def test_a_real_file_keeps_its_quants(real_models: dict[str, Path], model: str, mix: str) -> None:
    file = engines.open_model(real_models[model])
    try:
        changed = [c.tensor.name for c in requantize.choose(file, mix) if c.tensor.quant != c.after]
    finally:
        file.close()
    assert changed == []


def test_every_quant_of_the_engine_is_in_a_mix_or_a_fallback() -> None:
    assert {mix.quant for mix in mixes.MIXES.values()} == set(QUANTS)
    superblocks = {quant for quant, info in QUANTS.items() if info.block_dim == 256}
    assert set(FALLBACKS) == superblocks
    assert all(QUANTS[quant].block_dim == 32 for quant in FALLBACKS.values())


@pytest.mark.parametrize("mix", mixes.MIXES)
def test_a_file_is_named_by_the_number_that_readers_know(mix: str) -> None:
    names = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}
    known = gguf.LlamaFileType[names.get(mix, f"MOSTLY_{mix}")]
    assert mixes.MIXES[mix].file_type == known


@pytest.mark.parametrize("mix", mixes.MIXES)
def test_every_row_length_finds_a_quant(mix: str) -> None:
    shape = mixes.Shape("llama", 4, 4, 2, True)
    for n in (1, 31, 32, 96, 255, 256, 2880):
        quant = Chooser(mix, shape).choose("blk.0.ffn_down.weight", (n, 2))
        assert n % QUANTS[quant].block_dim == 0


def test_vectors_and_norms_stay_floats() -> None:
    chooser = Chooser("Q4_K_M", mixes.Shape("gemma3", 4, 4, 1, True))
    assert chooser.choose("blk.0.attn_norm.weight", (256,)) == "F32"
    assert chooser.choose("blk.0.attn_q.bias", (256,)) == "F32"
    assert chooser.choose("blk.0.post_ffw_norm.weight", (256, 1)) == "F32"


def test_what_can_be_made_has_a_rank_and_bits_among_the_published_quants() -> None:
    assert set(mixes.MIXES) <= set(BY_NAME)
    assert [quant for quant in BY_NAME if not mixes.can_make(quant)][:2] == ["Q8_K_XL", "Q6_K_XL"]
    assert all(map(mixes.can_make, PREFERRED))


def test_names_are_found_in_any_case_and_by_alias() -> None:
    assert mixes.find_mix("q4_k") == "Q4_K_M"
    assert mixes.find_mix("iq4_xs") == "IQ4_XS"
    with pytest.raises(UsageError, match="no quant 'Q4_X'"):
        mixes.find_mix("Q4_X")


def test_an_override_goes_before_the_rules_and_counts() -> None:
    shape = mixes.Shape("llama", 8, 4, 1, True)
    plain = Chooser("Q4_K_M", shape)
    other = Chooser("Q4_K_M", shape, [("blk.0.*", "Q8_0")])
    names = [f"blk.{i}.attn_v.weight" for i in range(8)]
    expected = [plain.choose(name, (256, 8)) for name in names]
    assert [other.choose(name, (256, 8)) for name in names] == ["Q8_0", *expected[1:]]
