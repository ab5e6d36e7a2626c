"""A checkpoint made into a GGUF file of any quant, in one pass and without a file between."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import GGUFType, Keys

from localllm import engines
from localllm.convert import mixes
from localllm.convert.chat_templates import template_keys
from localllm.convert.checkpoint import Checkpoint, Config, open_checkpoint
from localllm.convert.families import find_family
from localllm.convert.families.family import Family, Note, common_keys, n_kv_heads
from localllm.convert.gguf_out import Tensor, make_header, sketch_gguf, write_gguf
from localllm.convert.gguf_values import string, u32
from localllm.convert.requantize import QUANTIZATION_VERSION
from localllm.convert.rope_keys import rope_keys
from localllm.convert.tensor_names import EMBEDDING, HEAD
from localllm.convert.tensor_quants import Chooser
from localllm.convert.tokenizer_files import read_tokenizer
from localllm.convert.vocabulary import MAX_TOKENS
from localllm.convert.weights import F8, READABLE, Weight, is_foreign, map_weights
from localllm.errors import IntegrityError
from localllm.models.sources.remote import Progress, Silent


@dataclass(frozen=True)
class Converted:
    """What was written."""

    n_tensors: int
    n_bytes: int


@dataclass(frozen=True)
class Source:
    """A model as it lies in a checkpoint, named and checked; nothing of it has a quant yet."""

    family: Family
    config: Config
    metadata: dict[str, bytes]
    weights: list[Weight]

    def choose(self, mix: str) -> tuple[dict[str, bytes], list[Tensor]]:
        """The metadata and the tensors of a file with the quants of that mix."""
        shape = mixes.Shape(
            arch=self.family.arch,
            n_layers=self.config.count("num_hidden_layers"),
            n_heads=self.config.count("num_attention_heads"),
            n_kv_heads=n_kv_heads(self.config),
            is_tied=all(weight.name != str(HEAD) for weight in self.weights),
        )
        chooser = Chooser(mix, shape)
        file_type = {Keys.General.FILE_TYPE: u32(mixes.MIXES[mix].file_type)}
        return self.metadata | file_type, [
            Tensor(w.name, w.dims, chooser.choose(w.name, w.dims), w.source) for w in self.weights
        ]

    def sketch(self, path: Path, mix: str) -> None:
        """Writes the file with holes for its matrices, from which a run of it can be planned."""
        sketch_gguf(path, *self.choose(mix))


@contextlib.contextmanager
def open_source(folder: Path, name: str | None, note: Note) -> Iterator[Source]:
    """Reads all of a checkpoint but its matrices.

    name: what the model is called; None: the folder's name. note: told what is left out.
    Raises: ModelNotFoundError where the folder is no checkpoint, IntegrityError for one that is
    malformed or unsupported, OSError.
    """
    with open_checkpoint(folder) as checkpoint, tempfile.TemporaryFile() as spare:
        family = find_family(checkpoint.config)
        config = text_config(checkpoint.config).over(family.defaults)
        require_activation(config, family)
        keys, factors = rope_keys(config)
        keys |= common_keys(config) | family.keys(config, note)
        weights = map_weights(checkpoint, family, config, factors, spare)
        note_foreign(checkpoint, family, note)
        metadata = {
            Keys.General.ARCHITECTURE: string(family.arch),
            Keys.General.TYPE: string(GGUFType.MODEL),
            Keys.General.NAME: string(name or folder.resolve().name),
            Keys.General.QUANTIZATION_VERSION: u32(QUANTIZATION_VERSION),
            **{key.format(arch=family.arch): value for key, value in keys.items()},
            **tokenizer_keys(checkpoint, family, weights, note),
        }
        yield Source(family, config, metadata, weights)


def convert_checkpoint(
    folder: Path,
    out: Path,
    quant: str,
    *,
    name: str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Converted:
    """Writes the model in a folder as one GGUF file. quant: a mix.

    Raises: what open_source and write_gguf raise.
    """
    progress = progress if progress is not None else Silent()
    mix = mixes.find_mix(quant)
    with open_source(folder, name, progress.note) as source:
        metadata, tensors = source.choose(mix)
        n_bytes = make_header(metadata, tensors)[1][-1]
        progress.start(out.name, n_bytes)
        n_done = 0

        def advance(done: int, total: int) -> None:
            nonlocal n_done
            progress.advance(n_bytes * done // total - n_done)
            n_done = n_bytes * done // total

        try:
            write_gguf(
                out, metadata, tensors, threads=threads, progress=advance, accept=require_runs
            )
        finally:
            progress.finish()
    return Converted(len(tensors), n_bytes)


def stored_quant(folder: Path) -> str:
    """The floats that most of a checkpoint's weights are stored as; BF16 for 8-bit ones."""
    with open_checkpoint(folder) as checkpoint:
        return own_quant(checkpoint)


def text_config(config: Config) -> Config:
    """The settings of the text model, which lie deeper in those that see images."""
    return Config({**config.given, **config.part("text_config").given}, config.where)


def require_activation(config: Config, family: Family) -> None:
    key = "hidden_activation" if config.find("hidden_activation") is not None else "hidden_act"
    if config.text(key) not in family.activation:
        expected = " or ".join(family.activation)
        raise config.wrong(key, f"{expected}, as {family.arch} has it")


def note_foreign(checkpoint: Checkpoint, family: Family, note: Note) -> None:
    n = sum(is_foreign(name, family) for name in checkpoint.tensors)
    if n:
        note(f"{n} tensors that are not the text model's are left out")


def own_quant(checkpoint: Checkpoint) -> str:
    sizes: Counter[str] = Counter()
    for stored in checkpoint.tensors.values():
        if stored.dtype in READABLE:
            sizes[stored.dtype] += stored.n_bytes
    dtype = sizes.most_common(1)[0][0] if sizes else F8
    return "BF16" if dtype == F8 else dtype


def tokenizer_keys(
    checkpoint: Checkpoint, family: Family, weights: list[Weight], note: Note
) -> dict[str, bytes]:
    embedding = next((w for w in weights if w.name == str(EMBEDDING)), None)
    if embedding is None or len(embedding.dims) != 2:
        raise IntegrityError("the checkpoint has no embedding, model.embed_tokens.weight")
    n_vocab = embedding.dims[1]
    if n_vocab > MAX_TOKENS:
        raise IntegrityError(f"the embedding has {n_vocab} rows, expected at most {MAX_TOKENS}")
    vocabulary = read_tokenizer(checkpoint, n_vocab, note)
    size = {Keys.LLM.VOCAB_SIZE.format(arch=family.arch): u32(n_vocab)}
    return size | vocabulary.metadata() | template_keys(checkpoint)


def require_runs(path: Path) -> None:
    """The engine reads the header as it will read the file: names, shapes, settings, tokens."""
    try:
        engines.open_model(path).close()
    except IntegrityError as error:
        raise IntegrityError(f"the checkpoint makes no model that runs: {error}") from error
