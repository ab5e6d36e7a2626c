# ruff: noqa: RUF001 (the scripts of the world look alike)
"""What tokenizers are tested with: vocabularies, the judge built from one, and generated strings.

The judge is Hugging Face's `tokenizers`, given a file's own vocabulary, its merges or scores, and
the regular expressions of its pre-tokenizer as the family publishes them. The strings are the same
for the same seed.
"""

from __future__ import annotations

import mmap
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_files import PACKING, ValueType, build, kv, kv_array
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token_type


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
    special = {
        "<|im_start|>": CONTROL,
        "<|im_end|>": CONTROL,
        "<unk>": UNKNOWN,
        "[user]": USER_DEFINED,
    }
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
        merges += [(-v.scores[token], a, b) for a, b in parts if a in vocab and b in vocab]
    merges.sort(key=lambda m: m[0])
    pairs = [(a, b) for _, a, b in merges]
    return Tokenizer(BPE(vocab, pairs, byte_fallback=True, fuse_unk=False))


class Judge:
    """Cuts out user-defined tokens, leftmost and longest; `tokenizers` has what is between them."""

    def __init__(self, v: Vocabulary) -> None:
        self.byte_level = v.model == "gpt2"
        self.tokenizer = judge_of_bpe(v) if self.byte_level else judge_of_spm(v)
        self.prefix = "▁" if (v.flags or {}).get("add_space_prefix", True) else ""
        kinds = v.types or [NORMAL] * len(v.tokens)
        pairs = zip(v.tokens, kinds, strict=True)
        self.cut = {t: i for i, (t, kind) in enumerate(pairs) if t and kind == USER_DEFINED}
        longest_first = sorted(self.cut, key=len, reverse=True)
        self.pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        if not self.cut:
            return self.fragment(text)
        ids: list[int] = []
        for i, part in enumerate(self.pattern.split(text)):
            ids += [self.cut[part]] if i % 2 else self.fragment(part)
        return ids

    def fragment(self, text: str) -> list[int]:
        if not self.byte_level and text:
            text = self.prefix + text.replace(" ", "▁")
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


# ---- strings ------------------------------------------------------------------------------------

SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "etaoinshrdlu",
    "éèêëàâäöüßñçøåæœÿ", "абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГД", "αβγδεζηθικλμνξοπρστυφχψωΆΈ",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي\u064b\u0651", "אבגדהוזחטיכלמנסעפצקרשת\u05b0\u05bc",
    "अआइईउऊकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह\u093e\u093f\u094d",
    "กขคงจฉชซญดตถทธนบปพฟมยรลวสหอะา\u0e34\u0e35\u0e39\u0e48\u0e49",
    "日本語中文漢字学校東京北京人大小山川", "가나다라마바사아자차카타파하한국어",
    "ひらがなカタカナあいうえおー",
    "🙂😀👍🏽👩\u200d💻👨\u200d👩\u200d👧🇫🇷❤\ufe0f", "a\u0301e\u0308o\u0302n\u0303u\u030a",
    "0123456789", "٠١٢٣४५६七八½²Ⅷ", " \t\n\r\u00a0\u2003\u3000\u2028\u0085\u000b\u000c",
    "\x00\x01\x04\x06\x07\x13\x1b\x1f\x7f\u0080\u009f\u200b\ufeff",
    ".,;:!?'\"()[]{}<>@#$%^&*-_=+/\\|~`", "«»“”‘’…—–·¿¡§¶†‡•€£¥₹°±×÷∑∞≠≤→⇒",
    "\u0f00\u1200\u13a0\u1780\u10a0\u0531\U00010400\U0001d400\U000e0001",
]  # fmt: skip
SNIPPETS = [
    "I'm you're we'll he'd it's don't they've DON'T I'M",
    "def f(x: int) -> list[str]:\n    return [str(i) for i in range(x)]\n\n",
    "for (int i = 0; i < n; i++) { a[i] += 1.5e-3; }\r\n\r\n",
    "SELECT * FROM t WHERE a = 'x' AND b >= 10;",
    "https://example.org/a/b?c=d&e=%20f#g",
    "1,234,567.89 + 0x7fff = 3.14159",
    "HelloWorld helloWorld snake_case_name CONST_NAME",
    "   leading and trailing   ",
    "\n\n\n",
    "\t\tif x:\n\t\t\tpass\n",
    "a  b   c    d     e",
    "Привет, мир! 你好，世界！ こんにちは。",
    '{"key": [1, 2, {"n": null}]}',
    "!!!???...",
]


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
