"""What a repository's file names mean: quants, split models, checkpoints; and their order."""

from __future__ import annotations

import pytest

from localllm.models import quants
from localllm.models.sources.repository import choose, find_candidates, find_checkpoint
from localllm.models.sources.split import parse_split


@pytest.mark.parametrize("quant", quants.QUANTS, ids=lambda quant: quant.name)
def test_every_quant_is_found_in_the_usual_spellings(quant: quants.Quant) -> None:
    name = quant.name
    for spelled in (
        f"m-{name}.gguf",
        f"m.{name.lower()}.gguf",
        f"m.i1-{name}.gguf",
        f"{name}/m-{name}-00001-of-00002.gguf",
        f"{name}/m-00001-of-00002.gguf",
    ):
        assert quants.find_quant(spelled) == name
        assert quants.has_quant(spelled, name)
    assert quants.find_quant(f"m-UD-{name}.gguf") == f"UD-{name}"
    assert 1 < quant.bits <= 32


def test_the_best_quant_has_the_first_row() -> None:
    named = ["Q4_K_M", "Q2_K", "UD-Q4_K_M", "F32", "Q8_0", "IQ1_S", "Q5_K_M"]
    ordered = ["F32", "Q8_0", "Q5_K_M", "Q4_K_M", "UD-Q4_K_M", "Q2_K", "IQ1_S"]
    assert sorted(named, key=quants.rank) == ordered
    assert len(quants.BY_NAME) == len(quants.QUANTS)
    assert set(quants.PREFERRED) <= set(quants.BY_NAME)


def test_files_of_one_model_differ_in_their_quants_alone() -> None:
    names = ("m-F16.gguf", "M-Q8_0.gguf", "m.Q4_K_M.gguf", "m-F16-Q4_K_M.gguf", "m.gguf")
    assert len({quants.without_quant(name) for name in names}) == 1
    assert quants.without_quant("m-1-F16.gguf") != quants.without_quant("m-F16.gguf")


@pytest.mark.parametrize("name", ["m.gguf", "m-Q4_K_Mx.gguf", "Q9_9.gguf", "xQ8_0.gguf", ""])
def test_a_name_without_a_quant(name: str) -> None:
    assert quants.find_quant(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m-00002-of-00003.gguf", ("m", 2, 3)),
        ("a/m-00001-of-00001.gguf", ("a/m", 1, 1)),
        ("m-00000-of-00003.gguf", None),
        ("m-00004-of-00003.gguf", None),
        ("m-1-of-3.gguf", None),
        ("m-00001-of-00003.gguf.part", None),
        ("m.gguf", None),
    ],
)
def test_split_names(name: str, expected: tuple[str, int, int] | None) -> None:
    assert parse_split(name) == expected


def test_split_files_are_one_model_and_projectors_none() -> None:
    names = [
        "m-Q8_0-00002-of-00002.gguf",
        "m-Q8_0-00001-of-00002.gguf",
        "F16/m-00002-of-00003.gguf",
        "mmproj-F16.gguf",
        "m.imatrix.gguf",
        "README.md",
    ]
    found = find_candidates(names)
    assert [(c.quant, len(c.files), len(c.missing)) for c in found] == [
        ("F16", 3, 2),
        ("Q8_0", 2, 0),
    ]


PLAIN, DYNAMIC, IMATRIX = "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m.i1-Q4_K_M.gguf"
DEEP, SPLIT = "old/m-Q4_K_M.gguf", "m-Q4_K_M-00001-of-00001.gguf"


@pytest.mark.parametrize(
    ("names", "quant", "expected"),
    [
        ([DYNAMIC, IMATRIX, PLAIN, DEEP, SPLIT], "Q4_K_M", PLAIN),
        ([DYNAMIC, DEEP], "Q4_K_M", DYNAMIC),
        ([DYNAMIC, PLAIN], "UD-Q4_K_M", DYNAMIC),
        ([DEEP, "m-Q8_0.gguf"], None, DEEP),
        (["m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"], None, "m-Q8_0.gguf"),
        (["b.gguf", "a.gguf"], None, "a.gguf"),
        (["m-Q8_0.gguf"], "Q4_K_M", None),
        ([], None, None),
    ],
)
def test_which_file_is_meant(names: list[str], quant: str | None, expected: str | None) -> None:
    chosen = choose(find_candidates(names), quant)
    assert (chosen[1].files[0] if chosen else None) == expected


def test_a_checkpoint_is_what_a_conversion_reads() -> None:
    wanted = [
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    others = [
        "pytorch_model.bin",
        "model.pt",
        "consolidated.safetensors",
        "onnx/model.safetensors",
        "additional_chat_templates/../../x.jinja",
        "../config.json",
        "README.md",
    ]
    assert find_checkpoint(wanted + others) == wanted
    assert find_checkpoint(["config.json", "pytorch_model.bin"]) == []
    assert find_checkpoint(["model.safetensors"]) == []
    assert find_checkpoint(["config.json", "weights.safetensors"]) == [
        "config.json",
        "weights.safetensors",
    ]
