"""A need held against every limit, before anything large is allocated.

Three verdicts: it fits; the private part fits, but the weights, which are pages of a file, do not
stay in memory and will be read from the disk again and again; it does not fit. The limit that binds
is the one that leaves the least under the worst verdict.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from localllm.errors import DoesNotFitError
from localllm.memory.need import Need, need_of
from localllm.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from localllm.engines.base import EngineOptions, ModelFile
    from localllm.memory.limits import Limit
    from localllm.memory.need import Component
    from localllm.memory.process import Usage

    Needs = Callable[[EngineOptions], Need]  # of one model, with any options

MINIMUM_CONTEXT = 256
CONTEXT_STEP = 64
# Weights that do not stay in memory leave no room to give away: the context where none is asked.
PAGING_CONTEXT = 4096


class Fit(enum.StrEnum):
    """From the best to the worst."""

    fits = "fits"
    pages = "pages"
    does_not_fit = "does_not_fit"


@dataclass(frozen=True)
class Verdict:
    """`limit` is the one that binds, None where none is known."""

    need: Need
    fit: Fit
    limit: Limit | None

    @property
    def fits(self) -> bool:
        return self.fit is Fit.fits

    @property
    def runs(self) -> bool:
        return self.fit is not Fit.does_not_fit

    def describe(self) -> str:
        """What is needed and what there is, as a sentence."""
        assert self.limit is not None
        needed, left = self.limit.need(self.need), max(0, self.limit.left_bytes)
        return (
            f"this needs {format_bytes(needed)} with a context of {self.need.n_ctx}, "
            f"but {self.limit.name} leaves {format_bytes(left)}"
        )


def judge_limit(need: Need, limit: Limit) -> Fit:
    if limit.spare(need) >= 0:
        return Fit.fits
    return Fit.pages if limit.pinned(need) <= limit.left_bytes else Fit.does_not_fit


def judge(need: Need, limits: list[Limit]) -> Verdict:
    """The worst that any limit says."""
    if not limits:
        return Verdict(need, Fit.fits, None)
    order = list(Fit)
    said = [(limit, judge_limit(need, limit)) for limit in limits]
    binding, fit = min(said, key=lambda one: (-order.index(one[1]), one[0].spare(need)))
    return Verdict(need, fit, binding)


def choose_options(
    file: ModelFile,
    options: EngineOptions,
    limits: list[Limit],
    before: Usage | None = None,
    beside: Sequence[Component] = (),
) -> tuple[EngineOptions, Verdict]:
    """Options whose need fits. A context of 0 becomes the model's own, or the largest that fits.

    beside: what the run takes beside its engine.
    Raises: DoesNotFitError, with both numbers and the context that would fit.
    """

    def needs(one: EngineOptions) -> Need:
        return need_of(file, one, before).with_parts(beside)

    asked, verdict = settle(needs, int(file.info["n_ctx_train"]), options, limits)
    if verdict.runs:
        return asked, verdict
    largest = find_largest(needs, asked, limits)
    hint = "a smaller model, or a smaller quant of this one"
    raise DoesNotFitError(
        verdict.describe(), f"-c {largest}, the largest context that fits" if largest else hint
    )


def settle_options(
    file: ModelFile, options: EngineOptions, limits: list[Limit], before: Usage | None = None
) -> tuple[EngineOptions, Verdict]:
    """The options with a context, and the verdict on them, whatever it is."""
    own_ctx = int(file.info["n_ctx_train"])
    return settle(lambda one: need_of(file, one, before), own_ctx, options, limits)


def settle(
    needs: Needs, own_ctx: int, options: EngineOptions, limits: list[Limit]
) -> tuple[EngineOptions, Verdict]:
    """The same for a model of which only the needs are known."""
    asked = replace(options, n_ctx=options.n_ctx or own_ctx)
    verdict = judge(needs(asked), limits)
    if verdict.fits or options.n_ctx:
        return asked, verdict
    paging = replace(asked, n_ctx=min(own_ctx, PAGING_CONTEXT) + 1)
    for most, worst in ((asked, Fit.fits), (paging, Fit.pages)):
        largest = find_largest(needs, most, limits, worst)
        if largest:
            bounded = replace(asked, n_ctx=largest)
            return bounded, judge(needs(bounded), limits)
    return asked, verdict


def find_largest(
    needs: Needs, options: EngineOptions, limits: list[Limit], worst: Fit = Fit.fits
) -> int:
    """The largest context below the one asked whose verdict is no worse, 0 where there is none."""
    accepted = list(Fit)[: list(Fit).index(worst) + 1]
    low, high = 0, (options.n_ctx - 1) // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        need = needs(replace(options, n_ctx=middle * CONTEXT_STEP))
        if judge(need, limits).fit in accepted:
            low = middle
        else:
            high = middle - 1
    largest = low * CONTEXT_STEP
    return largest if largest >= min(MINIMUM_CONTEXT, options.n_ctx) else 0
