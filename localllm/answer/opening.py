"""The one way to a model: its file is found, the engine's plan held against the memory there is,
and only then the engine opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from localllm import engines
from localllm.answer.model import Model
from localllm.engines.base import ModelFile
from localllm.engines.options import EngineOptions, Given, require_positive
from localllm.errors import DoesNotFitError
from localllm.memory import process
from localllm.memory.limits import find_limits
from localllm.memory.verdict import settle_options
from localllm.models.resolve import resolve

if TYPE_CHECKING:
    from localllm.memory.alternatives import Alternative


@dataclass(frozen=True)
class Policy:
    """What a run may take, and what becomes of one that does not fit. Raises: UsageError.

    budget: bytes of memory the process may use; None: what there is. adapt: take what loses least
    of what does fit and is here. allow_oversubscribe: open it all the same.
    """

    budget: int | None = None
    adapt: bool = False
    allow_oversubscribe: bool = False

    def __post_init__(self) -> None:
        require_positive(budget=self.budget)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    budget: int | None = None,
    adapt: bool = False,
    allow_oversubscribe: bool = False,
    prefixes: bool = False,
    **options: Unpack[Given],
) -> Model:
    """Opens a model by its catalog name, address or path, fetching it where it is not here yet.

    budget: bytes of memory the process may use.
    adapt: where it does not fit, take what loses least of what does and is here; `Model.adapted`
    says what that is.
    allow_oversubscribe: open it although it does not fit.
    prefixes: save what is computed of long prompts on the disk, and take from there what is known.
    Of the options, all of which may be None:
    ctx: tokens of context; None: the model's own, or the largest that fits.
    threads: None: the usable cores.
    kernels: "scalar", "avx2", "avx512" …; None: $LOCALLLM_KERNELS, else the best.
    kv_k, kv_v: what keys and values are stored as, "f16", "q8_0" or "q4_0"; None: "f16".
    Raises: ModelNotFoundError, NetworkError, IntegrityError, DoesNotFitError, UsageError.
    """
    name = os.fspath(name_or_path)
    path = resolve(name)
    policy = Policy(budget, adapt, allow_oversubscribe)
    model = open_path(path, EngineOptions.of(**options), policy, name=name)
    if prefixes:
        model.save_prefixes()
    return model


def open_path(
    path: Path,
    asked: EngineOptions,
    policy: Policy,
    *,
    name: str | None = None,
    before: process.Usage | None = None,
) -> Model:
    """Opens a model file that is already here.

    name: what the model is called in the commands that a refusal offers; None: its path.
    before: this process before it began to prepare the run; None: as it is now.
    Raises: ModelNotFoundError, IntegrityError, DoesNotFitError, UsageError.
    """
    before = before or process.measure()
    file = engines.open_model(path)
    try:
        limits = find_limits(policy.budget, device=asked.device)
        options, verdict = settle_options(file, asked, limits, before)
        if verdict.runs or policy.allow_oversubscribe:
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
    if policy.adapt and here is not None and here.path is not None:
        skipped = offers[: offers.index(here)]
        return open_adapted(file, here, here.path, before, tell_adapted(here, skipped))
    file.close()
    raise DoesNotFitError(verdict.describe(), hint_of(offers))


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
