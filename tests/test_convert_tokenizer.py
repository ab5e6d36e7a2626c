"""Tokenizers of checkpoints: the ids of a converted model against the tokenizers library, which
reads the very tokenizer.json that was converted; and what files say of special tokens."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import write_json
from golden import tiny_models
from golden.tiny_models import TINY_MODELS
from tokenizer_cases import (
    CONTROL,
    FAMILIES,
    UNUSED,
    USER_DEFINED,
    byte_level_vocabulary,
    read_metadata,
    read_vocabulary,
    sentencepiece_vocabulary,
    strings,
)
from tokenizers import Tokenizer

from localllm import engines
from localllm.answer.template import load_template
from localllm.convert.from_checkpoint import convert_checkpoint
from localllm.convert.pre_tokenizers import KNOWN
from localllm.engines.base import ModelFile
from localllm.errors import EngineError, IntegrityError

QWEN = next(model for model in TINY_MODELS if model.name == "qwen3")
N_STRINGS = 2000


def write_model(folder: Path, n_vocab: int) -> None:
    """A checkpoint of n_vocab tokens without a tokenizer."""
    checkpoints.write_tiny(QWEN, folder, eos_token_id=None, bos_token_id=None)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    weights = tiny_models.make_weights(QWEN)
    weights["model.embed_tokens.weight"] = np.zeros((n_vocab, tiny_models.DIM), np.float32)
    checkpoints.write_weights(folder, weights, "F16")


Convert = Callable[..., ModelFile]


@pytest.fixture
def convert(tmp_path: Path) -> Iterator[Convert]:
    """Converts a model with these files (a value is JSON, bytes are written as they are)."""
    opened: list[ModelFile] = []
    said: list[str] = []

    class Notes:
        def start(self, label: str, total: int | None, done: int = 0) -> None: ...
        def advance(self, n_bytes: int) -> None: ...
        def note(self, text: str) -> None:
            said.append(text)

        def finish(self) -> None: ...

    def run(n_vocab: int, **files: Any) -> ModelFile:
        folder = tmp_path / f"plain{len(opened)}"
        write_model(folder, n_vocab)
        for name, content in files.items():
            path = folder / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                write_json(path, content)
        out = tmp_path / f"{len(opened)}.gguf"
        convert_checkpoint(folder, out, "F16", progress=Notes())
        opened.append(engines.open_model(out))
        return opened[-1]

    run.notes = said  # type: ignore[attr-defined]
    yield run
    for file in opened:
        file.close()


JSON, MODEL, SETTINGS = "tokenizer_DOT_json", "tokenizer_DOT_model", "tokenizer_config_DOT_json"
GENERATION, CONFIG = "generation_config_DOT_json", "config_DOT_json"


# ---- the same ids --------------------------------------------------------------------------------


def require_same_ids(file: ModelFile, definition: dict[str, Any]) -> None:
    judge = Tokenizer.from_str(json.dumps(definition))
    for text in strings(7, N_STRINGS):
        # The engine does not compose characters, as GGUF has no word for it.
        text = unicodedata.normalize("NFC", text)
        expected = judge.encode(text, add_special_tokens=False).ids
        assert file.tokenize(text, control=True) == expected, repr(text)


@pytest.mark.parametrize("pre", [name for name in FAMILIES if name != "default"])
def test_byte_level_vocabularies(pre: str, convert: Convert) -> None:
    vocabulary = byte_level_vocabulary(pre)
    definition = checkpoints.bpe_json(vocabulary)
    file = convert(len(vocabulary.tokens), **{JSON: definition})
    assert file.meta("tokenizer.ggml.pre") == pre
    require_same_ids(file, definition)


@pytest.mark.parametrize("prefix", [False, True])
def test_sentencepiece_from_either_file(prefix: bool, convert: Convert) -> None:
    vocabulary = sentencepiece_vocabulary()
    definition = checkpoints.spm_json(vocabulary, prefix)
    n = len(vocabulary.tokens)
    model = checkpoints.spm_model(vocabulary, prefix)
    files = [convert(n, **{JSON: definition}), convert(n, **{MODEL: model, JSON: definition})]
    for file in files:
        assert file.meta("tokenizer.ggml.model") == "llama"
        assert file.meta("tokenizer.ggml.add_space_prefix") is prefix
    for text in strings(8, N_STRINGS):
        ids = [file.tokenize(text, control=True) for file in files]
        assert ids[0] == ids[1], repr(text)
        # Where a user-defined token cuts the text, the two put spaces in different places.
        if "[user]" not in text and not (prefix and text == ""):
            judge = Tokenizer.from_str(json.dumps(definition))
            assert ids[0] == judge.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_real_byte_level_vocabularies(name: str, shared_data: Path, convert: Convert) -> None:
    vocabulary = read_vocabulary(shared_data / f"vocabs/ggml-vocab-{name}.gguf")
    definition = checkpoints.bpe_json(vocabulary)
    file = convert(len(vocabulary.tokens), **{JSON: definition})
    assert file.meta("tokenizer.ggml.tokens") == vocabulary.tokens
    assert file.meta("tokenizer.ggml.merges") == vocabulary.merges
    require_same_ids(file, definition)


@pytest.mark.parametrize("short", ["smollm2", "gemma3", "llama-spm"])
def test_the_tokenizers_of_real_models_come_back(
    short: str, request: pytest.FixtureRequest, convert: Convert
) -> None:
    """Files rebuilt from a GGUF file make the same vocabulary and the same ids."""
    if short == "llama-spm":
        path = request.getfixturevalue("shared_data") / "vocabs/ggml-vocab-llama-spm.gguf"
    else:
        path = request.getfixturevalue("real_models")[short]
    metadata, vocabulary = read_metadata(path), read_vocabulary(path)
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    settings: dict[str, Any] = {
        key: vocabulary.tokens[metadata[f"tokenizer.ggml.{role}_token_id"]]
        for key, role in names.items()
        if f"tokenizer.ggml.{role}_token_id" in metadata
    }
    settings["chat_template"] = metadata.get("tokenizer.chat_template")
    prefix = metadata.get("tokenizer.ggml.add_space_prefix") is not False
    if vocabulary.model == "gpt2":
        files: dict[str, Any] = {JSON: checkpoints.bpe_json(vocabulary)}
    else:
        decoder = {str(t["id"]): t for t in checkpoints.added_tokens(vocabulary)}
        settings["added_tokens_decoder"] = decoder
        files = {MODEL: checkpoints.spm_model(vocabulary, prefix)}
    file = convert(len(vocabulary.tokens), **files, **{SETTINGS: settings})
    # Published files also give SentencePiece a pre-tokenizer, which no reader looks at.
    keys = ["model", "tokens", "token_type", "merges"] + ["pre"] * (vocabulary.model == "gpt2")
    for key in keys:
        assert file.meta(f"tokenizer.ggml.{key}") == metadata.get(f"tokenizer.ggml.{key}"), key
    for role in names.values():
        key = f"tokenizer.ggml.{role}_token_id"
        assert file.meta(key) == metadata.get(key)
    assert file.meta("tokenizer.chat_template") == metadata.get("tokenizer.chat_template")
    source = engines.open_model(path) if short != "llama-spm" else None
    for text in strings(9, N_STRINGS) if source else ():
        assert source is not None
        assert file.tokenize(text, control=True) == source.tokenize(text, control=True), repr(text)
    if source:
        source.close()


def test_every_known_pre_tokenizer_is_the_engines(convert: Convert) -> None:
    for known in KNOWN:
        splits = [
            {"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False}
            for r in known.splits
        ]
        definition = checkpoints.bpe_json(byte_level_vocabulary("gpt-2"))
        letters = definition["pre_tokenizer"] | {"use_regex": False}
        definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, letters]}
        definition["model"]["ignore_merges"] = known.ignore_merges
        file = convert(len(byte_level_vocabulary("gpt-2").tokens), **{JSON: definition})
        assert file.meta("tokenizer.ggml.pre") == known.name
        require_same_ids(file, definition)


# ---- what tokens are for -------------------------------------------------------------------------

BPE = byte_level_vocabulary("qwen2")
N = len(BPE.tokens)
IM_START, IM_END, USER = (BPE.tokens.index(t) for t in ("<|im_start|>", "<|im_end|>", "[user]"))


def definition(**changed: Any) -> dict[str, Any]:
    return checkpoints.bpe_json(BPE) | changed


def test_tokens_without_rows_and_rows_without_tokens(convert: Convert) -> None:
    padded = convert(N + 70, **{JSON: definition()})
    assert padded.meta("tokenizer.ggml.tokens")[N:] == [f"[PAD{i}]" for i in range(N, N + 70)]
    assert padded.meta("tokenizer.ggml.token_type")[N:] == [UNUSED] * 70
    settings = {"pad_token": "[user]", "eos_token": "<|im_end|>"}
    cut = convert(N - 1, **{JSON: definition(), SETTINGS: settings})
    assert cut.meta("tokenizer.ggml.tokens") == BPE.tokens[:-1]
    assert cut.meta("tokenizer.ggml.padding_token_id") is None
    assert convert.notes == [  # type: ignore[attr-defined]
        "1 tokens have no row in the embedding and are left out: [user]"
    ]


def test_types_of_added_tokens(convert: Convert) -> None:
    names = ["<|a|>", "<think>", "<pad>", "<unused7>", "<\uff5cb\uff5c>", "two words", "<sp>"]
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    added = [
        {"id": N + i, "content": text, "special": text == "<sp>", **plain}
        for i, text in enumerate(names)
    ]
    older = {"<older>": N + len(names)}
    both = [*checkpoints.added_tokens(BPE), *added]
    files = {JSON: definition(added_tokens=both), "added_tokens_DOT_json": older}
    file = convert(N + len(names) + 1, **files)
    types = file.meta("tokenizer.ggml.token_type")[N:]
    assert types == [CONTROL, USER_DEFINED, CONTROL, CONTROL, CONTROL, USER_DEFINED, CONTROL, 4]
    text = "x<think>y two words <older>"
    judged = Tokenizer.from_str(json.dumps(files[JSON])).encode("x<think>y two words ").ids
    assert file.tokenize(text) == [*judged, N + len(names)]


def test_tokens_that_strip_are_said(convert: Convert) -> None:
    added = checkpoints.added_tokens(BPE)
    added[-1]["lstrip"] = True
    convert(N, **{JSON: definition(added_tokens=added)})
    (note,) = convert.notes  # type: ignore[attr-defined]
    assert note.startswith("white space beside [user] is kept")


@pytest.mark.parametrize(
    ("settings", "generation", "config", "expected"),
    [
        ({"eos_token": "<|im_end|>"}, {}, {}, {"eos": IM_END}),
        ({"eos_token": {"content": "<|im_end|>", "lstrip": False}}, {}, {}, {"eos": IM_END}),
        ({}, {}, {"eos_token_id": 5}, {"eos": 5}),
        ({}, {"eos_token_id": [5, 6, 7]}, {}, {"eos": 5, "eot": 6, "eom": 7}),
        ({"eos_token": "[user]"}, {"eos_token_id": [IM_END, USER, 9]}, {}, {"eos": USER, "eot": 9}),
        (
            {"eos_token": "<|im_end|>"},
            {"eos_token_id": 3},
            {"eos_token_id": 4},
            {"eot": 3, "eom": 4},
        ),
        ({"bos_token": None}, {}, {"bos_token_id": 2}, {"bos": 2}),
    ],
)
def test_every_end_is_known(
    settings: dict[str, Any],
    generation: dict[str, Any],
    config: dict[str, Any],
    expected: dict[str, int],
    convert: Convert,
) -> None:
    whole = checkpoints.tiny_config(QWEN) | {"bos_token_id": None, "eos_token_id": None} | config
    files = {JSON: definition(), SETTINGS: settings, GENERATION: generation, CONFIG: whole}
    file = convert(N, **files)
    for role, id in expected.items():
        assert file.meta(f"tokenizer.ggml.{role}_token_id") == id
    for given in (generation.get("eos_token_id"), config.get("eos_token_id")):
        for id in given if isinstance(given, list) else [given] if given else []:
            assert file.token_is_end(id), id


@pytest.mark.parametrize(
    ("processor", "settings", "adds"),
    [
        (None, {}, (False, False)),
        ({"type": "ByteLevel", "add_prefix_space": True}, {}, (False, False)),
        (["<|im_start|>", None], {}, (True, False)),
        (["<|im_start|>", None, "<|im_end|>"], {}, (True, True)),
        (["<|im_start|>", None], {"add_bos_token": False}, (False, False)),
        (None, {"add_bos_token": True}, (True, False)),
    ],
)
def test_what_is_put_around_a_text(
    processor: Any, settings: dict[str, Any], adds: tuple[bool, bool], convert: Convert
) -> None:
    if isinstance(processor, list):
        parts: list[dict[str, Any]] = [
            {"Sequence": {"id": "A"}} if name is None else {"SpecialToken": {"id": name}}
            for name in processor
        ]
        template = {"type": "TemplateProcessing", "single": parts}
        processor = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}
    given = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"} | settings
    file = convert(N, **{JSON: definition(post_processor=processor), SETTINGS: given})
    ids = file.tokenize("the", add_special=True)
    assert (ids[0] == IM_START, ids[-1] == IM_END) == adds


# ---- chat templates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "main", "named"),
    [
        ({}, None, []),
        ({SETTINGS: {"chat_template": "one"}}, "one", []),
        ({"chat_template_DOT_json": {"chat_template": "two"}}, "two", []),
        ({SETTINGS: {"chat_template": "one"}, "chat_template_DOT_jinja": b"three"}, "three", []),
        (
            {
                SETTINGS: {
                    "chat_template": [
                        {"name": "default", "template": "one"},
                        {"name": "tool_use", "template": "four"},
                    ]
                }
            },
            "one",
            ["tool_use"],
        ),
        (
            {
                "chat_template_DOT_jinja": b"three",
                "additional_chat_templates__rag_DOT_jinja": "fünf".encode(),
            },
            "three",
            ["rag"],
        ),
    ],
)
def test_chat_templates_from_every_place(
    files: dict[str, Any], main: str | None, named: list[str], convert: Convert
) -> None:
    file = convert(N, **{JSON: definition()}, **files)
    assert file.meta("tokenizer.chat_template") == main
    template = load_template(file)
    assert (template.source if template else None) == main
    assert (file.meta("tokenizer.chat_templates") or []) == named
    for name in named:
        assert file.meta(f"tokenizer.chat_template.{name}") in ("four", "fünf")


# ---- what is not recognised ----------------------------------------------------------------------


def model(**changed: Any) -> dict[str, Any]:
    made = definition()
    return made | {"model": made["model"] | changed}


def steps(*steps: dict[str, Any], letters: bool = True) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return definition(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*steps, *([last] if letters else [])]}
    )


def split(regex: str, behavior: str = "Isolated") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


SPM = sentencepiece_vocabulary()


def spm(**changed: Any) -> dict[str, Any]:
    return checkpoints.spm_json(SPM, prefix=False) | changed


def spm_with(**changed: Any) -> dict[str, Any]:
    return spm(model=spm()["model"] | changed)


MERGES = spm()["model"]["merges"]
FRONT = [{"SpecialToken": {"id": "[user]"}}, {"Sequence": {"id": "A"}}]
LACKS_A = {text: id for text, id in spm()["model"]["vocab"].items() if text != "<0x41>"}
HALF = json.dumps(model(vocab={"\ud800": 0})).encode()


def added(entry: object) -> dict[str, Any]:
    return definition(added_tokens=[entry])


# What tokenizer.json says, and what is said of it.
REFUSED: list[tuple[str, Any, str]] = [
    ("pieces of words", model(type="WordPiece"), "is 'WordPiece', expected BPE"),
    ("a prefix", model(continuing_subword_prefix="##"), "has a continuing_subword_prefix"),
    ("a normalizer", definition(normalizer={"type": "NFKC"}), "normalizer .* 'NFKC'"),
    ("no letters", steps(split("x"), letters=False), "is Split, expected one that ends in"),
    ("no step at all", definition(pre_tokenizer=None), "is null, expected one that ends in"),
    ("another regex", steps(split("a+")), r"is not known: it splits by \['a\+'\]"),
    ("one more case", steps(split(KNOWN[-1].splits[0] + "|x")), "is not known: it splits"),
    ("merges ignored", model(ignore_merges=True), "is not known: .* and ignores merges"),
    ("merged splits", steps(split("x", "MergedWithNext")), "the behavior 'MergedWithNext'"),
    ("another step", steps({"type": "Whitespace"}), "has a step 'Whitespace'"),
    ("no step", steps({}), "has no type"),
    ("a list as step", definition(pre_tokenizer=[]), "is a list, expected an object"),
    ("a space", definition(pre_tokenizer={"type": "ByteLevel"}), "adds a space in front"),
    ("no vocabulary", model(vocab={}), "expected an object with tokens"),
    ("a text as id", model(vocab={"a": "b"}), "the id of 'a' is the text 'b'"),
    ("a far id", model(vocab={"a": 1 << 20}), "1 tokens have ids up to 1048576"),
    ("an id twice", model(vocab={"a": 1, "b": 1}), "'a' and 'b' are both 1"),
    ("half a pair", model(merges=["a"]), "the merge 'a' is no pair"),
    ("three in a pair", model(merges=["a b c"]), "the merge 'a b c' is no pair"),
    ("merges of nothing", model(merges={"a": 1}), "merges in the model in .* an object"),
    ("half a surrogate", HALF, "surrogate pair"),
    ("a processor", definition(post_processor={"type": "BertProcessing"}), "'BertProcessing'"),
    (
        "a token in front",
        definition(post_processor={"type": "TemplateProcessing", "single": FRONT}),
        r"puts '\[user\]' where bos would be",
    ),
    ("whole words", added({"id": 1, "content": "a", "single_word": True}), "whole words only"),
    ("added far away", added({"id": 1 << 22, "content": "a"}), "has the id 4194304"),
    ("added by nothing", added(3), "an added token in tokenizer.json is 3"),
    ("no byte", spm_with(vocab=LACKS_A), "no token <0x41>"),
    ("no spaces", spm(normalizer=None), "nothing in tokenizer.json replaces spaces"),
    ("lower case", spm(normalizer={"type": "Lowercase"}), "step 'Lowercase' .* SentencePiece"),
    ("fewer merges", spm_with(merges=MERGES[:-3]), "are not those of a SentencePiece model"),
    ("merges apart", spm_with(merges=[*MERGES[1:], MERGES[0]]), "not those of a SentencePiece"),
]
# The same of other files.
REFUSED_FILES: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", {}, "the checkpoint has no tokenizer: neither"),
    (
        "no such end",
        {JSON: definition(), SETTINGS: {"eos_token": "<no>"}},
        "'<no>', which is no token",
    ),
    ("no such id", {JSON: definition(), GENERATION: {"eos_token_id": 1 << 20}}, "id 1048576"),
    ("four ends", {JSON: definition(), GENERATION: {"eos_token_id": [1, 2, 3, 4]}}, "end with 4"),
    ("ends as text", {JSON: definition(), GENERATION: {"eos_token_id": "</s>"}}, "expected ids"),
    ("no template", {JSON: definition(), SETTINGS: {"chat_template": 3}}, "expected a text or"),
    ("no text", {JSON: definition(), "chat_template_DOT_jinja": b"\xff"}, "not UTF-8 text"),
    ("no protobuf", {MODEL: b"\x08"}, "tokenizer.model is no SentencePiece model: a number that"),
    ("a base64 list", {MODEL: b"IQ== 0\nIg== 1\n"}, "is no SentencePiece model"),
    ("no pieces", {MODEL: b""}, "is no SentencePiece model: it has no pieces"),
    ("unigrams", {MODEL: checkpoints.spm_model(SPM, True, kind=1)}, "is a Unigram model, expected"),
]
ALL_REFUSED = [(name, {JSON: made}, said) for name, made, said in REFUSED] + REFUSED_FILES


@pytest.mark.parametrize(
    ("files", "said"), [row[1:] for row in ALL_REFUSED], ids=[row[0] for row in ALL_REFUSED]
)
def test_what_is_not_recognised_is_an_error(
    files: dict[str, Any], said: str, convert: Convert
) -> None:
    with pytest.raises(IntegrityError, match=said):
        convert(N, **files)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside a JSON value, a few of long lists and vocabularies."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in list(value)[:12]:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            yield from places(value[i], (*path, i))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return copy


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    7,
    1e300,
    "",
    "x",
    [],
    [7],
    ["x", {}],
    {},
    {"x": []},
    10**30,
)


FILES = ("config", "tokenizer", "tokenizer_config", "generation_config", "special_tokens_map")


@pytest.mark.parametrize("name", [*FILES, "added_tokens", "spm", "gemma"])
def test_any_value_anywhere_is_an_error_or_a_model(name: str, tmp_path: Path) -> None:
    """Whatever stands where something else is expected: one sentence, never another failure."""
    folder = tmp_path / "plain"
    tiny = next(m for m in TINY_MODELS if m.name == ("gemma3" if name == "gemma" else "qwen3-yarn"))
    checkpoints.write_tiny(tiny, folder)
    file = {"spm": "tokenizer", "gemma": "config"}.get(name, name)
    if name == "spm":
        write_json(folder / "tokenizer.json", spm())
        write_json(folder / "tokenizer_config.json", {})
    path = folder / f"{file}.json"
    wholes: dict[str, Any] = {
        "generation_config": {"eos_token_id": [1, 2], "bos_token_id": 1},
        "special_tokens_map": {"eos_token": {"content": "<|end|>"}, "unk_token": "<|pad|>"},
        "added_tokens": {"<new>": 319, "<newer>": 320},
        "tokenizer_config": {
            "bos_token": "<|begin|>",
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": "x"}],
            "added_tokens_decoder": {"319": {"content": "<x>", "special": True}},
        },
    }
    whole = wholes.get(name) or json.loads(path.read_text())
    if name == "tokenizer":
        single = [{"SpecialToken": {"id": "<|begin|>"}}, {"Sequence": {"id": "A"}}]
        whole["post_processor"] = {"type": "TemplateProcessing", "single": single}
    if name == "config":
        whole["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    n_made = n_refused = 0
    for at in places(whole):
        for odd in ODD:
            write_json(path, replaced(whole, at, odd))
            try:
                convert_checkpoint(folder, tmp_path / "made.gguf", "F16")
                n_made += 1
            except (IntegrityError, EngineError):
                n_refused += 1
                continue
            engines.open_model(tmp_path / "made.gguf").close()
    assert n_made > 0 and n_refused > 0


def test_a_changed_sentencepiece_file_is_an_error_or_a_vocabulary(tmp_path: Path) -> None:
    from localllm.convert.sentencepiece_model import read_tokenizer_model

    raw = checkpoints.spm_model(SPM, prefix=True)
    path = tmp_path / "tokenizer.model"
    chance = np.random.default_rng(4)
    n_read = n_refused = 0
    for at in chance.integers(0, len(raw), 2000).tolist():
        cut = raw[:at] if at % 3 == 0 else raw[:at] + chance.bytes(1) + raw[at + 1 :]
        path.write_bytes(cut)
        try:
            vocabulary = read_tokenizer_model(path)
        except IntegrityError:
            n_refused += 1
            continue
        n_read += 1
        assert len(vocabulary.tokens) == len(vocabulary.types) == len(vocabulary.scores or [])
    assert n_read > 0 and n_refused > 0
