"""tokenizer.model: a SentencePiece model, read from protobuf's wire format.

A message is a row of fields: a varint of (number << 3 | wire type), then a varint, eight bytes, a
length and its bytes, or four bytes. Only the fields a tokenizer is made of are looked at.
Source: sentencepiece_model.proto for the numbers, protobuf's encoding guide for the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from gguf.constants import Keys, TokenType

from localllm.convert.vocabulary import MAX_TOKENS, Vocabulary
from localllm.errors import IntegrityError

MAX_BYTES = 1 << 26

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

# Fields of the model, of a piece, of the trainer's and of the normalizer's settings.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE, TYPE = 1, 2, 3
MODEL_TYPE, UNK_ID, BOS_ID, EOS_ID, PAD_ID = 3, 40, 41, 42, 43
NORMALIZER_NAME, CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_SPACES = 1, 2, 3, 4

KINDS = {1: "Unigram", 2: "BPE", 3: "words", 4: "characters"}
BPE = 2
TYPES = {
    1: TokenType.NORMAL,
    2: TokenType.UNKNOWN,
    3: TokenType.CONTROL,
    4: TokenType.USER_DEFINED,
    5: TokenType.UNUSED,
    6: TokenType.BYTE,
}
SPECIAL_IDS = {
    UNK_ID: (Keys.Tokenizer.UNK_ID, 0),
    BOS_ID: (Keys.Tokenizer.BOS_ID, 1),
    EOS_ID: (Keys.Tokenizer.EOS_ID, 2),
    PAD_ID: (Keys.Tokenizer.PAD_ID, -1),
}

Value = int | bytes


def read_tokenizer_model(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece BPE model. Raises: OSError, IntegrityError."""
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path.name} is larger than any SentencePiece model")
    try:
        return read_model(path.read_bytes(), path.name)
    except (WireError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path.name} is no SentencePiece model: {error}") from error


class WireError(ValueError):
    """The bytes are not what protobuf would have written."""


def read_model(raw: bytes, name: str) -> Vocabulary:
    vocabulary = Vocabulary("llama", scores=[])
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    scores: list[float] = []
    for number, value in fields(raw):
        if number == PIECE:
            text, score, type = read_piece(as_bytes(value), len(scores))
            vocabulary.put(len(scores), text, type)
            scores.append(score)
        elif number == TRAINER:
            trainer = dict(fields(as_bytes(value)))
        elif number == NORMALIZER:
            normalizer = dict(fields(as_bytes(value)))
    if not scores:
        raise WireError("it has no pieces")
    kind = as_int32(trainer.get(MODEL_TYPE, 1))
    if kind != BPE:
        raise IntegrityError(f"{name} is a {KINDS.get(kind, kind)} model, expected BPE")
    require_plain(normalizer, name)
    vocabulary.scores = scores
    for number, (key, default) in SPECIAL_IDS.items():
        id = as_int32(trainer.get(number, default))
        if 0 <= id < len(scores):
            vocabulary.ids[key] = id
    vocabulary.flags[Keys.Tokenizer.ADD_PREFIX] = bool(normalizer.get(ADD_DUMMY_PREFIX, 1))
    return vocabulary


def require_plain(normalizer: dict[int, Value], name: str) -> None:
    """The engine changes no text before it is joined."""
    if normalizer.get(CHARSMAP):
        rule = normalizer.get(NORMALIZER_NAME, b"")
        shown = rule.decode(errors="replace") if isinstance(rule, bytes) else "a map"
        raise IntegrityError(f"{name} normalizes by {shown[:40]!r}, which is not supported")
    if normalizer.get(REMOVE_EXTRA_SPACES, 1):
        raise IntegrityError(f"{name} removes repeated spaces, which is not supported")


def read_piece(raw: bytes, id: int) -> tuple[str, float, TokenType]:
    piece = dict(fields(raw))
    text, score, kind = piece.get(TEXT, b""), piece.get(SCORE, bytes(4)), piece.get(TYPE, 1)
    if not isinstance(score, bytes) or len(score) != FIXED_BYTES[FIXED32]:
        raise WireError(f"the score of piece {id} is no float")
    if kind not in TYPES or id >= MAX_TOKENS:
        raise WireError(f"piece {id} has the type {kind!r:.20}")
    return as_bytes(text).decode(), struct.unpack("<f", score)[0], TYPES[int(kind)]


def as_bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise WireError("a number where bytes are expected")
    return value


def as_int32(value: Value) -> int:
    """Negative numbers are stored as their 64 bits."""
    if isinstance(value, bytes):
        raise WireError("bytes where a number is expected")
    return value - (1 << 64) if value >> 63 else value


def fields(raw: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message in their order: varints as numbers, all else as bytes."""
    at = 0
    while at < len(raw):
        key, at = varint(raw, at)
        wire_type = key & 7
        if wire_type == VARINT:
            number, at = varint(raw, at)
            yield key >> 3, number
            continue
        if wire_type == BYTES:
            n_bytes, at = varint(raw, at)
        elif wire_type in FIXED_BYTES:
            n_bytes = FIXED_BYTES[wire_type]
        else:
            raise WireError(f"a field of wire type {wire_type} at byte {at}")
        if n_bytes > len(raw) - at:
            raise WireError(f"a field of {n_bytes} bytes at byte {at} of {len(raw)}")
        yield key >> 3, raw[at : at + n_bytes]
        at += n_bytes


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, seven bits a byte, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise WireError("a number that does not end")
        number |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return number & (1 << 64) - 1, at
    raise WireError(f"a number of more than ten bytes at byte {at}")
