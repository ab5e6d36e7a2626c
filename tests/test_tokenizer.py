"""Tokenizers against Hugging Face's `tokenizers`, llama.cpp's vectors, and the clock.

A small vocabulary built here keeps the tests real where no model and no vocabulary file is at hand.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import processor_time
import pytest
from native_structs import Error
from tokenizer_cases import (
    CONTROL,
    FAMILIES,
    LETTERS,
    NORMAL,
    SCRIPTS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Judge,
    Vocabulary,
    byte_level_vocabulary,
    read_vocabulary,
    sentencepiece_vocabulary,
    spelled,
    strings,
)

FORMAT, UNSUPPORTED = 3, 4  # ll_error_code


# ---- the tokenizer under test -------------------------------------------------------------------


class TokenizerError(Exception):
    def __init__(self, error: Error) -> None:
        super().__init__(error.message.decode(errors="replace"))
        self.code = error.code


class Text:
    """One gguf and its tokenizer, with Python's types."""

    def __init__(self, library: ctypes.CDLL, source: Path | bytes) -> None:
        self.library = library
        self.gguf = self.tokenizer = None
        error = Error()
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
        ids, n_ids, error = (ctypes.c_int32 * (len(raw) + 16))(), ctypes.c_size_t(), Error()
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
    error = ctypes.POINTER(Error)
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


# ---- equality -----------------------------------------------------------------------------------


def test_the_strings_are_many_and_reach_every_script() -> None:
    generated = list(strings(1, 2000))
    assert len(generated) == 2000
    assert len(set(generated)) > 1990
    assert set("".join(SCRIPTS)) <= set("".join(generated))


def compare(text: Text, v: Vocabulary, n: int) -> None:
    judge = Judge(v)
    for string in strings(1, n):
        assert text.encode(string) == judge.encode(string), repr(string)


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
    assert ends([], {"eos_token_id": 5, "eot_token_id": 6}) == {
        "<|im_end|>",
        LETTERS[5],
        LETTERS[6],
    }
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
    assert text.library.tokenizer_encode(*arguments, ids, 2, n_ids, Error())
    whole = text.encode("Hello, Hello")
    assert n_ids.value == len(whole) > 2
    assert list(ids) == [*whole[:2], -1, -1]
    assert text.library.tokenizer_encode(*arguments, None, 0, n_ids, Error())
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


@pytest.mark.clock
@pytest.mark.parametrize("name", giant_texts(0))
@pytest.mark.parametrize("kind", ["llama-bpe", "default", "llama"])
def test_time_grows_with_the_text_and_not_with_its_square(
    open_text: Open, kind: str, name: str
) -> None:
    """Eight times the text may take sixteen times as long; a square would take sixty-four."""
    v = sentencepiece_vocabulary() if kind == "llama" else byte_level_vocabulary(kind)
    text = open_text(v.gguf())

    def turns(raw: bytes) -> float:
        return processor_time.turns(lambda: text.encode(raw, control=True), repeats=2)

    small, large = turns(giant_texts(SMALL)[name]), turns(giant_texts(LARGE)[name])
    assert large < 16 * small + 20, (small, large)


@pytest.mark.clock
def test_a_real_model_opens_fast(open_text: Open, real_models: dict[str, Path]) -> None:
    if not real_models:
        pytest.skip("no real models")
    for name, path in real_models.items():
        assert processor_time.turns(partial(open_text, path)) < 250, name
        assert open_text(path).ask("memory_bytes") < 16 << 20, name
