"""What would fit instead, each as the command to type, the one that loses least first.

A lever is a row: a shorter context, smaller keys and values, another quant of the same model that
is here, one that the catalog knows, one that this file can be made into, fewer threads. Each is
judged exactly as the run itself would be, by the engine's plan.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from localllm import catalog, engines, quants, store
from localllm.engines.base import EngineOptions, ModelFile
from localllm.errors import LocalLLMError
from localllm.memory import Limit
from localllm.need import need_of
from localllm.sources.split import model_files
from localllm.usage import Usage
from localllm.verdict import Verdict, find_largest_context, judge, settle_options

MOST = 3
SMALLER_KV = "q8_0"
# What is left of a limit, and what a process takes, move a little from one command to the next; an
# alternative fits with this much to spare, so that it still does when it is typed.
SPARE_SHARE = 0.01
SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Alternative:
    """A run that fits. path: the model's file, None where it is not on this machine yet."""

    command: str
    change: str
    options: EngineOptions
    verdict: Verdict
    path: Path | None


@dataclass(frozen=True)
class Refused:
    """The run that does not fit. name: of the model, as it was typed; ctx: as it was, 0: not."""

    name: str
    file: ModelFile
    options: EngineOptions
    ctx: int
    limits: list[Limit]
    before: Usage | None = None

    @property
    def weight_bytes(self) -> int:
        return int(self.file.info["weight_bytes"])

    def command(self, name: str | None = None, *flags: str) -> str:
        """The command that runs a model, with the context and the threads that were typed."""
        typed = {"-c": self.ctx, "-t": self.options.n_threads}
        kept = [(flag, str(n)) for flag, n in typed.items() if n and flag not in flags]
        return shlex.join(["localllm", "run", name or self.name, *chain(*kept), *flags])


Lever = Callable[[Refused], Iterator[Alternative]]


def find(refused: Refused, levers: Sequence[Lever] | None = None) -> list[Alternative]:
    """The first few runs that fit, best first. levers: None: all there are for a file."""
    refused = replace(refused, limits=[with_spare(limit) for limit in refused.limits])
    found = chain.from_iterable(lever(refused) for lever in levers or LEVERS)
    return list(islice(found, MOST))


def with_spare(limit: Limit) -> Limit:
    spare = max(SPARE_BYTES, int(limit.left_bytes * SPARE_SHARE))
    return replace(limit, left_bytes=limit.left_bytes - spare)


def shorter_context(refused: Refused) -> Iterator[Alternative]:
    largest = find_largest_context(refused.file, refused.options, refused.limits, refused.before)
    if largest:
        change = f"a context of {largest} instead of {refused.options.n_ctx}"
        shorter = replace(refused.options, n_ctx=largest)
        yield from fitting(refused, change, ("-c", str(largest)), shorter)


def smaller_kv(refused: Refused) -> Iterator[Alternative]:
    quantized = replace(refused.options, kv_k=SMALLER_KV, kv_v=SMALLER_KV)
    flags = ("--cache-type-k", SMALLER_KV, "--cache-type-v", SMALLER_KV)
    yield from fitting(refused, f"keys and values stored as {SMALLER_KV}", flags, quantized)


def fewer_threads(refused: Refused) -> Iterator[Alternative]:
    alone = replace(refused.options, n_threads=1)
    yield from fitting(refused, "one thread, which is slower", ("-t", "1"), alone)


def fitting(
    refused: Refused, change: str, flags: tuple[str, ...], options: EngineOptions
) -> Iterator[Alternative]:
    """The same file with other options, if that fits."""
    verdict = judge(need_of(refused.file, options, refused.before), refused.limits)
    if verdict.fits:
        command = refused.command(None, *flags)
        yield Alternative(command, change, options, verdict, refused.file.path)


def smaller_quants_here(refused: Refused) -> Iterator[Alternative]:
    """Files of the same model with smaller weights: in the store, or beside it."""
    own = refused.file.path
    names = {model.path: name for name, model in store.stored_models().items()}
    beside = (path for path in own.parent.glob("*.gguf") if path not in names)
    candidates = [*names, *beside] if own.parent.is_dir() else list(names)
    alike = [path for path in candidates if is_same_model(path.name, own.name) and path != own]
    for path in sorted(alike, key=lambda path: rank_of(path.name)):
        try:
            file = engines.open_model(path)
        except (LocalLLMError, OSError):
            continue
        try:
            if file.info["weight_bytes"] >= refused.weight_bytes:
                continue
            wanted = replace(refused.options, n_ctx=refused.ctx)
            options, verdict = settle_options(file, wanted, refused.limits, refused.before)
        finally:
            file.close()
        if verdict.fits:
            quant = quants.find_quant(path.name)
            command = refused.command(names.get(path, str(path)))
            change = f"{quant}, which is here" if quant else f"{path.name}, which is here"
            yield Alternative(command, change, options, verdict, path)


def is_same_model(one: str, other: str) -> bool:
    """Whether two file names differ in nothing but the quant."""
    return quants.without_quant(one) == quants.without_quant(other)


def rank_of(name: str) -> tuple[int, bool]:
    quant = quants.find_quant(name)
    return quants.rank(quant) if quant else (len(quants.QUANTS), False)


def smaller_quants_known(refused: Refused) -> Iterator[Alternative]:
    """Models of the catalog that are not here and are this one with smaller weights."""
    here = store.stored_models()
    for entry in catalog.read().values():
        n_bytes = entry.n_bytes
        if entry.name in here or n_bytes is None or n_bytes >= refused.weight_bytes:
            continue
        if not is_same_model(entry.file, refused.file.path.name):
            continue
        change = f"{quants.find_quant(entry.file)}, which the catalog knows"
        yield from with_weights(refused, n_bytes, refused.command(entry.name), change)


def with_weights(
    refused: Refused, n_bytes: int, command: str, change: str
) -> Iterator[Alternative]:
    """The same model with weights of so many bytes, which are not here, if that fits."""
    need = need_of(refused.file, refused.options, refused.before).with_weights(n_bytes)
    verdict = judge(need, refused.limits)
    if verdict.fits:
        yield Alternative(command, change, refused.options, verdict, None)


def quants_to_make(refused: Refused) -> Iterator[Alternative]:
    """The best quant that this file can be written with and that then fits."""
    if not all(part.is_file() for part in model_files(refused.file.path)):
        return
    asked = f" -c {refused.ctx}" if refused.ctx else ""
    made = (
        with_weights(
            refused,
            n_bytes,
            f'localllm run "$({quantize_command(refused.file.path, quant)})"{asked}',
            f"{quant}, made of this file",
        )
        for quant, n_bytes in makeable(refused.file)
    )
    yield from islice(chain.from_iterable(made), 1)


def quantize_command(path: Path, quant: str) -> str:
    return shlex.join(["localllm", "quantize", str(path), quant])


def makeable(file: ModelFile) -> Iterator[tuple[str, int]]:
    """The quants a file can be written with that make it smaller, and the bytes of its weights."""
    own = int(file.info["weight_bytes"])
    return (made for made in all_quants(file) if made[1] < own)


def all_quants(file: ModelFile) -> Iterator[tuple[str, int]]:
    """Every quant a model can be written with, the best first, and the bytes of its weights."""
    from localllm.convert import mixes, requantize

    for row in quants.QUANTS:
        if row.name in mixes.MIXES:
            yield row.name, sum(choice.n_bytes for choice in requantize.choose(file, row.name))


LEVERS: tuple[Lever, ...] = (
    shorter_context,
    smaller_kv,
    smaller_quants_here,
    smaller_quants_known,
    quants_to_make,
    fewer_threads,
)
