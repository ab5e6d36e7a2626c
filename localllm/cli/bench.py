"""`bench`: tokens per second of a prompt and of an answer, beside the memory's read rate.

As llama-bench measures: the prompt is random ids fed whole into an empty context, the answer is
single-token steps from an empty context, both behind --depth tokens where asked. One repetition
warms up and does not count; figures are medians. The read rate is taken between the repetitions,
because a machine's memory changes speed while one looks.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm import engines, memory, store
from localllm.cli import console
from localllm.cli.flags import Json, Offline
from localllm.engines.base import Engine, EngineOptions
from localllm.errors import UsageError
from localllm.units import parse_count

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile

SEED = 1
READ_BYTES = 256 * memory.MIB
READ_SECONDS = 0.2


def count(flag: str, help: str, *letters: str) -> Any:
    variable = "LOCALLLM_" + flag.strip("-").replace("-", "_").upper()
    return typer.Option(*letters, flag, envvar=variable, parser=read_count, metavar="N", help=help)


def read_count(value: str | int) -> int:
    """A number as typed, or a default, which is one already."""
    return value if isinstance(value, int) else parse_count(value)


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    prompt: Annotated[int, count("--prompt", "Tokens of prompt; 0 leaves it out.")] = 512,
    gen: Annotated[int, count("--gen", "Tokens of answer; 0 leaves it out.")] = 128,
    depth: Annotated[int, count("--depth", "Tokens already in the context.")] = 0,
    repeat: Annotated[int, count("--repeat", "Repetitions that count.")] = 5,
    threads: Annotated[int, count("--threads", "Threads; 0: usable cores.", "-t")] = 0,
    kernels: Annotated[
        str | None,
        typer.Option("--kernels", envvar="LOCALLLM_KERNELS", help="Force kernels."),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Measures the speed of a model on this machine."""
    if not (prompt or gen) or repeat < 1:
        raise UsageError("nothing to measure: --repeat, and --prompt or --gen, must be positive")
    file = engines.open_model(store.resolve(name, offline=offline))
    asked = EngineOptions(n_ctx=depth + max(prompt, gen), n_threads=threads, kernels=kernels)
    options, _ = memory.choose_options(file, asked, memory.find_limits())
    engine = file.open_engine(options)
    result = measure(file, engine, prompt, gen, depth, repeat)
    report = {
        "model": name,
        "path": str(file.path),
        "n_threads": engine.n_threads,
        "kernels": engine.kernels,
        "depth": depth,
        "n_repeat": repeat,
        "token_bytes": file.info["token_bytes"],
        "results": [result],
    }
    engine.close()
    if json:
        console.out_json(report)
    else:
        print_table(report)


def measure(
    file: ModelFile, engine: Engine, n_prompt: int, n_gen: int, depth: int, repeat: int
) -> dict[str, Any]:
    numbers = random.Random(SEED)
    ids = [numbers.randrange(file.info["n_vocab"]) for _ in range(depth + max(n_prompt, n_gen))]
    before, after = ids[:depth], ids[depth:]
    prompt_seconds, gen_seconds, read_rates = [], [], []
    for turn in range(repeat + 1):
        rate = read_rate(engine.n_threads)
        prompt_time = time_whole(engine, before, after[:n_prompt])
        gen_time = time_single(engine, before, after[:n_gen])
        if turn:
            prompt_seconds.append(prompt_time)
            gen_seconds.append(gen_time)
            read_rates.append(rate)
    gen_tps = n_gen / statistics.median(gen_seconds) if n_gen else None
    read_gbps = statistics.median(read_rates) / 1e9
    return {
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "prompt_tps": n_prompt / statistics.median(prompt_seconds) if n_prompt else None,
        "gen_tps": gen_tps,
        "read_gbps": read_gbps,
        "gen_share_of_read": gen_tps and gen_tps * file.info["token_bytes"] / 1e9 / read_gbps,
        "prompt_seconds": prompt_seconds if n_prompt else [],
        "gen_seconds": gen_seconds if n_gen else [],
    }


def read_rate(n_threads: int) -> float:
    from localllm.engines import native

    return native.read_rate(READ_BYTES, n_threads, READ_SECONDS)


def time_whole(engine: Engine, before: Sequence[int], ids: Sequence[int]) -> float:
    """Seconds to feed `ids` in steps of the engine's batch, behind `before`."""
    session = engine.session()
    feed(engine, session, before)
    started = time.perf_counter()
    feed(engine, session, ids)
    seconds = time.perf_counter() - started
    session.close()
    return seconds


def time_single(engine: Engine, before: Sequence[int], ids: Sequence[int]) -> float:
    """Seconds to feed `ids` one by one, with the logits of each, behind `before`."""
    session = engine.session()
    feed(engine, session, before)
    started = time.perf_counter()
    for id in ids:
        engine.step([(session, [id], 1)])
    seconds = time.perf_counter() - started
    session.close()
    return seconds


def feed(engine: Engine, session: Any, ids: Sequence[int]) -> None:
    for start in range(0, len(ids), engine.n_batch):
        engine.step([(session, ids[start : start + engine.n_batch], 1)])


def print_table(report: dict[str, Any]) -> None:
    console.out(f"{report['model']}: {report['n_threads']} threads, {report['kernels']} kernels")
    rows = []
    for result in report["results"]:
        for label, n, tps in (
            ("prompt", result["n_prompt"], result["prompt_tps"]),
            ("answer", result["n_gen"], result["gen_tps"]),
        ):
            if n:
                rows.append([label, str(n), str(report["depth"]), f"{tps:.1f}"])
        console.out_table(["what", "tokens", "depth", "tokens/s"], rows)
        share = result["gen_share_of_read"]
        console.out(
            f"memory reads {result['read_gbps']:.1f} GB/s"
            + (f"; the answer uses {share:.0%} of it" if share else "")
        )
