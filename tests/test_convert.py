"""`convert`: checkpoints of every family and every float, from folders as Hugging Face has them.

The judges share no code with it: logits that transformers computed of the same weights, the tables
of names that those were made with. The gguf package, from which the converter has its names, reads
what a file holds. Tokenizers are in test_convert_tokenizer.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import checkpoints
import gguf
import numpy as np
import pytest
from checkpoints import Floats, write_json
from conftest import ROOT
from golden import tiny_models
from golden.compact_reference import CompactReference, compact_divergence, load_compact
from golden.tiny_models import PLAIN_MODELS, TINY_MODELS, TinyModel

import localllm
from localllm import engines
from localllm.cli import app
from localllm.convert.families import FAMILIES
from localllm.convert.families.family import Family
from localllm.convert.from_checkpoint import convert_checkpoint
from localllm.convert.tensor_names import find_name, name_map
from localllm.errors import EngineError, IntegrityError, ModelNotFoundError

N_JUDGED = 32  # tokens of the reference; each has the probabilities of a whole vocabulary
GOLDEN = Path(__file__).resolve().parent / "golden"
BY_NAME = {model.name: model for model in TINY_MODELS}
LLAMA, GEMMA = BY_NAME["llama3"], BY_NAME["gemma3"]


class Notebook:
    """Progress that remembers what a user would be told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total = self.done = 0

    def start(self, label: str, total: int | None, done: int = 0) -> None:
        self.total, self.done = total or 0, done

    def advance(self, n_bytes: int) -> None:
        self.done += n_bytes

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None: ...


def read_tensors(path: Path) -> dict[str, Floats]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }


def read_keys(path: Path) -> dict[str, Any]:
    return {name: f.contents() for name, f in gguf.GGUFReader(path).fields.items()}


# ---- families ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", PLAIN_MODELS, ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_converted_model_computes_what_transformers_does(
    tiny: TinyModel, n_shards: int, tmp_path: Path
) -> None:
    folder = checkpoints.write_tiny(tiny, tmp_path / "plain", n_shards=n_shards)
    notebook = Notebook()
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32", progress=notebook)
    assert notebook.notes == [] and notebook.done == notebook.total > 0
    with np.load(GOLDEN / "tiny_logits.npz") as data:
        expected = data[f"{tiny.name} logits"]
    with localllm.load(tmp_path / "made.gguf") as model:
        logits = model.logits(tiny_models.token_ids(tiny))
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_every_family_that_runs_converts() -> None:
    source = (ROOT / "native/model/arch.c").read_text()
    assert {family.arch for family in FAMILIES} == {
        part.split('"')[1] for part in source.split(".name = ")[1:]
    }
    assert {family.arch for family in FAMILIES} == {tiny.arch for tiny in TINY_MODELS}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.arch)
def test_every_name_of_a_family_has_its_place(family: Family) -> None:
    """By the table that the tiny models are made with, which is nobody else's."""
    norms = {"attn_q_norm", "attn_k_norm"} if family.arch in ("llama", "qwen2") else set()
    roles = tiny_models.GEMMA3_NAMES if family.arch == "gemma3" else tiny_models.LAYER_NAMES
    names = name_map(family.arch)
    for before in ("model.", "model.language_model.", "language_model.model.", ""):
        for spelled, role in roles.items():
            for suffix in ("weight", "bias"):
                found = find_name(f"{before}layers.41.{spelled}.{suffix}", names)
                expected = None if role in norms else f"blk.41.{role}.{suffix}"
                assert (found and str(found)) == expected
        assert str(find_name(f"{before}embed_tokens.weight", names)) == "token_embd.weight"
        assert str(find_name(f"{before}norm.weight", names)) == "output_norm.weight"
    for head in ("lm_head.weight", "language_model.lm_head.weight"):
        assert str(find_name(head, names)) == "output.weight"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.arch)
@pytest.mark.parametrize(
    "spelled",
    [
        "layers.0.attention.wq.weight",  # as Llama's first publisher has it: other rows
        "model.layers.0.attention.wk.weight",
        "model.layers.0.self_attn.q_proj_no_perm.weight",
        "model.layers.0.mlp.gate_up_proj.weight",  # two in one
        "model.layers.0.mlp.gate.weight",  # of experts
        "model.layers.0.mlp.experts.0.up_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.00.self_attn.q_proj.weight",
        "model.layers.0.norm.weight",
        "model.lm_head.weight",
        "lm_head.bias",
        "tok_embeddings.weight",
        "blk.0.attn_q.weight",
        "token_embd.weight",
        "output.weight",
        "rope_freqs.weight",
    ],
)
def test_a_name_spelled_otherwise_has_no_place(family: Family, spelled: str) -> None:
    assert find_name(spelled, name_map(family.arch)) is None


def test_new_and_nested_settings_mean_the_same(tmp_path: Path) -> None:
    """rope_parameters by kind of layer, layer_types, a text model inside one that sees images."""
    old = checkpoints.write_tiny(GEMMA, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    kinds = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(7)]
    rope = {"rope_theta": config.pop("rope_theta"), **config.pop("rope_scaling")}
    local = {"rope_theta": config.pop("rope_local_base_freq"), "rope_type": "default"}
    del config["sliding_window_pattern"], config["tie_word_embeddings"]
    config |= {
        "rope_parameters": {"full_attention": rope, "sliding_attention": local},
        "layer_types": kinds,
    }
    new = tmp_path / "new"
    new.mkdir()
    for path in old.iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    weights = {
        "language_model." + name: values for name, values in tiny_models.make_weights(GEMMA).items()
    }
    weights["vision_tower.patch.weight"] = np.ones((2, 2), np.float32)
    checkpoints.write_weights(new, weights)
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    write_json(new / "config.json", outer)
    notebook = Notebook()
    for folder in (old, new):
        convert_checkpoint(
            folder, tmp_path / f"{folder.name}.gguf", "F32", name="m", progress=notebook
        )
    assert notebook.notes == ["1 tensors that are not the text model's are left out"]
    assert (tmp_path / "old.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()


def test_windows_in_another_order(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    tiny = BY_NAME["gemma3-keys"]
    folder = checkpoints.write_tiny(tiny, tmp_path / "plain", layer_types=kinds)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    keys = read_keys(tmp_path / "made.gguf")
    assert keys["gemma3.attention.sliding_window_pattern"] == [False, True, False, True]


@pytest.mark.parametrize(
    ("tiny", "changed", "key", "value"),
    [
        ("qwen3-yarn", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type", "yarn"),
        ("qwen3-yarn", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "original_context", 8192),
        (
            "qwen3-yarn",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}},
            "attn_factor",
            2.0 / (1 + 0.1 * np.log(4.0)),
        ),
    ],
)
def test_scalings_in_every_spelling(
    tmp_path: Path, tiny: str, changed: dict[str, Any], key: str, value: object
) -> None:
    folder = checkpoints.write_tiny(BY_NAME[tiny], tmp_path / "plain", **changed)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    keys = read_keys(tmp_path / "made.gguf")
    (found,) = [v for k, v in keys.items() if k.startswith(f"qwen3.rope.scaling.{key}")]
    assert found == pytest.approx(value) if isinstance(value, float) else found == value


# ---- floats --------------------------------------------------------------------------------------


def expected_tensors(tiny: TinyModel, decoded: dict[str, Floats]) -> dict[str, Floats]:
    """What a file holds of weights that were stored in another type, by the names of the format."""
    made = {}
    for name, values in decoded.items():
        for role, n_heads in (("q_proj", tiny.n_heads), ("k_proj", tiny.n_kv_heads)):
            if tiny.arch == "llama" and f"self_attn.{role}" in name:
                values = tiny_models.interleave_heads(values, n_heads)
        if tiny.arch == "gemma3" and name.endswith("norm.weight"):
            values = values + np.float32(1)
        made[tiny_models.gguf_name(tiny.arch, name)] = values
    return made


def decode(values: Floats, dtype: str) -> Floats:
    raw = checkpoints.ENCODERS[dtype](values)
    if dtype == "F8_E4M3":
        return checkpoints.f8_values()[np.frombuffer(raw, np.uint8)].reshape(values.shape)
    if dtype == "BF16":
        wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(values.shape)
    kind = "<f2" if dtype == "F16" else "<f4"
    return np.frombuffer(raw, kind).astype(np.float32).reshape(values.shape)


@pytest.mark.parametrize("tiny", [LLAMA, BY_NAME["qwen2"], GEMMA], ids=lambda tiny: tiny.name)
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3"])
def test_every_float_arrives_exactly(tiny: TinyModel, dtype: str, tmp_path: Path) -> None:
    folder = checkpoints.write_tiny(tiny, tmp_path / "plain", dtype, n_shards=2)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    found = read_tensors(tmp_path / "made.gguf")
    decoded = {}
    for name, values in tiny_models.make_weights(tiny).items():
        wide = dtype == "F8_E4M3" and (values.ndim == 1 or checkpoints.is_head(name))
        decoded[name] = decode(values, "BF16" if wide else dtype)
    for name, values in expected_tensors(tiny, decoded).items():
        np.testing.assert_array_equal(found[name].reshape(values.shape), values, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "end"), [((), ""), ((128,), ""), ((128, 1), ""), ((4, 2), "_inv")]
)
def test_eight_bit_floats_are_scaled(shape: tuple[int, ...], end: str, tmp_path: Path) -> None:
    """By one scale, one a row (in either shape), or one a block, whose last are cut off."""
    rows, columns, block = 128, 64, (32, 48)
    settings = {"quant_method": "fp8", "weight_block_size": list(block)}
    tiny = BY_NAME["qwen2"]
    folder = checkpoints.write_tiny(tiny, tmp_path / "plain", quantization_config=settings)
    chance = np.random.default_rng(5)
    name = "model.layers.1.mlp.gate_proj.weight"
    q = chance.normal(0, 1, (rows, columns)).astype(np.float32)
    scales = chance.uniform(0.5, 2, shape).astype(np.float32)
    tensors = [(n, "F32", v) for n, v in tiny_models.make_weights(tiny).items() if n != name]
    tensors += [(name, "F8_E4M3", q), (f"{name}_scale{end}", "F32", scales)]
    tensors.append((name.replace("weight", "input_scale"), "F32", np.ones((), np.float32)))
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    found = read_tensors(tmp_path / "made.gguf")["blk.1.ffn_gate.weight"]
    if len(shape) == 2:
        wide = np.kron(scales, np.ones((1, columns) if shape[1] == 1 else block, np.float32))
    else:
        wide = np.repeat(np.broadcast_to(scales, (rows,))[:, None], columns, 1)
    np.testing.assert_array_equal(found, decode(q, "F8_E4M3") * wide[:rows, :columns])


@pytest.mark.parametrize(
    ("dtype", "quant"), [("BF16", "BF16"), ("F16", "F16"), ("F8_E4M3", "BF16")]
)
def test_without_a_quant_floats_stay_as_they_are(
    dtype: str,
    quant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    checkpoints.write_tiny(LLAMA, tmp_path / "some-model", dtype)
    monkeypatch.chdir(tmp_path)
    assert app.main(["convert", "some-model/"]) == 0
    captured = capfd.readouterr()
    assert captured.out == f"some-model-{quant}.gguf\n"
    assert captured.err.startswith(f"{quant}, 31 tensors, ")
    keys = read_keys(tmp_path / f"some-model-{quant}.gguf")
    assert keys["general.name"] == "some-model" and keys["general.architecture"] == "llama"


def test_the_quants_are_the_ones_quantize_chooses(tmp_path: Path) -> None:
    """One step or two: the same tensors, bit for bit."""
    folder = checkpoints.write_tiny(LLAMA, tmp_path / "plain", "F16")
    convert_checkpoint(folder, tmp_path / "one.gguf", "Q4_K_M")
    convert_checkpoint(folder, tmp_path / "half.gguf", "F16")
    command = ["quantize", str(tmp_path / "half.gguf"), "Q4_K_M", "-o", str(tmp_path / "two.gguf")]
    assert app.main(command) == 0
    one, two = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("one", "two"))
    assert [(t.name, t.tensor_type) for t in one] == [(t.name, t.tensor_type) for t in two]
    assert all((a.data == b.data).all() for a, b in zip(one, two, strict=True))


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    folder = checkpoints.write_tiny(GEMMA, tmp_path / "plain", "BF16", n_shards=2)
    for threads in (1, 3):
        out = tmp_path / f"{threads}.gguf"
        convert_checkpoint(folder, out, "Q4_K_M", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_real_model_comes_back(name: str, real_models: dict[str, Path], tmp_path: Path) -> None:
    """Its weights as a checkpoint of floats, converted: the same floats, so the same logits."""
    folder = tmp_path / "plain"
    folder.mkdir()
    source = checkpoints.write_real(real_models[name], folder)
    convert_checkpoint(folder, tmp_path / "made.gguf", "F32")
    shutil.rmtree(folder)
    made = checkpoints.read_weights(tmp_path / "made.gguf")
    assert set(made) == set(source)
    for tensor, values in source.items():
        if name == "gemma3" and tensor.endswith("norm.weight"):  # lose a 1, and get it back
            np.testing.assert_allclose(made[tensor], values, rtol=0, atol=1.2e-7)
        else:
            assert np.array_equal(made[tensor], values), tensor
    reference = load_compact(GOLDEN / f"{name}_reference.npz")
    with localllm.load(tmp_path / "made.gguf") as model:
        logits = model.logits(reference.ids.tolist()[:N_JUDGED])
    short = CompactReference(*(rows[:N_JUDGED] for rows in astuple(reference)))
    divergence, agreement = compact_divergence(short, logits)
    assert divergence < 1e-5 and agreement > 0.98, (divergence, agreement)


# ---- what cannot be converted --------------------------------------------------------------------

Change = Callable[[Path], object]


def set_config(**changed: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | changed)

    return change


def set_weight(name: str, values: Floats | None, dtype: str = "F32") -> Change:
    """Another tensor under that name; None: none."""

    def change(folder: Path) -> None:
        weights = tiny_models.make_weights(LLAMA)
        tensors = [(n, "F32", v) for n, v in weights.items() if n != name]
        if values is not None:
            tensors.append((name, dtype, values))
        checkpoints.write_safetensors(folder / "model.safetensors", tensors)

    return change


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


ROWS = np.ones((32, 64), np.float32)
K = "model.layers.0.self_attn.k_proj.weight"
LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}

BROKEN: list[tuple[str, Change, str]] = [
    ("no class", set_config(architectures=None), "names no one model class"),
    ("two classes", set_config(architectures=["A", "B"]), "names no one model class"),
    (
        "another class",
        set_config(architectures=["MixtralForCausalLM"]),
        "'MixtralForCausalLM' is not",
    ),
    ("no layers", set_config(num_hidden_layers=None), "has no num_hidden_layers"),
    ("layers as text", set_config(num_hidden_layers="3"), "the text '3', expected a whole number"),
    ("layers as flag", set_config(num_hidden_layers=True), "is true, expected a whole number"),
    ("half a layer", set_config(num_hidden_layers=2.5), "is 2.5, expected a whole number"),
    ("a huge number", set_config(rms_norm_eps=10**400), "rms_norm_eps in config.json is"),
    ("fewer layers", set_config(num_hidden_layers=2), "tensor blk.2.attn_norm.weight has no place"),
    ("more layers", set_config(num_hidden_layers=4), "tensor blk.3.attn_norm.weight is missing"),
    ("odd heads", set_config(num_attention_heads=5, head_dim=None), "a multiple of num_attention"),
    ("wrong width", set_config(hidden_size=32), "token_embd.weight has shape 64"),
    (
        "another activation",
        set_config(hidden_act="relu"),
        "the text 'relu', expected silu or swish",
    ),
    (
        "another scaling",
        set_config(rope_scaling=LONG),
        "RoPE scaling 'longrope'; known are default",
    ),
    ("scaling as text", set_config(rope_scaling="yarn"), "the text 'yarn', expected an object"),
    (
        "no factor",
        set_config(rope_scaling={"type": "linear"}),
        "rope_scaling in config.json has no",
    ),
    ("a part rotated", set_config(partial_rotary_factor=0.5), "rotates a part of each head"),
    ("not tied", set_weight("lm_head.weight", None), "lm_head.weight is not there"),
    ("no norm", set_weight("model.norm.weight", None), "output_norm.weight is missing"),
    ("no embedding", set_weight("model.embed_tokens.weight", None), "has no embedding"),
    ("a foreign tensor", set_weight("model.layers.0.moe.gate.weight", ROWS), "no place in a llama"),
    (
        "a layer too far",
        set_weight("model.layers.01.mlp.up_proj.weight", ROWS),
        "no place in a llama",
    ),
    (
        "rows in another order",
        set_weight("layers.0.attention.wq.weight", ROWS),
        "tensor layers.0.attention.wq.weight has no place in a llama model",
    ),
    (
        "one place twice",
        set_weight("language_model.model.norm.weight", ROWS[0]),
        "are both output_norm.weight",
    ),
    (
        "layers without end",
        set_config(num_hidden_layers=(1 << 24) - 1),
        "block_count is 16777215, expected 1 to",
    ),
    ("an output bias", set_weight("model.layers.0.self_attn.o_proj.bias", ROWS[0]), "has no place"),
    ("three axes", set_weight(K, ROWS[None]), r"shape \[1, 32, 64\], expected rows and"),
    ("no axes", set_weight(K, np.ones((), np.float32)), r"shape \[\], expected rows and"),
    ("no rows", set_weight(K, np.ones((0, 64), np.float32)), r"shape \[0, 64\], expected rows"),
    ("odd rows", set_weight(K, ROWS[:30]), "k_proj.weight has 30 rows, expected an even number"),
    ("fewer rows", set_weight(K, ROWS[:16]), "attn_k.weight has shape 64 x 16"),
    ("scales of floats", set_weight(K + "_scale", np.ones(1, np.float32)), "is F32 and has scales"),
    ("no JSON", put("config.json", b"{"), "config.json is not JSON"),
    ("no object", put("config.json", b"[]"), "config.json holds a list, expected an object"),
    ("twice", put("config.json", b'{"a": 1, "a": 2}'), "the key 'a' appears twice"),
    ("deep JSON", put("config.json", b"[" * 100_000), "config.json is not JSON: it is nested too"),
    ("no UTF-8", put("config.json", b'{"a": "\xff"}'), "config.json is not JSON"),
    ("no weights", put("model.safetensors", b""), "no safetensors file: a header of 0 bytes"),
    (
        "a file that lacks",
        put("model.safetensors.index.json", b'{"weight_map": {"x": "b"}}'),
        "x of 'b'",
    ),
    ("an index of nothing", put("model.safetensors.index.json", b"{}"), "has no weight_map"),
    (
        "the same twice",
        put("model-2.safetensors", b""),
        "model-2.safetensors is no safetensors file",
    ),
]


@pytest.mark.parametrize(
    ("change", "said"), [row[1:] for row in BROKEN], ids=[r[0] for r in BROKEN]
)
def test_what_is_wrong_is_said(
    change: Change, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.write_tiny(LLAMA, tmp_path / "plain")
    change(folder)
    out = tmp_path / "made.gguf"
    out.write_bytes(b"what was here")
    with pytest.raises(IntegrityError, match=said):
        convert_checkpoint(folder, out, "Q8_0")
    assert app.main(["convert", str(folder), "--quant", "Q8_0", "-o", str(out), "--force"]) == 6
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert out.read_bytes() == b"what was here"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.gguf", "plain"]


HEADERS: list[tuple[str, dict[str, Any] | bytes, str]] = [
    ("no object", b"[1]", "holds a list, expected an object"),
    ("no JSON", b"{nonsense", "the header of model.safetensors is not JSON"),
    ("no entry", {"x": 3}, "x is 3, expected an object"),
    ("no dtype", {"x": {"shape": [1], "data_offsets": [0, 4]}}, "its dtype is null"),
    ("no shape", {"x": {"dtype": "F32", "data_offsets": [0, 4]}}, "its shape is None"),
    ("a negative size", {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, r"\[-1\]"),
    ("half a size", {"x": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, r"\[1.0\]"),
    ("a size as flag", {"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "True"),
    ("one offset", {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "expected two"),
    (
        "backwards",
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        "lies at 4 to 0 of 64",
    ),
    (
        "beyond",
        {"x": {"dtype": "F32", "shape": [16], "data_offsets": [4, 68]}},
        "lies at 4 to 68 of 64",
    ),
    (
        "too few",
        {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        r"shape \[3\] takes 12",
    ),
    (
        "a product that overflows",
        {"x": {"dtype": "F32", "shape": [1 << 61, 1 << 61], "data_offsets": [0, 8]}},
        "takes 2",
    ),
    (
        "overlapping",
        {
            "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        "x and y overlap",
    ),
    (
        "packed",
        {K: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}},
        "stored as U8, expected one of F32",
    ),
    (
        "unknown",
        {K: {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}},
        "stored as F4, expected",
    ),
]


@pytest.mark.parametrize(
    ("header", "said"), [row[1:] for row in HEADERS], ids=[r[0] for r in HEADERS]
)
def test_hostile_safetensors(header: dict[str, Any] | bytes, said: str, tmp_path: Path) -> None:
    folder = checkpoints.write_tiny(BY_NAME["qwen3"], tmp_path / "plain")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw = len(text).to_bytes(8, "little") + text + bytes(64)
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(IntegrityError, match=said):
        convert_checkpoint(folder, tmp_path / "made.gguf", "Q8_0")


def test_a_cut_or_changed_file_never_gets_further_than_an_error(tmp_path: Path) -> None:
    """Every prefix of the header, and a header with each of its bytes changed."""
    folder = checkpoints.write_tiny(BY_NAME["mistral-f16"], tmp_path / "plain", "F16")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    chance = np.random.default_rng(3)
    n_made = n_refused = 0
    for at in sorted({*range(0, 200), *chance.integers(8, end, 150).tolist()}):
        for raw in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :]):
            path.write_bytes(raw)
            try:
                convert_checkpoint(folder, tmp_path / "made.gguf", "Q8_0")
            except (IntegrityError, EngineError):
                n_refused += 1
                continue
            engines.open_model(tmp_path / "made.gguf").close()
            n_made += 1
    assert n_made > 0 and n_refused > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [K, "model.norm.weight"])
def test_a_weight_that_is_not_finite_is_refused_and_its_tensor_named(
    name: str, value: float, tmp_path: Path
) -> None:
    folder = checkpoints.write_tiny(LLAMA, tmp_path / "plain")
    values = tiny_models.make_weights(LLAMA)[name].copy()
    values.flat[values.size // 2] = value
    set_weight(name, values)(folder)
    what = "attn_k" if name == K else "output_norm"
    with pytest.raises(EngineError, match=f"{what}.weight: "):
        convert_checkpoint(folder, tmp_path / "made.gguf", "Q4_K_M")
    assert not (tmp_path / "made.gguf").exists()


def test_an_eight_bit_tensor_needs_its_scales(tmp_path: Path) -> None:
    folder = checkpoints.write_tiny(
        LLAMA, tmp_path / "plain", "F8_E4M3", quantization_config={"quant_method": "fp8"}
    )
    with pytest.raises(IntegrityError, match="is F8_E4M3, and its scales are missing"):
        convert_checkpoint(folder, tmp_path / "made.gguf", "Q8_0")


def test_a_window_that_is_dropped_is_said(tmp_path: Path) -> None:
    folder = checkpoints.write_tiny(
        LLAMA, tmp_path / "plain", architectures=["MistralForCausalLM"], sliding_window=4096
    )
    notebook = Notebook()
    convert_checkpoint(folder, tmp_path / "made.gguf", "Q8_0", progress=notebook)
    assert "its window of 4096 tokens is not kept" in notebook.notes[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 3, "there is no folder 'nowhere'"),
        (["empty"], 3, "'empty' is no checkpoint: it has no config.json"),
        (["bare"], 3, "'bare' is no checkpoint: it has no *.safetensors"),
        (["model.gguf"], 2, "is a file, expected the folder"),
        (["plain", "--quant", "Q9"], 2, "there is no quant 'Q9'"),
        (["plain", "-o", "no/where.gguf"], 2, "there is no folder 'no'"),
        (["plain", "-o", "empty"], 2, "is a folder, expected a file"),
        (["plain", "-o", "model.gguf"], 2, "is there already"),
        (["hf:org/repo", "--offline"], 5, "--offline forbids to fetch it"),
        (["hf:nobody"], 2, "is not of the form hf:org/repo"),
        ([], 2, "Missing argument 'SRC'"),
    ],
)
def test_bad_command_lines(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.write_tiny(BY_NAME["qwen3"], tmp_path / "plain")
    for name in ("empty", "bare"):
        (tmp_path / name).mkdir()
    (tmp_path / "bare/config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert app.main(["convert", *arguments]) == code
    captured = capfd.readouterr()
    assert captured.out == "" and said in captured.err
    assert (tmp_path / "model.gguf").read_bytes() == b"GGUF"


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        convert_checkpoint(tmp_path, tmp_path / "made.gguf", "Q8_0")
