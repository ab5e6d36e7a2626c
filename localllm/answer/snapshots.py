"""A conversation in a file, with the KV of what was computed of it, so that it goes on at once.

Behind a magic word and a length comes JSON: the messages, the tokens that the KV is of, and the key
of their last block, which tells the model and the engine's arithmetic too. Then the blocks, each
behind its CRC-32 and its length: early ones lack what layers with a window have given back. A file
that is JSON with messages alone is a conversation as well; and where the KV is another model's or
damaged, or has other bits than this engine computes, what is missing is computed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.answer.prefixes import BLOCK_TOKENS, Note, fingerprint, keys_of
from localllm.errors import IntegrityError

if TYPE_CHECKING:
    from localllm.answer.generate import Timeline
    from localllm.engines.base import Engine, ModelFile

SCHEMA_VERSION = 1
MAGIC = b"llsnap\2\0"
LENGTH, BLOCK_HEAD = struct.Struct("<Q"), struct.Struct("<IQ")  # CRC-32 and bytes of a block
MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True)
class Snapshot:
    """What a file holds. ids: those its KV is of; kv_at: where that begins."""

    path: Path
    messages: list[dict[str, str]]
    ids: list[int]
    key: str
    kv_at: int


def save(
    path: Path,
    messages: Sequence[Mapping[str, Any]],
    file: ModelFile,
    engine: Engine,
    timeline: Timeline,
) -> int:
    """Writes a conversation, and the whole blocks of what is computed of it; returns how many
    tokens that are. Raises: OSError."""
    ids = timeline.ids
    keys = keys_of(fingerprint(file, engine), ids)
    kept = ids[: len(keys) * BLOCK_TOKENS]
    document = {
        "schema_version": SCHEMA_VERSION,
        "messages": [dict(message) for message in messages],
        "ids": kept,
        "key": keys[-1].hex() if keys else "",
    }
    text = json.dumps(document).encode()
    partial = path.with_name(f".{path.name}.part")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(MAGIC + LENGTH.pack(len(text)) + text)
            for i in range(len(keys)):
                kv = timeline.session.get_block(i)
                out.write(BLOCK_HEAD.pack(zlib.crc32(kv), len(kv)))
                out.write(kv)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return len(kept)


def read(path: Path) -> Snapshot:
    """What a file holds, without its KV. Raises: OSError, IntegrityError."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + LENGTH.size)
        if start.startswith(MAGIC) and len(start) == len(MAGIC) + LENGTH.size:
            n_bytes = min(LENGTH.unpack(start[len(MAGIC) :])[0], MAX_JSON_BYTES)
            text = file.read(n_bytes)
        else:
            text = start + file.read(MAX_JSON_BYTES)
        kv_at = file.tell()
    try:
        document = json.loads(text)
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in document["messages"]
        ]
        ids, key = document.get("ids", []), str(document.get("key", ""))
        if not all(type(id) is int and 0 <= id < 1 << 31 for id in ids):
            raise ValueError("ids that are none")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{str(path)!r} does not hold a saved conversation") from error
    return Snapshot(path, messages, ids, key, kv_at)


def blocks(
    snapshot: Snapshot, file: ModelFile, engine: Engine, note: Note
) -> Iterator[tuple[list[int], bytes]]:
    """The tokens and the KV of a snapshot, block by block, as far as it is this model's and whole,
    and of the types that this engine keeps. Raises: OSError."""
    keys = keys_of(fingerprint(file, engine), snapshot.ids)
    if not keys:
        return
    if keys[-1].hex() != snapshot.key:
        note(
            f"{str(snapshot.path)!r} was made by another model or KV type, or with another "
            "arithmetic; it is computed again"
        )
        return
    with snapshot.path.open("rb") as opened:
        opened.seek(snapshot.kv_at)
        for start in range(0, len(keys) * BLOCK_TOKENS, BLOCK_TOKENS):
            head = opened.read(BLOCK_HEAD.size).ljust(BLOCK_HEAD.size, b"\0")
            checksum, n_bytes = BLOCK_HEAD.unpack(head)
            kv = opened.read(min(n_bytes, engine.block_bytes))
            if not kv or len(kv) != n_bytes or zlib.crc32(kv) != checksum:
                note(f"{str(snapshot.path)!r} is damaged; what is missing is computed again")
                return
            yield snapshot.ids[start : start + BLOCK_TOKENS], kv
