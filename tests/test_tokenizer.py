"""Tokenizers against Hugging Face's `tokenizers`, llama.cpp's vectors, and the clock.

The judge is built from the same GGUF data: vocabulary, merges (or scores), and the regular
expression of the pre-tokenizer as its family is published. A small vocabulary built here keeps the
tests real where no model and no vocabulary file is at hand.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ErrorStruct
from gguf_files import PACKING, ValueType, build, kv, kv_array
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

ARGUMENT, FORMAT, UNSUPPORTED = 1, 3, 4
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


# ---- the tokenizer under test -------------------------------------------------------------------


class TokenizerError(Exception):
    def __init__(self, error: ErrorStruct) -> None:
        super().__init__(error.message.decode(errors="replace"))
        self.code = error.code


class Text:
    """One gguf and its tokenizer, with Python's types."""

    def __init__(self, library: ctypes.CDLL, source: Path | bytes) -> None:
        self.library = library
        self.gguf = self.tokenizer = None
        error = ErrorStruct()
        self.data = source
        if isinstance(source, bytes):
            self.gguf = library.gguf_parse(source, len(source), len(source), error)
        else:
            self.gguf = library.gguf_open(str(source).encode(), error)
        if not self.gguf:
            raise TokenizerError(error)
        self.tokenizer = library.tokenizer_open(self.gguf, error)
        if not self.tokenizer:
            raise TokenizerError(error)

    def encode(
        self, text: str | bytes, *, control: bool = False, add_special: bool = False
    ) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        ids, n_ids, error = (ctypes.c_int32 * (len(raw) + 16))(), ctypes.c_size_t(), ErrorStruct()
        ok = self.library.tokenizer_encode(
            self.tokenizer, raw, len(raw), control, add_special, ids, len(ids), n_ids, error
        )
        if not ok:
            raise TokenizerError(error)
        if n_ids.value > len(ids):  # U+FFFD for one byte may take more ids than bytes
            ids = (ctypes.c_int32 * n_ids.value)()
            self.library.tokenizer_encode(
                self.tokenizer, raw, len(raw), control, add_special, ids, len(ids), n_ids, error
            )
        return ids[: n_ids.value]

    def token_bytes(self, token: int, *, control: bool = False) -> bytes | None:
        out = ctypes.create_string_buffer(4096)
        n: int = self.library.tokenizer_token_bytes(self.tokenizer, token, control, out, len(out))
        return None if n < 0 else out.raw[:n]

    def decode(self, ids: Sequence[int], *, control: bool = False) -> bytes:
        return b"".join(self.token_bytes(i, control=control) or b"" for i in ids)

    def find(self, text: str) -> int:
        found: int = self.library.tokenizer_find(self.tokenizer, text.encode(), len(text.encode()))
        return found

    def ask(self, question: str, *args: int) -> int:
        answer: int = getattr(self.library, f"tokenizer_{question}")(self.tokenizer, *args)
        return answer

    def close(self) -> None:
        self.library.tokenizer_close(self.tokenizer)
        self.library.gguf_close(self.gguf)

    def __del__(self) -> None:
        self.close()


def declare(library: ctypes.CDLL) -> None:
    pointer, size, flag, int32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_int32
    error = ctypes.POINTER(ErrorStruct)
    text = [ctypes.c_char_p, size]
    ids = [ctypes.POINTER(int32), size, ctypes.POINTER(size)]
    signatures = {
        "gguf_open": (pointer, [ctypes.c_char_p, error]),
        "gguf_parse": (pointer, [ctypes.c_char_p, size, ctypes.c_uint64, error]),
        "gguf_close": (None, [pointer]),
        "tokenizer_open": (pointer, [pointer, error]),
        "tokenizer_close": (None, [pointer]),
        "tokenizer_encode": (flag, [pointer, *text, ctypes.c_int, flag, *ids, error]),
        "tokenizer_token_bytes": (int32, [pointer, int32, flag, ctypes.c_char_p, size]),
        "tokenizer_find": (int32, [pointer, *text]),
        "tokenizer_is_end": (flag, [pointer, int32]),
        "tokenizer_is_control": (flag, [pointer, int32]),
        "tokenizer_adds_bos": (flag, [pointer]),
        "tokenizer_bos": (int32, [pointer]),
        "tokenizer_eos": (int32, [pointer]),
        "tokenizer_n_vocab": (ctypes.c_uint32, [pointer]),
        "tokenizer_memory_bytes": (size, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


Open = Callable[[Path | bytes], Text]


@pytest.fixture(scope="session")
def open_text(internals: ctypes.CDLL) -> Open:
    declare(internals)
    return lambda source: Text(internals, source)


# ---- vocabularies as data -----------------------------------------------------------------------


def byte_letters() -> list[str]:
    """GPT-2's alphabet: the letter that stands for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [letters[b] for b in range(256)]


LETTERS = byte_letters()


def spelled(text: str) -> str:
    return "".join(LETTERS[b] for b in text.encode())


@dataclass
class Vocabulary:
    """What a GGUF file says about its tokenizer."""

    tokens: list[str]
    types: list[int] | None = None
    model: str = "gpt2"
    pre: str | None = "gpt-2"
    merges: list[str] | None = None
    scores: list[float] | None = None
    flags: dict[str, bool] | None = None
    ids: dict[str, int] | None = None

    def gguf(self) -> bytes:
        key = "tokenizer.ggml."
        entries = [
            kv(key + "model", ValueType.STRING, self.model),
            kv_array(key + "tokens", ValueType.STRING, self.tokens),
        ]
        if self.pre is not None:
            entries.append(kv(key + "pre", ValueType.STRING, self.pre))
        if self.types is not None:
            entries.append(kv_array(key + "token_type", ValueType.I32, self.types))
        if self.merges is not None:
            entries.append(kv_array(key + "merges", ValueType.STRING, self.merges))
        if self.scores is not None:
            entries.append(kv_array(key + "scores", ValueType.F32, self.scores))
        entries += [kv(key + k, ValueType.BOOL, v) for k, v in (self.flags or {}).items()]
        entries += [kv(key + k, ValueType.U32, v) for k, v in (self.ids or {}).items()]
        return build(entries)


def read_metadata(path: Path) -> dict[str, Any]:
    """A file's metadata, read independently of the reader under test."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        at = 0

        def take(layout: str) -> Any:
            nonlocal at
            (value,) = struct.unpack_from(layout, raw, at)
            at += struct.calcsize(layout)
            return value

        def take_value(kind: int) -> Any:
            nonlocal at
            if kind == ValueType.STRING:
                n = take("<Q")
                at += n
                return raw[at - n : at].decode()
            if kind != ValueType.ARRAY:
                return take(PACKING[ValueType(kind)])
            element, n = take("<I"), take("<Q")
            if element == ValueType.STRING:
                return [take_value(element) for _ in range(n)]
            layout = f"<{n}{PACKING[ValueType(element)][1]}"
            values = struct.unpack_from(layout, raw, at)
            at += struct.calcsize(layout)
            return list(values)

        assert take("<4s") == b"GGUF"
        assert take("<I") in (2, 3)
        take("<Q")
        return {take_value(ValueType.STRING): take_value(take("<I")) for _ in range(take("<Q"))}


def read_vocabulary(path: Path) -> Vocabulary:
    metadata = read_metadata(path)

    def get(name: str) -> Any:
        return metadata.get("tokenizer.ggml." + name)

    return Vocabulary(
        get("tokens"),
        get("token_type"),
        get("model"),
        get("pre"),
        get("merges"),
        get("scores"),
        {"add_space_prefix": get("add_space_prefix") is not False},
    )


WORDS = [
    "the", "The", " the", " and", "ing", " ing", "er", "He", "llo", " world", "World", "123",
    "12", "2024", "don", "'t", "'re", "'S", "  ", "   ", "    ", "\n\n", "\n", "\r\n", "\t\t",
    " \n", "...", "!!", "==", " ==", "!=", "();", "{}", "é", "Привет", " мир", "日本", "語", "ü",
    "한국", "مر", "🙂", "👩", "\u200d", "ก", "ที่", "न", "ाम", "a\u0301", "+=", "<|", "|>", "im",
]  # fmt: skip


def byte_level_vocabulary(pre: str | None) -> Vocabulary:
    """All bytes, the words above with the merges that build them, and four special tokens."""
    tokens = list(LETTERS)
    merges: list[str] = []
    for word in WORDS:
        letters = spelled(word)
        for n in range(2, len(letters) + 1):
            if letters[:n] not in tokens:
                tokens.append(letters[:n])
                merges.append(f"{letters[: n - 1]} {letters[n - 1]}")
    # A token that no merge makes: only a tokenizer that ignores merges finds it.
    tokens.append(spelled(" zebra"))
    types = [NORMAL] * len(tokens)
    special = {"<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<unk>": UNKNOWN, "[user]": USER_DEFINED}
    return Vocabulary(
        [*tokens, *special],
        types + list(special.values()),
        pre=pre,
        merges=merges,
        ids={"bos_token_id": len(tokens), "eos_token_id": len(tokens) + 1},
    )


def sentencepiece_vocabulary() -> Vocabulary:
    pieces = ["▁", "▁the", "▁t", "th", "he", "▁th", "in", "g", "ing", "▁▁", "▁▁▁▁", "日本", "Hello",
              "ell", "el", "lo", "ello", "He", "l", "o", "H", "e", "t", "h", "i", "n", "日", "本",
              "é", "aa", "a", "aaaa"]  # fmt: skip
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], *pieces, "[user]"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces), USER_DEFINED]
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [-1000.0]
    return Vocabulary(tokens, types, "llama", None, None, scores, {"add_space_prefix": False})


# ---- the judge ----------------------------------------------------------------------------------

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
ANY_CASE = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
WORD = (
    rf"{ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [WORD.replace("NUMBER", r"\p{N}{1,3}")],
    "qwen2": [WORD.replace("NUMBER", r"\p{N}")],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
IGNORE_MERGES = {"llama-bpe"}


def judge_of(v: Vocabulary) -> Tokenizer:
    return judge_of_bpe(v) if v.model == "gpt2" else judge_of_spm(v)


def plain(v: Vocabulary, token: int) -> bool:
    return v.types is None or v.types[token] not in (CONTROL, UNKNOWN)


def judge_of_bpe(v: Vocabulary) -> Tokenizer:
    pre = v.pre or "default"
    assert v.merges is not None
    merges = [(m[: m.index(" ", 1)], m[m.index(" ", 1) + 1 :]) for m in v.merges]
    vocab = {t: i for i, t in enumerate(v.tokens)}
    tokenizer = Tokenizer(BPE(vocab, merges, ignore_merges=pre in IGNORE_MERGES))
    splits = [pre_tokenizers.Split(Regex(r), "isolated") for r in FAMILIES[pre]]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    return tokenizer


def judge_of_spm(v: Vocabulary) -> Tokenizer:
    """Every way to make a token of two others is a merge, the highest score first."""
    assert v.scores is not None
    vocab = {t: i for i, t in enumerate(v.tokens)}
    merges = []
    for made, token in vocab.items():
        if not plain(v, token):
            continue
        parts = [(made[:n], made[n:]) for n in range(1, len(made))]
        merges += [
            (-v.scores[token], a, b) for a, b in parts if a in vocab and b in vocab
        ]
    merges.sort(key=lambda m: m[0])
    pairs = [(a, b) for _, a, b in merges]
    return Tokenizer(BPE(vocab, pairs, byte_fallback=True, fuse_unk=False))


def judged(v: Vocabulary, judge: Tokenizer, text: str) -> list[int]:
    """User-defined tokens are cut out, leftmost and longest; the judge has what is between them."""
    cut = [t for i, t in enumerate(v.tokens) if v.types and v.types[i] == USER_DEFINED and t]
    if not any(t in text for t in cut):
        return judged_fragment(v, judge, text)
    cut.sort(key=len, reverse=True)
    ids: list[int] = []
    for i, part in enumerate(re.split("(" + "|".join(map(re.escape, cut)) + ")", text)):
        ids += [v.tokens.index(part)] if i % 2 else judged_fragment(v, judge, part)
    return ids


def judged_fragment(v: Vocabulary, judge: Tokenizer, text: str) -> list[int]:
    if v.model != "gpt2":
        prefix = "▁" if (v.flags or {}).get("add_space_prefix", True) and text else ""
        text = prefix + text.replace(" ", "▁")
    ids: list[int] = judge.encode(text, add_special_tokens=False).ids
    return ids


# ---- strings ------------------------------------------------------------------------------------

SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "etaoinshrdlu", "éèêëàâäöüßñçøåæœÿ",
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГД", "αβγδεζηθικλμνξοπρστυφχψωΆΈ",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي\u064b\u0651", "אבגדהוזחטיכלמנסעפצקרשת\u05b0\u05bc",
    "अआइईउऊकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह\u093e\u093f\u094d", "กขคงจฉชซญดตถทธนบปพฟมยรลวสหอะาิีู่้",
    "日本語中文漢字学校東京北京人大小山川", "가나다라마바사아자차카타파하한국어", "ひらがなカタカナあいうえおー",
    "🙂😀👍🏽👩\u200d💻👨\u200d👩\u200d👧🇫🇷❤\ufe0f", "a\u0301e\u0308o\u0302n\u0303u\u030a",
    "0123456789", "٠١٢٣४५६七八½²Ⅷ", " \t\n\r\u00a0\u2003\u3000\u2028\u0085\u000b\u000c",
    "\x00\x01\x04\x06\x07\x13\x1b\x1f\x7f\u0080\u009f\u200b\ufeff", ".,;:!?'\"()[]{}<>@#$%^&*-_=+/\\|~`",
    "«»“”‘’…—–·¿¡§¶†‡•€£¥₹°±×÷∑∞≠≤→⇒", "\u0f00\u1200\u13a0\u1780\u10a0\u0531\U00010400\U0001d400\U000e0001",
]  # fmt: skip
SNIPPETS = [
    "I'm you're we'll he'd it's don't they've DON'T I'M",
    "def f(x: int) -> list[str]:\n    return [str(i) for i in range(x)]\n\n",
    "for (int i = 0; i < n; i++) { a[i] += 1.5e-3; }\r\n\r\n",
    "SELECT * FROM t WHERE a = 'x' AND b >= 10;", "https://example.org/a/b?c=d&e=%20f#g",
    "1,234,567.89 + 0x7fff = 3.14159", "HelloWorld helloWorld snake_case_name CONST_NAME",
    "   leading and trailing   ", "\n\n\n", "\t\tif x:\n\t\t\tpass\n", "a  b   c    d     e",
    "Привет, мир! 你好，世界！ こんにちは。", "{\"key\": [1, 2, {\"n\": null}]}", "!!!???...",
]  # fmt: skip


def strings(seed: int, n: int) -> Iterator[str]:
    """Words of one to three scripts, spaces of every kind, code; the same for the same seed."""
    rng = random.Random(seed)
    yield ""
    yield from SNIPPETS
    for _ in range(n - 1 - len(SNIPPETS)):
        scripts = rng.sample(SCRIPTS, rng.randint(1, 3))
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.1:
                parts.append(rng.choice(SNIPPETS))
            elif kind < 0.15:
                parts.append(rng.choice(SCRIPTS[0]) * rng.randint(1, 40))
            else:
                letters = rng.choice(scripts)
                parts.append("".join(rng.choices(letters, k=rng.randint(1, 9))))
            parts.append(rng.choice(["", " ", " ", "  ", "\n", "\t", " \n ", "   "]))
        yield "".join(parts)


def test_the_strings_are_many_and_reach_every_script() -> None:
    generated = list(strings(1, 2000))
    assert len(generated) == 2000
    assert len(set(generated)) > 1990
    assert set("".join(SCRIPTS)) <= set("".join(generated))


def compare(text: Text, v: Vocabulary, n: int) -> None:
    judge = judge_of(v)
    for string in strings(1, n):
        expected = judged(v, judge, string)
        assert text.encode(string) == expected, repr(string)


# ---- equality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [*FAMILIES, None])
def test_small_byte_level_vocabulary_equals_the_judge(open_text: Open, pre: str | None) -> None:
    v = byte_level_vocabulary(pre)
    compare(open_text(v.gguf()), v, 1000)


@pytest.mark.parametrize("prefix", [False, True])
def test_small_sentencepiece_vocabulary_equals_the_judge(open_text: Open, prefix: bool) -> None:
    v = sentencepiece_vocabulary()
    v.flags = {"add_space_prefix": prefix}
    compare(open_text(v.gguf()), v, 1000)


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm"])
def test_published_vocabularies_equal_the_judge(
    open_text: Open, shared_data: Path, name: str
) -> None:
    path = shared_data / "vocabs" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"no vocabulary at {path}")
    compare(open_text(path), read_vocabulary(path), 2000)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_real_models_equal_the_judge(
    open_text: Open, real_models: dict[str, Path], name: str
) -> None:
    path = real_models.get(name)
    if path is None:
        pytest.skip(f"no {name} among the real models")
    compare(open_text(path), read_vocabulary(path), 2000)


VECTORS = ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"]


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(open_text: Open, shared_data: Path, name: str) -> None:
    path = shared_data / "vocabs" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"no vocabulary at {path}")
    texts = Path(f"{path}.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    text = open_text(path)
    for raw, line in zip(texts, lines, strict=True):
        assert text.encode(raw, control=True) == [int(i) for i in line.split()], raw


# ---- detokenizing -------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", list(FAMILIES))
def test_byte_level_round_trip(open_text: Open, pre: str) -> None:
    text = open_text(byte_level_vocabulary(pre).gguf())
    for string in strings(2, 500):
        assert text.decode(text.encode(string)) == string.encode()


def test_sentencepiece_round_trip_keeps_any_bytes(open_text: Open) -> None:
    text = open_text(sentencepiece_vocabulary().gguf())
    rng = random.Random(3)
    for string in strings(2, 500):
        assert text.decode(text.encode(string)) == string.encode()
        raw = rng.randbytes(40)
        assert text.decode(text.encode(raw)) == raw


def test_byte_level_reads_bytes_that_are_not_utf8_as_replacement_characters(
    open_text: Open,
) -> None:
    text = open_text(byte_level_vocabulary("gpt-2").gguf())
    cases = {
        b"a\xffb": "a\ufffdb",
        b"\xe2\x82": "\ufffd\ufffd",
        b"\xc0\x80": "\ufffd\ufffd",
        b"\xed\xa0\x80": "\ufffd\ufffd\ufffd",
        b"\xf4\x90\x80\x80x": "\ufffd\ufffd\ufffd\ufffdx",
        b"ok \xe2\x82\xac": "ok €",
    }
    for raw, meant in cases.items():
        assert text.encode(raw) == text.encode(meant), raw


def test_token_bytes_follow_the_type(open_text: Open) -> None:
    v = sentencepiece_vocabulary()
    v.tokens += ["▁user▁", "▁unused"]
    assert v.types is not None and v.scores is not None
    v.types += [USER_DEFINED, UNUSED]
    v.scores += [0.0, 0.0]
    text = open_text(v.gguf())
    assert text.token_bytes(text.find("▁the")) == b" the"
    assert text.token_bytes(text.find("<0xE2>")) == b"\xe2"
    assert text.token_bytes(text.find("<s>")) == b""
    assert text.token_bytes(text.find("<s>"), control=True) == b"<s>"
    assert text.token_bytes(text.find("<unk>")) == b""
    assert text.token_bytes(text.find("▁user▁")) == "▁user▁".encode()
    assert text.token_bytes(text.find("▁unused")) == b""
    assert text.token_bytes(-1) is None
    assert text.token_bytes(len(v.tokens)) is None


def test_a_byte_the_vocabulary_lacks_is_left_out_of_byte_level_text(open_text: Open) -> None:
    v = byte_level_vocabulary("gpt-2")
    v.tokens[0x04] = "unreachable"
    compare(open_text(v.gguf()), v, 500)


def test_a_byte_the_vocabulary_lacks_fails_in_sentencepiece(open_text: Open) -> None:
    v = sentencepiece_vocabulary()
    v.tokens[3 + 0x04] = "unreachable"
    with pytest.raises(TokenizerError, match="byte 0x04") as error:
        open_text(v.gguf()).encode("a\x04")
    assert error.value.code == FORMAT


# ---- special tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [byte_level_vocabulary("gpt-2"), sentencepiece_vocabulary()])
def test_user_text_never_becomes_a_control_token(open_text: Open, vocabulary: Vocabulary) -> None:
    text = open_text(vocabulary.gguf())
    assert vocabulary.types is not None
    never = {i for i, t in enumerate(vocabulary.types) if t in (CONTROL, UNKNOWN)}
    for name in [vocabulary.tokens[i] for i in never]:
        for string in (name, f"a {name}b", name * 3, f" {name}\n"):
            ids = text.encode(string)
            assert not never & set(ids)
            assert text.decode(ids) == string.encode()
            assert set(text.encode(string, control=True)) & never == {text.find(name)}


def test_control_text_is_cut_before_anything_else(open_text: Open) -> None:
    text = open_text(byte_level_vocabulary("gpt-2").gguf())
    start, end = text.find("<|im_start|>"), text.find("<|im_end|>")
    ids = text.encode("<|im_start|>user\nHello<|im_end|>\n", control=True)
    middle, last = text.encode("user\nHello"), text.encode("\n")
    assert ids == [start, *middle, end, *last]


def test_user_defined_tokens_are_always_cut(open_text: Open) -> None:
    for v in (byte_level_vocabulary("gpt-2"), sentencepiece_vocabulary()):
        text = open_text(v.gguf())
        expected = [*text.encode("the"), text.find("[user]"), *text.encode("the")]
        for control in (False, True):
            assert text.encode("the[user]the", control=control) == expected


def test_the_leftmost_then_longest_special_token_wins(open_text: Open) -> None:
    v = byte_level_vocabulary("gpt-2")
    extra = ["<a", "<a>", "<a>b", "a>bc>", ">bc>bc"]
    v.tokens += extra
    assert v.types is not None
    v.types += [USER_DEFINED] * len(extra)
    text = open_text(v.gguf())
    find = text.find
    assert text.encode("<a>bc>bc") == [find("<a>b"), *text.encode("c"), *text.encode(">bc")]
    assert text.encode("<<a<a>") == [*text.encode("<"), find("<a"), find("<a>")]
    assert text.encode("xa>bc>") == [*text.encode("x"), find("a>bc>")]
    assert text.encode("<a>") == [find("<a>")]


def test_merges_never_make_a_control_token(open_text: Open) -> None:
    v = byte_level_vocabulary("llama-bpe")
    assert v.types is not None
    v.types[v.tokens.index("He")] = CONTROL
    v.types[v.tokens.index(spelled(" zebra"))] = CONTROL
    text = open_text(v.gguf())
    for string in ("Hello", " zebra"):
        ids = text.encode(string)
        assert text.find("He") not in ids and text.find(spelled(" zebra")) not in ids
        assert text.decode(ids) == string.encode()
    s = sentencepiece_vocabulary()
    assert s.types is not None
    s.types[s.tokens.index("▁the")] = CONTROL
    text = open_text(s.gguf())
    assert text.find("▁the") not in text.encode(" the")


# ---- beginnings and ends ------------------------------------------------------------------------


def test_bos_and_eos_are_added_where_the_file_asks(open_text: Open) -> None:
    v = byte_level_vocabulary("gpt-2")
    bos, eos = (v.ids or {}).values()
    cases: list[tuple[str, dict[str, bool], list[int], list[int]]] = [
        ("gpt-2", {}, [], []),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, [bos], [eos]),
        ("llama-bpe", {}, [bos], []),
        ("llama-bpe", {"add_bos_token": False}, [], []),
        ("glm4", {"add_bos_token": True}, [], []),
    ]
    for pre, flags, first, last in cases:
        v.pre, v.flags = pre, flags
        text = open_text(v.gguf())
        assert text.encode("He", add_special=True) == [*first, *text.encode("He"), *last]
        assert text.encode("", add_special=True) == [*first, *last]
        assert bool(text.ask("adds_bos")) == bool(first)


def test_sentencepiece_defaults(open_text: Open) -> None:
    v = sentencepiece_vocabulary()
    v.flags = None
    text = open_text(v.gguf())
    assert text.encode("the", add_special=True) == [1, text.find("▁the")]
    assert (text.ask("bos"), text.ask("eos")) == (1, 2)
    assert text.encode("") == []


def test_ids_outside_the_vocabulary_count_as_none(open_text: Open) -> None:
    v = byte_level_vocabulary("llama-bpe")
    v.ids = {"bos_token_id": 10**6, "eos_token_id": 2**32 - 1, "eot_token_id": 10**6}
    text = open_text(v.gguf())
    assert (text.ask("bos"), text.ask("eos")) == (-1, -1)
    assert text.encode("", add_special=True) == []
    assert not any(text.ask("is_end", i) for i in (-1, 10**6, 2**31 - 1, -(2**31)))
    assert not text.ask("is_control", 10**6)


def test_the_tokens_that_end_an_answer(open_text: Open) -> None:
    def ends(extra: Sequence[str], ids: dict[str, int] | None = None) -> set[str]:
        v = byte_level_vocabulary("gpt-2")
        v.tokens += extra
        assert v.types is not None
        v.types += [CONTROL] * len(extra)
        v.ids = ids
        text = open_text(v.gguf())
        return {t for i, t in enumerate(v.tokens) if text.ask("is_end", i)}

    assert ends([]) == {"<|im_end|>"}
    assert ends(["<eos>", "</s>", "<|fim_pad|>", "<other>"]) == {
        "<|im_end|>", "<eos>", "</s>", "<|fim_pad|>"
    }  # fmt: skip
    assert ends([], {"eos_token_id": 5, "eot_token_id": 6}) == {"<|im_end|>", LETTERS[5], LETTERS[6]}
    assert ends(["<|end|>"]) == {"<|im_end|>", "<|end|>"}
    assert ends(["<|end|>", "<|return|>", "<|call|>"]) == {"<|im_end|>", "<|return|>", "<|call|>"}
    assert ends(["</s>", "<|tool_response>"]) == {"<|im_end|>", "<|tool_response>"}


# ---- files that are wrong -----------------------------------------------------------------------


def broken() -> Iterator[tuple[str, Vocabulary, int]]:
    def base() -> Vocabulary:
        return byte_level_vocabulary("gpt-2")

    v = base()
    v.tokens[300] = v.tokens[7]
    yield "the same text", v, FORMAT
    v = base()
    v.merges = [*(v.merges or []), "nowhere else"]
    yield "nowhere else", v, FORMAT
    v = base()
    v.merges = ["e r", "er er"]
    yield "er er", v, FORMAT
    v = base()
    v.merges = ["nospace"]
    yield "a space", v, FORMAT
    v = base()
    v.merges = [" "]
    yield "a space", v, FORMAT
    v = base()
    v.merges = None
    yield "merges is missing", v, FORMAT
    v = base()
    v.types = [NORMAL]
    yield "token_type has 1 elements", v, FORMAT
    yield "tokens has 0 texts", Vocabulary([], merges=[]), FORMAT
    v = sentencepiece_vocabulary()
    v.scores = [1.0, 2.0]
    yield "scores has 2 elements", v, FORMAT
    v = base()
    v.pre = "a-new-one"
    yield "'a-new-one' is unknown; known: default, gpt-2", v, UNSUPPORTED
    v = base()
    v.model = "t5"
    yield "'t5' is unknown; known: gpt2, llama", v, UNSUPPORTED


@pytest.mark.parametrize(("message", "vocabulary", "code"), list(broken()))
def test_broken_vocabularies_are_refused(
    open_text: Open, message: str, vocabulary: Vocabulary, code: int
) -> None:
    with pytest.raises(TokenizerError, match=message) as error:
        open_text(vocabulary.gguf())
    assert error.value.code == code


def test_odd_vocabularies_have_a_defined_meaning(open_text: Open) -> None:
    v = byte_level_vocabulary("gpt-2")
    assert v.types is not None
    v.tokens += ["", "", "odd"]
    v.types += [NORMAL, CONTROL, 99]
    text = open_text(v.gguf())
    assert text.find("") == -1
    assert text.token_bytes(len(v.tokens) - 3) == b""
    assert text.token_bytes(len(v.tokens) - 1) == b""
    assert text.decode(text.encode("Hello world", control=True)) == b"Hello world"
    nothing = Vocabulary(["a"], merges=[])
    assert open_text(nothing.gguf()).encode("banana") == [0, 0, 0]


def test_several_threads_share_one_tokenizer(open_text: Open) -> None:
    text = open_text(byte_level_vocabulary("llama-bpe").gguf())
    texts = list(strings(5, 300))
    alone = [text.encode(string) for string in texts]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(text.encode, texts * 4)) == alone * 4


def test_the_whole_length_is_told_where_the_room_is_short(open_text: Open) -> None:
    text = open_text(byte_level_vocabulary("gpt-2").gguf())
    ids, n_ids = (ctypes.c_int32 * 4)(-1, -1, -1, -1), ctypes.c_size_t()
    arguments = (text.tokenizer, b"Hello, Hello", 12, 0, False)
    assert text.library.tokenizer_encode(*arguments, ids, 2, n_ids, ErrorStruct())
    whole = text.encode("Hello, Hello")
    assert n_ids.value == len(whole) > 2
    assert list(ids) == [*whole[:2], -1, -1]
    assert text.library.tokenizer_encode(*arguments, None, 0, n_ids, ErrorStruct())
    assert n_ids.value == len(whole)


# ---- time ---------------------------------------------------------------------------------------

SMALL, LARGE = 50_000, 400_000


def giant_texts(n: int) -> dict[str, bytes]:
    rng = random.Random(4)
    return {
        "one letter": b"a" * n,
        "spaces": b" " * n,
        "newlines": b"\n" * n,
        "digits": b"1234567890" * (n // 10),
        "one word": bytes(rng.choices(b"thelogin", k=n)),
        "random bytes": rng.randbytes(n),
        "invalid": b"\xff" * n,
        "half a special token": b"<|im_star" * (n // 9),
        "spaces and newlines": b"  \n \t" * (n // 5),
        "apostrophes": b"'" * n,
        "prose": ("The quick brown fox. " * (n // 21)).encode(),
    }


@pytest.mark.parametrize("name", giant_texts(0))
@pytest.mark.parametrize("kind", ["llama-bpe", "default", "llama"])
def test_time_grows_with_the_text_and_not_with_its_square(
    open_text: Open, kind: str, name: str
) -> None:
    """Eight times the text may take sixteen times as long; a square would take sixty-four."""
    v = sentencepiece_vocabulary() if kind == "llama" else byte_level_vocabulary(kind)
    text = open_text(v.gguf())

    def seconds(raw: bytes) -> float:
        best = 1e9
        for _ in range(2):
            start = time.process_time()
            text.encode(raw, control=True)
            best = min(best, time.process_time() - start)
        return best

    small, large = seconds(giant_texts(SMALL)[name]), seconds(giant_texts(LARGE)[name])
    assert large < 16 * small + 0.02, (small, large)


def test_a_real_model_opens_fast(open_text: Open, real_models: dict[str, Path]) -> None:
    if not real_models:
        pytest.skip("no real models")
    for name, path in real_models.items():
        start = time.process_time()
        text = open_text(path)
        assert time.process_time() - start < 0.25, name
        assert text.ask("memory_bytes") < 16 << 20, name
