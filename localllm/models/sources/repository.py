"""What a repository's list of files offers: GGUF models, whole or split, and a checkpoint.

Works on names alone, so that every shape a repository takes is one line in a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from localllm.models.quants import PREFERRED, find_quant, has_quant
from localllm.models.sources.split import parse_split

# What a conversion reads; pickled weights (*.bin, *.pt) are never fetched.
CHECKPOINT_FILE = re.compile(
    r"(config|generation_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt"
    r"|tokenizer[\w.-]*\.(json|model)|chat_template[\w.-]*"
    r"|additional_chat_templates/\w[\w.-]*\.jinja|[\w.-]+\.safetensors(\.index\.json)?",
    re.ASCII,
)
WEIGHTS = ".safetensors"


class Candidate(NamedTuple):
    """One model in GGUF: its files in order, and those of them that the list lacks."""

    files: tuple[str, ...]
    missing: tuple[str, ...]
    quant: str | None

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """Of several that fit: whole ones, then near the root, then the plainest name."""
        name = self.files[0]
        return bool(self.missing), name.count("/"), len(name), name


def find_candidates(names: Iterable[str]) -> list[Candidate]:
    """The models among a repository's files; the files of a split one are one model."""
    there = {name for name in names if is_model(name)}
    models: dict[tuple[str, ...], None] = {}
    for name in sorted(there):
        split = parse_split(name)
        models[tuple(split.names) if split else (name,)] = None
    return [
        Candidate(files, tuple(f for f in files if f not in there), find_quant(files[0]))
        for files in models
    ]


def choose(candidates: list[Candidate], quant: str | None) -> tuple[str | None, Candidate] | None:
    """The model of a quant, or without one of the first preferred quant there is."""
    for wanted in [quant] if quant else PREFERRED:
        fitting = [c for c in candidates if has_quant(c.files[0], wanted)]
        if not quant:
            fitting = [c for c in fitting if not c.missing]
        if fitting:
            return wanted, min(fitting, key=lambda c: c.order)
    whole = [c for c in candidates if not c.missing]
    if not quant and whole:
        return None, min(whole, key=lambda c: c.files)
    return None


def find_checkpoint(names: Iterable[str]) -> list[str]:
    """The files that a conversion needs; empty where the repository is no checkpoint."""
    files = sorted(name for name in names if CHECKPOINT_FILE.fullmatch(name))
    weights = [name for name in files if name.endswith(WEIGHTS)]
    # Some publishers add the same weights again under their own program's names.
    usual = [name for name in weights if name.startswith("model")]
    if "config.json" not in files or not weights:
        return []
    return [name for name in files if name not in weights or name in (usual or weights)]


def is_model(file_name: str) -> bool:
    """Image projectors and importance matrices share repositories and suffix with models."""
    base = file_name.rsplit("/", 1)[-1].lower()
    return base.endswith(".gguf") and not re.search(r"mmproj|imatrix", base)
