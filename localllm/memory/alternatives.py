"""What would fit instead, each as the command to type, the one that loses least first.

A lever is a row: a shorter context, smaller keys and values, another quant of the same model that
is here, one that the catalog knows, one that this file can be made into, fewer threads. Each is
judged exactly as the run itself would be, by the engine's plan; where no context was asked for,
with the largest that fits, which is what the command takes when it is typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from localllm import engines
from localllm.convert.mixes import can_make
from localllm.engines.base import EngineOptions, ModelFile
from localllm.errors import LocalLLMError
from localllm.memory.kv_types import PAIRS
from localllm.memory.limits import Limit
from localllm.memory.need import Need, need_of
from localllm.memory.process import Usage
from localllm.memory.verdict import Verdict, find_largest, settle, settle_options
from localllm.models import catalog, quants, store
from localllm.models.sources.split import model_files

MOST = 3
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

    def need(self, options: EngineOptions) -> Need:
        """Of this file with other options."""
        return need_of(self.file, options, self.before)

    @property
    def typed(self) -> EngineOptions:
        """The options as they were typed: without a context where none was."""
        return replace(self.options, n_ctx=self.ctx)

    def command(self, name: str | None = None, options: EngineOptions | None = None) -> str:
        """The command that runs a model with these options; None: as they were typed."""
        return run_command(shlex.quote(name or self.name), options or self.typed)


def run_command(argument: str, options: EngineOptions) -> str:
    """`localllm run` of what a shell reads as `argument`, with every option that is set."""
    settings = {
        "-c": options.n_ctx,
        "-t": options.n_threads,
        "--cache-type-k": options.kv_k,
        "--cache-type-v": options.kv_v,
    }
    flags = chain(*((flag, str(value)) for flag, value in settings.items() if value))
    return " ".join(["localllm run", argument, *map(shlex.quote, flags)])


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
    largest = find_largest(refused.need, refused.options, refused.limits)
    if largest:
        change = f"a context of {largest} instead of {refused.options.n_ctx}"
        yield from fitting(refused, change, replace(refused.options, n_ctx=largest))


def smaller_kv(refused: Refused) -> Iterator[Alternative]:
    """The finest pair of types that fits; one that is no smaller than what was asked does not."""
    fits = (
        offer
        for pair in PAIRS
        for offer in fitting(
            refused,
            f"keys and values stored as {pair.describe()}",
            replace(refused.typed, kv_k=pair.k, kv_v=pair.v),
        )
    )
    yield from islice(fits, 1)


def fewer_threads(refused: Refused) -> Iterator[Alternative]:
    yield from fitting(refused, "one thread, which is slower", replace(refused.typed, n_threads=1))


def fitting(refused: Refused, change: str, asked: EngineOptions) -> Iterator[Alternative]:
    """The same file with other options, if that fits."""
    options, verdict = settle_options(refused.file, asked, refused.limits, refused.before)
    if verdict.fits:
        told = change + tell_context(refused, asked, options)
        command = refused.command(None, asked)
        yield Alternative(command, told, options, verdict, refused.file.path)


def tell_context(refused: Refused, asked: EngineOptions, settled: EngineOptions) -> str:
    """What a change says of a context that nobody typed and that is not the model's own."""
    is_own = settled.n_ctx == refused.file.info["n_ctx_train"]
    return "" if asked.n_ctx or is_own else f", with a context of {settled.n_ctx}"


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
            options, verdict = settle_options(file, refused.typed, refused.limits, refused.before)
        finally:
            file.close()
        if verdict.fits:
            quant = quants.find_quant(path.name)
            command = refused.command(names.get(path, str(path)))
            change = f"{quant or path.name}, which is here"
            change += tell_context(refused, refused.typed, options)
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
        yield from with_weights(refused, n_bytes, shlex.quote(entry.name), change)


def with_weights(
    refused: Refused, n_bytes: int, argument: str, change: str
) -> Iterator[Alternative]:
    """The same model with weights of so many bytes, which are not here, if that fits.

    argument: what `localllm run` takes for it, as a shell reads it.
    """

    def needs(options: EngineOptions) -> Need:
        return refused.need(options).with_weights(n_bytes)

    own_ctx = int(refused.file.info["n_ctx_train"])
    options, verdict = settle(needs, own_ctx, refused.typed, refused.limits)
    if verdict.fits:
        told = change + tell_context(refused, refused.typed, options)
        yield Alternative(run_command(argument, refused.typed), told, options, verdict, None)


def quants_to_make(refused: Refused) -> Iterator[Alternative]:
    """The best quant that this file can be written with and that then fits."""
    path = refused.file.path
    if not all(part.is_file() for part in model_files(path)):
        return
    made = (
        with_weights(refused, n_bytes, made_argument(path, quant), f"{quant}, made of this file")
        for quant, n_bytes in makeable(refused.file)
        if not is_made(path, quant)
    )
    yield from islice(chain.from_iterable(made), 1)


def made_argument(path: Path, quant: str) -> str:
    """What runs a quant of a file, which is made first where that has not been done: the last line
    of `quantize` is the path."""
    from localllm.convert import requantize

    if is_made(path, quant):
        return shlex.quote(str(requantize.beside(path, quant)))
    return f'"$({shlex.join(["localllm", "quantize", str(path), quant])})"'


def is_made(path: Path, quant: str) -> bool:
    from localllm.convert import requantize

    return requantize.beside(path, quant).exists()


def makeable(file: ModelFile) -> Iterator[tuple[str, int]]:
    """The quants a file can be written with that make it smaller, and the bytes of its weights."""
    own = int(file.info["weight_bytes"])
    return (made for made in all_quants(file) if made[1] < own)


def all_quants(file: ModelFile) -> Iterator[tuple[str, int]]:
    """Every quant a model can be written with, the best first, and the bytes of its weights."""
    from localllm.convert import requantize

    for quant in filter(can_make, quants.BY_NAME):
        yield quant, sum(choice.n_bytes for choice in requantize.choose(file, quant))


LEVERS: tuple[Lever, ...] = (
    shorter_context,
    smaller_kv,
    smaller_quants_here,
    smaller_quants_known,
    quants_to_make,
    fewer_threads,
)
