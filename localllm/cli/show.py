"""`localllm show`: what one model is, from its file and from its manifest."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from localllm import engines
from localllm.cli import console
from localllm.cli.flags import Json, option
from localllm.engines.base import ModelFile
from localllm.models import store
from localllm.models.names import find_stored
from localllm.models.resolve import resolve
from localllm.models.sources import Local
from localllm.models.sources.split import model_files
from localllm.units import format_bytes

SHAPE_KEYS = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "dim", "ffn_dim", "n_vocab")
MAX_VALUE_CHARS = 100
MAX_ELEMENTS = 64


def command(
    model: Annotated[str, typer.Argument(help="A model that is here, or a path to a GGUF file.")],
    metadata: Annotated[
        bool,
        option("--metadata", help="Every key of the file."),
    ] = False,
    tensors: Annotated[
        bool,
        option("--tensors", help="Every tensor of the file."),
    ] = False,
    template: Annotated[
        bool,
        option("--template", help="The chat template alone."),
    ] = False,
    json: Json = False,
) -> None:
    """Describe one model: its family, size, context, quants and where it came from."""
    stored = find(model)
    file = engines.open_model(stored.path)
    try:
        if json:
            console.out_json(describe(stored, file))
        elif template:
            console.out(file.meta("tokenizer.chat_template") or "")
        else:
            print_summary(stored, file)
            if metadata:
                print_metadata(file)
            if tensors:
                print_tensors(file)
    finally:
        file.close()


def find(name: str) -> store.Stored:
    if Local.parse(name) is None:
        stored = find_stored(name)
        if stored is not None:
            return stored
    path = resolve(name, pull=False)
    n_bytes = sum(file.stat().st_size for file in model_files(path) if file.is_file())
    return store.Stored(path.stem, path, n_bytes)


def describe(stored: store.Stored, file: ModelFile) -> dict[str, Any]:
    """The JSON of a model: the manifest, the engine's view, keys without long lists, tensors."""
    return {
        **stored.to_json(),
        "system": store.find_system(stored.path),
        "info": file.info,
        "chat_template": file.meta("tokenizer.chat_template"),
        "metadata": [
            {"key": key, "type": kind, "n_elements": n, "value": short_value(file, key, n)}
            for key, kind, n in file.meta_keys()
        ],
        "tensors": [
            {"name": t.name, "quant": t.quant, "shape": list(t.shape), "n_bytes": t.n_bytes}
            for t in file.tensors()
        ],
    }


def short_value(file: ModelFile, key: str, n_elements: int) -> Any:
    """A value; a vocabulary is left out, its type and count say enough."""
    value = file.meta(key) if n_elements <= MAX_ELEMENTS else None
    # JSON has no infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_summary(stored: store.Stored, file: ModelFile) -> None:
    info = file.info
    quants: dict[str, int] = {}
    for tensor in file.tensors():
        quants[tensor.quant] = quants.get(tensor.quant, 0) + tensor.n_bytes
    shares = sorted(quants.items(), key=lambda item: -item[1])
    template = file.meta("tokenizer.chat_template")
    system = store.find_system(stored.path)
    hashes = [part.sha256 for part in stored.parts] or [stored.sha256]
    rows = [
        ("name", stored.name),
        ("file", str(stored.path)),
        ("size", format_bytes(stored.n_bytes)),
        ("family", info["arch"]),
        ("parameters", f"{info['n_params'] / 1e6:.1f} million"),
        ("context", f"{info['n_ctx_train']} tokens"),
        ("shape", ", ".join(f"{key} {info[key]}" for key in SHAPE_KEYS)),
        ("quants", ", ".join(f"{quant} {format_bytes(n)}" for quant, n in shares)),
        ("tokenizer", info["tokenizer"]),
        ("chat", "its own template" if template else "no template: it continues text"),
        ("system", "the template's own" if system is None else system),
        ("licence", stored.licence or file.meta("general.license") or "not stated"),
        ("from", stored.origin or "not pulled by localllm"),
        ("sha256", ", ".join(filter(None, hashes)) or "not recorded"),
        ("pulled", stored.pulled_at or "not recorded"),
    ]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        console.out(f"{label.ljust(width)}  {value}")


def print_metadata(file: ModelFile) -> None:
    console.out("")
    rows = []
    for key, kind, n_elements in file.meta_keys():
        value = short_value(file, key, n_elements)
        text = f"{n_elements} elements" if value is None else repr(value)
        rows.append((key, kind, text[:MAX_VALUE_CHARS]))
    console.out_table(("KEY", "TYPE", "VALUE"), rows)


def print_tensors(file: ModelFile) -> None:
    console.out("")
    rows = [
        (t.name, t.quant, " x ".join(map(str, t.shape)), format_bytes(t.n_bytes))
        for t in file.tensors()
    ]
    console.out_table(("TENSOR", "QUANT", "SHAPE", "SIZE"), rows)
