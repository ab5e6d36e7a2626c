"""`imatrix`: which inputs of a model's matrices matter, measured over a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.cli import console
from localllm.cli.flags import CHUNK_TOKENS, Chunks, ChunkTokens, Json, Offline, option
from localllm.cli.watching import CountLine, check_file, read_text
from localllm.errors import UsageError
from localllm.models.resolve import resolve


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    text: Annotated[
        Path | None,
        option("-f", "--text", help="UTF-8 text [default: ours]."),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "-o",
            "--out",
            help="The file to write [default: MODEL's name .imatrix.gguf]",
        ),
    ] = None,
    ctx: ChunkTokens = None,
    chunks: Chunks = None,
    merge: Annotated[
        list[Path] | None,
        option("--merge", help="Add what this file holds. May be repeated."),
    ] = None,
    output: Annotated[
        bool,
        option("--output-weight", help="Measure the output matrix too."),
    ] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Writes an importance matrix, as `quantize --imatrix` and llama.cpp read it."""
    from localllm import engines
    from localllm.evaluate import imatrix, imatrix_file, texts

    n_ctx, n_chunks = CHUNK_TOKENS if ctx is None else ctx, chunks or 0
    if n_ctx < 2:
        raise UsageError("--ctx must be at least 2")
    words, dataset = read_text(text)
    others = [imatrix_file.load(path) for path in merge or []]
    path = resolve(name, offline=offline)
    target = out or Path(path.name.removesuffix(".gguf") + ".imatrix.gguf")
    check_file("-o", target)
    file = engines.open_model(path)
    cut = texts.cut(file, words, n_ctx, n_chunks)
    engine = texts.open_engine(file, n_ctx, beside=[imatrix.memory(file)])
    with CountLine("chunk") as line:
        found = imatrix.collect(
            engine, cut, dataset=dataset, with_output=output, progress=line.show
        )
    imatrix_file.write(target, imatrix_file.merge([found, *others]))
    n_tokens = len(cut) * n_ctx
    if json:
        console.out_json(
            {
                "model": name,
                "path": str(target),
                "n_chunks": len(cut),
                "n_tokens": n_tokens,
                "n_matrices": len(found.sums),
            }
        )
    else:
        console.note(f"{len(found.sums)} matrices over {n_tokens} tokens of {dataset}")
        console.out(str(target))
