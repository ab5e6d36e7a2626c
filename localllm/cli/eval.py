"""`eval`: perplexity, divergence from a reference, and multiple choice, of several models."""

from __future__ import annotations

import enum
import functools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli import console
from localllm.cli.flags import (
    CHUNK_TOKENS,
    CacheTypeK,
    CacheTypeV,
    Chunks,
    ChunkTokens,
    Json,
    Offline,
    option,
)
from localllm.cli.watching import CountLine, check_file, read_text
from localllm.errors import UsageError
from localllm.models.resolve import resolve

if TYPE_CHECKING:
    from localllm.engines.base import Engine, ModelFile

Row = dict[str, Any]
TASKS_CTX = 2048  # tokens of the longest question with a choice


class What(enum.StrEnum):
    """What is measured."""

    ppl = "ppl"
    kl = "kl"
    tasks = "tasks"


def command(
    what: Annotated[What, typer.Argument(help="ppl, kl or tasks.")],
    names: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names or files.")],
    text: Annotated[
        Path | None,
        option("-f", "--text", help="The text, or JSONL of tasks."),
    ] = None,
    ctx: ChunkTokens = None,
    chunks: Chunks = None,
    reference: Annotated[
        str | None,
        option("--reference", help="kl: a model, or a file of --save-reference."),
    ] = None,
    save_reference: Annotated[
        Path | None,
        option("--save-reference", help="kl: store the only MODEL's predictions here."),
    ] = None,
    plot: Annotated[
        Path | None, option("--plot", help="kl: draw size against loss.", metavar="F.png")
    ] = None,
    cache_type_k: CacheTypeK = None,
    cache_type_v: CacheTypeV = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Measures how well models predict a text, or what quants lose against their reference."""
    n_ctx, n_chunks = CHUNK_TOKENS if ctx is None else ctx, chunks or 0
    if n_ctx < 4:
        raise UsageError("--ctx must be at least 4")
    if what is not What.kl and (reference is not None or save_reference is not None):
        raise UsageError("--reference and --save-reference apply to kl alone")
    if what is What.kl and (reference is None) == (save_reference is None):
        raise UsageError("kl needs one of --reference and --save-reference")
    if plot is not None:
        check_plot(plot, reference)
    if what is What.tasks and text is None:
        raise UsageError("tasks needs --text with a JSONL file of tasks")
    open_engine = opener(cache_type_k, cache_type_v)
    if save_reference is not None:
        save(names, save_reference, text, n_ctx, n_chunks, open_engine, offline, json)
        return
    if what is What.tasks:
        measure = tasks_of(text, open_engine)
    elif what is What.ppl:
        measure = perplexities_of(text, n_ctx, n_chunks, open_engine)
    else:
        measure = divergences_of(reference or "", text, n_ctx, n_chunks, open_engine, offline)
    paths = {name: resolve(name, offline=offline) for name in names}
    rows = [row_of(name, path, measure) for name, path in paths.items()]
    if plot is not None:
        draw(plot, reference or "", rows)
    if json:
        console.out_json({"what": what.value, "models": rows})
    else:
        out_rows(rows)


# A measurement opens its own engine and returns it, how many tokens it alone ran (0 where its time
# is not its own), and the losses.
Measure = Callable[["ModelFile"], tuple["Engine", int, Row]]
Opener = Callable[["ModelFile", int], "Engine"]  # takes a model and the tokens of its context


def opener(kv_k: str | None, kv_v: str | None) -> Opener:
    """Opens what is measured; a reference beside it keeps F16."""
    from localllm.evaluate import texts

    return functools.partial(texts.open_engine, kv_k=kv_k, kv_v=kv_v)


def row_of(name: str, path: Path, measure: Measure) -> Row:
    """One model: size, memory, speed and what was measured."""
    from localllm import engines
    from localllm.engines.base import EngineOptions

    file = engines.open_model(path)
    begun = time.perf_counter()
    engine, n_tokens, found = measure(file)
    seconds = time.perf_counter() - begun
    plan = file.plan(EngineOptions(n_ctx=engine.n_ctx, kv_k=engine.kv_k, kv_v=engine.kv_v))
    row = {
        "model": name,
        "file_bytes": path.stat().st_size,
        "memory_bytes": plan.weight_bytes + plan.private_bytes,
        "seconds": seconds,
        **found,
    }
    if n_tokens:
        row["tokens_per_second"] = n_tokens / seconds
    engine.close()
    file.close()
    return row


def perplexities_of(text: Path | None, n_ctx: int, n_chunks: int, open_engine: Opener) -> Measure:
    from localllm.evaluate import perplexity, texts

    words, _ = read_text(text)

    def measure(file: ModelFile) -> tuple[Engine, int, Row]:
        cut = texts.cut(file, words, n_ctx, n_chunks)
        engine = open_engine(file, n_ctx)
        with CountLine("chunk") as line:
            found = perplexity.measure(engine, cut, line.show)
        return engine, len(cut) * n_ctx, {"perplexity": asdict(found)}

    return measure


def divergences_of(
    reference: str,
    text: Path | None,
    n_ctx: int,
    n_chunks: int,
    open_engine: Opener,
    offline: bool,
) -> Measure:
    """Against a stored reference, whose chunks are its own, or against a model that runs beside."""
    from localllm import engines
    from localllm.evaluate import divergence, texts
    from localllm.evaluate.reference_file import MAGIC, StoredReference

    def report(engine: Engine, cut: list[list[int]], of: divergence.Reference) -> Row:
        with CountLine("chunk") as line:
            return asdict(divergence.measure(engine, cut, of, line.show))

    path = Path(reference)
    if path.is_file() and path.open("rb").read(len(MAGIC)) == MAGIC:
        if text is not None or n_chunks:
            raise UsageError(
                "a stored reference has its own text: --text and --chunks do not apply"
            )
        stored = StoredReference(path)

        def measure_stored(file: ModelFile) -> tuple[Engine, int, Row]:
            stored.check(int(file.info["n_vocab"]))
            stored.rewind()
            engine = open_engine(file, stored.n_ctx)
            found = report(engine, stored.chunks, stored)
            return engine, len(stored.chunks) * stored.n_ctx, found

        return measure_stored

    words, _ = read_text(text)
    judge = engines.open_model(resolve(reference, offline=offline))

    def measure_beside(file: ModelFile) -> tuple[Engine, int, Row]:
        cut = texts.cut(judge, words, n_ctx, n_chunks)
        if texts.cut(file, words, n_ctx, n_chunks) != cut:
            raise UsageError("the model and its reference read the text as different tokens")
        beside, engine = texts.open_engine(judge, n_ctx), open_engine(file, n_ctx)
        found = report(engine, cut, divergence.ModelReference(beside, cut))
        beside.close()
        return engine, 0, found

    return measure_beside


def tasks_of(path: Path | None, open_engine: Opener) -> Measure:
    from localllm.evaluate import tasks

    assert path is not None, "command() has refused that"
    questions = tasks.read(path)

    def measure(file: ModelFile) -> tuple[Engine, int, Row]:
        engine = open_engine(file, min(TASKS_CTX, int(file.info["n_ctx_train"])))
        with CountLine("task") as line:
            found = tasks.measure(file, engine, questions, line.show)
        return engine, 0, asdict(found)

    return measure


def save(
    names: list[str],
    target: Path,
    text: Path | None,
    n_ctx: int,
    n_chunks: int,
    open_engine: Opener,
    offline: bool,
    json: bool,
) -> None:
    from localllm import engines
    from localllm.evaluate import reference_file, texts

    if len(names) != 1:
        raise UsageError("--save-reference stores the predictions of one model")
    check_file("--save-reference", target)
    words, _ = read_text(text)
    file = engines.open_model(resolve(names[0], offline=offline))
    cut = texts.cut(file, words, n_ctx, n_chunks)
    engine = open_engine(file, n_ctx)
    with CountLine("chunk") as line:
        n_bytes = reference_file.write(target, engine, cut, int(file.info["n_vocab"]), line.show)
    if json:
        console.out_json({"model": names[0], "path": str(target), "file_bytes": n_bytes})
    else:
        console.out(str(target))


def check_plot(path: Path, reference: str | None) -> None:
    from localllm.speed import roofline

    if reference is None:
        raise UsageError("--plot draws what kl --reference measures")
    check_file("--plot", path)
    roofline.check_available(path)


def draw(path: Path, reference: str, rows: list[Row]) -> None:
    from localllm.evaluate import scatter

    points = [
        scatter.Point(Path(row["model"]).name, row["file_bytes"], row["mean"], row["error"])
        for row in rows
    ]
    scatter.draw(path, Path(reference).name, points)


# ---- the table -----------------------------------------------------------------------------------

# A column: its head, and its cell where a row has what it shows.
COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("MODEL", "model", lambda r: str(r["model"])),
    ("SIZE", "file_bytes", lambda r: f"{r['file_bytes'] / 2**20:.0f} MiB"),
    ("MEMORY", "memory_bytes", lambda r: f"{r['memory_bytes'] / 2**20:.0f} MiB"),
    ("TOKENS/S", "tokens_per_second", lambda r: f"{r['tokens_per_second']:.0f}"),
    ("PPL", "perplexity", lambda r: plus(r["perplexity"]["value"], r["perplexity"]["error"])),
    ("KL", "mean", lambda r: plus(r["mean"], r["error"])),
    ("90 %", "p90", lambda r: f"{r['p90']:.4f}"),
    ("99 %", "p99", lambda r: f"{r['p99']:.4f}"),
    ("MAX", "most", lambda r: f"{r['most']:.3f}"),
    ("SAME TOP", "agreement", lambda r: f"{100 * r['agreement']:.2f} %"),
    ("FLIPS", "flips", lambda r: f"{100 * r['flips']:.2f} %"),
    ("ACCURACY", "summed", lambda r: plus(r["summed"], r["summed_error"])),
    ("PER BYTE", "per_byte", lambda r: plus(r["per_byte"], r["per_byte_error"])),
]


def plus(value: float, error: float) -> str:
    return f"{value:.4f} ± {error:.4f}"


def out_rows(rows: list[Row]) -> None:
    columns = [column for column in COLUMNS if column[1] in rows[0]]
    cells = [[cell(row) for _, _, cell in columns] for row in rows]
    console.out_table([head for head, _, _ in columns], cells)
