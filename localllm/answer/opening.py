"""The one way to a model: its file is found, the engine's plan held against the memory there is,
and only then the engine opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from localllm import engines
from localllm.answer.model import Model
from localllm.engines.base import ModelFile
from localllm.engines.options import EngineOptions
from localllm.errors import DoesNotFitError, UsageError
from localllm.memory import process
from localllm.memory.limits import find_limits
from localllm.memory.verdict import settle_options
from localllm.models.resolve import resolve

if TYPE_CHECKING:
    from localllm.memory.alternatives import Alternative


def load(
    name_or_path: str | os.PathLike[str],
    *,
    ctx: int | None = None,
    threads: int | None = None,
    budget: int | None = None,
    kernels: str | None = None,
    kv_k: str | None = None,
    kv_v: str | None = None,
    adapt: bool = False,
    allow_oversubscribe: bool = False,
    prefixes: bool = False,
) -> Model:
    """Opens a model by its catalog name, address or path, fetching it where it is not here yet.

    ctx: tokens of context; None: the model's own, or the largest that fits.
    threads: None: the usable cores. budget: bytes of memory the process may use.
    kernels: "scalar", "avx2", "avx512" …; None: $LOCALLLM_KERNELS, else the best.
    kv_k, kv_v: what keys and values are stored as, "f16", "q8_0" or "q4_0"; None: "f16".
    adapt: where it does not fit, take what loses least of what does and is here; `Model.adapted`
    says what that is.
    allow_oversubscribe: open it although it does not fit.
    prefixes: keep what is computed of long prompts on the disk, and take from there what is known.
    Raises: ModelNotFoundError, NetworkError, IntegrityError, DoesNotFitError, UsageError.
    """
    name = os.fspath(name_or_path)
    model = open_path(
        resolve(name),
        name=name,
        ctx=ctx,
        threads=threads,
        budget=budget,
        kernels=kernels,
        kv_k=kv_k,
        kv_v=kv_v,
        adapt=adapt,
        allow_oversubscribe=allow_oversubscribe,
    )
    if prefixes:
        model.save_prefixes()
    return model


def open_path(
    path: Path,
    *,
    name: str | None = None,
    ctx: int | None = None,
    threads: int | None = None,
    budget: int | None = None,
    kernels: str | None = None,
    kv_k: str | None = None,
    kv_v: str | None = None,
    adapt: bool = False,
    allow_oversubscribe: bool = False,
    before: process.Usage | None = None,
) -> Model:
    """Opens a model file that is already here. Settings and Raises as for load.

    name: what the model is called in the commands that a refusal offers; None: its path.
    before: this process before it began to prepare the run; None: as it is now.
    """
    asked = check_options(ctx, threads, budget, kernels, kv_k, kv_v)
    before = before or process.measure()
    file = engines.open_model(path)
    try:
        limits = find_limits(budget)
        options, verdict = settle_options(file, asked, limits, before)
        if verdict.runs or allow_oversubscribe:
            return Model(file, file.open_engine(options), options, verdict, before)
        from localllm.memory import alternatives

        refused = alternatives.Refused(
            name or str(path), file, options, asked.n_ctx, limits, before
        )
        offers = alternatives.find(refused)
    except BaseException:
        file.close()
        raise
    here = next((offer for offer in offers if offer.path is not None), None)
    if adapt and here is not None and here.path is not None:
        skipped = offers[: offers.index(here)]
        return open_adapted(file, here, here.path, before, tell_adapted(here, skipped))
    file.close()
    raise DoesNotFitError(verdict.describe(), hint_of(offers))


def check_options(
    ctx: int | None,
    threads: int | None,
    budget: int | None,
    kernels: str | None,
    kv_k: str | None,
    kv_v: str | None,
) -> EngineOptions:
    """Raises: UsageError."""
    for name, value in (("ctx", ctx), ("threads", threads), ("budget", budget)):
        if value is not None and not 1 <= value < 1 << 53:
            raise UsageError(f"{name} is {value}, but must be at least 1")
    if max(ctx or 0, threads or 0) >= 1 << 31:
        raise UsageError("a context or a number of threads that large does not exist")
    return EngineOptions(
        n_ctx=ctx or 0, n_threads=threads or 0, kernels=kernels, kv_k=kv_k, kv_v=kv_v
    )


def tell_adapted(taken: Alternative, skipped: Sequence[Alternative]) -> str:
    """What was changed, and what would have lost less but is not on this machine."""
    if not skipped:
        return taken.change
    return f"{taken.change}; not on this machine: {'; '.join(one.change for one in skipped)}"


def open_adapted(
    file: ModelFile, offer: Alternative, path: Path, before: process.Usage | None, adapted: str
) -> Model:
    """The model of an offer, in place of the file that does not fit."""
    try:
        if path != file.path:
            file.close()
            file = engines.open_model(path)
        engine = file.open_engine(offer.options)
    except BaseException:
        file.close()
        raise
    return Model(file, engine, offer.options, offer.verdict, before, adapted=adapted)


def hint_of(offers: Sequence[Alternative]) -> str:
    """The commands that fit, one a line."""
    if not offers:
        return "a smaller model; no shorter context and no smaller quant of this one fits"
    width = max(len(offer.command) for offer in offers)
    return "\n   or: ".join(f"{offer.command.ljust(width)}  ({offer.change})" for offer in offers)
