"""What `fit` judges: a model on this machine or the headers of one that is not, and its quants.

Nothing large is read. Of a repository on the Hub only the header of one file is fetched; the other
quants are judged by their sizes in the repository's list, and those that a file could be made into
by the quants the converter would choose.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import alternatives, budget, catalog, engines, quants, store
from localllm.engines.base import EngineOptions, ModelFile
from localllm.errors import LocalLLMError, ModelNotFoundError, NetworkError
from localllm.memory import Limit
from localllm.need import Need, need_of
from localllm.sources import Local, Progress, Remote, parse_name
from localllm.sources.hub import Hub
from localllm.usage import Usage
from localllm.verdict import Verdict, judge, settle_options

COLUMNS = (2048, 8192, 32768, 131072)


@dataclass(frozen=True)
class Variant:
    """One quant of a model: its weights, and how one gets it (None: it is the one judged)."""

    quant: str
    weight_bytes: int
    command: str | None = None

    def resize(self, need: Need) -> Need:
        """What a run takes with these weights in place of those of the file judged."""
        return need if self.command is None else need.with_weights(self.weight_bytes)


@dataclass(frozen=True)
class Subject:
    """A model to judge. path: its file where it is on this machine."""

    name: str
    quant: str
    file: ModelFile
    path: Path | None
    others: Sequence[Variant]

    @property
    def variants(self) -> list[Variant]:
        """Every quant there is of it, the largest first."""
        own = Variant(self.quant, int(self.file.info["weight_bytes"]))
        return sorted([own, *self.others], key=lambda variant: -variant.weight_bytes)


@dataclass(frozen=True)
class Cell:
    """A quant with a context."""

    variant: Variant
    verdict: Verdict


@dataclass(frozen=True)
class Report:
    subject: Subject
    verdict: Verdict
    limits: list[Limit]
    cells: list[Cell]
    alternatives: list[alternatives.Alternative]


def report(
    subject: Subject, options: EngineOptions, limits: list[Limit], before: Usage | None
) -> Report:
    """The verdict on the options, and on every quant with every context."""
    file = subject.file
    settled, verdict = settle_options(file, options, limits, before)
    offers: list[alternatives.Alternative] = []
    if not verdict.fits:
        refused = alternatives.Refused(subject.name, file, settled, options.n_ctx, limits, before)
        levers = alternatives.LEVERS if subject.path else remote_levers(subject)
        offers = alternatives.find(refused, levers)
    columns = contexts(int(file.info["n_ctx_train"]), settled.n_ctx)
    needs = [need_of(file, replace(settled, n_ctx=n_ctx), before) for n_ctx in columns]
    cells = [
        Cell(variant, judge(variant.resize(need), limits))
        for variant in subject.variants
        for need in needs
    ]
    return Report(subject, verdict, limits, cells, offers)


def remote_levers(subject: Subject) -> tuple[alternatives.Lever, ...]:
    """What may be changed where the model is not here: the context, or the published quant."""

    def published(refused: alternatives.Refused) -> Iterator[alternatives.Alternative]:
        for variant in sorted(subject.others, key=lambda one: quants.rank(one.quant)):
            if variant.command and variant.weight_bytes < refused.weight_bytes:
                asked = f" -c {refused.ctx}" if refused.ctx else ""
                yield from alternatives.with_weights(
                    refused, variant.weight_bytes, variant.command + asked, variant.quant
                )

    return (alternatives.shorter_context, published)


def contexts(own: int, asked: int) -> list[int]:
    """The columns of the table."""
    return sorted({n for n in (*COLUMNS, own) if n <= own} | {asked})


# ---- finding what is meant -----------------------------------------------------------------------


@contextlib.contextmanager
def find(name: str, *, offline: bool, progress: Progress) -> Iterator[Subject]:
    """The model of a name: a file, one that is here, or the headers of one on the Hub.

    Raises: ModelNotFoundError, NetworkError, IntegrityError.
    """
    path = find_here(name)
    if path is not None:
        file = engines.open_model(path)
        try:
            quant = quants.find_quant(path.name) or main_quant(file)
            yield Subject(name, quant, file, path, list(makeable(file, path)))
        finally:
            file.close()
        return
    if offline:
        raise NetworkError(f"{name} is not on this machine, and --offline forbids to look further")
    hub = find_hub(name)
    with tempfile.TemporaryDirectory(prefix="localllm-fit-") as work:
        subject = read_offers(hub, Path(work), progress)
        try:
            yield subject
        finally:
            subject.file.close()


def find_here(name: str) -> Path | None:
    if Local.parse(name) is None and store.find_stored(name) is None:
        return None
    return store.resolve(name, pull=False)


def find_hub(name: str) -> Hub:
    """The repository of a name, or of the catalog's entry for it."""
    source = parse_name(name)
    sources = (source,) if source else catalog.read()[store.full_name(name)].sources
    hub = next((one for one in sources if isinstance(one, Hub)), None)
    if hub is None:
        raise ModelNotFoundError(
            f"{name} is not here, and its header cannot be read alone where it lies",
            f"localllm pull {name}",
        )
    return hub


def main_quant(file: ModelFile) -> str:
    """The quant that most of a file's bytes have."""
    n_bytes: dict[str, int] = {}
    for tensor in file.tensors():
        n_bytes[tensor.quant] = n_bytes.get(tensor.quant, 0) + tensor.n_bytes
    return max(n_bytes, key=n_bytes.__getitem__)


def makeable(file: ModelFile, path: Path) -> Iterator[Variant]:
    for quant, n_bytes in alternatives.makeable(file):
        yield Variant(quant, n_bytes, alternatives.quantize_command(path, quant))


def read_offers(hub: Hub, work: Path, progress: Progress) -> Subject:
    """One of a repository's quants by its header, the others by their sizes."""
    offers = sorted(hub.offers(), key=lambda offer: quants.rank(budget.quant_of(offer)))
    if not offers:
        return read_checkpoint(hub, work, progress)
    preferred = [hub.quant] if hub.quant else [*quants.PREFERRED, *map(budget.quant_of, offers)]
    failure: LocalLLMError | None = None
    for quant in dict.fromkeys(preferred):
        offer = next((one for one in offers if budget.quant_of(one) == quant), None)
        if offer is None:
            continue
        try:
            file = budget.open_headers(offer, work / "headers" / quant)
        except LocalLLMError as error:
            failure = failure or error
            continue
        others = [sized(hub, one) for one in offers if one is not offer and is_known(one)]
        return Subject(offer.name, quant, file, None, others)
    if failure is not None:
        raise failure
    raise ModelNotFoundError(
        f"{hub.name} is not there; there is {', '.join(map(budget.quant_of, offers))}"
    )


def is_known(offer: Remote) -> bool:
    """Whether this engine runs its quant: what it can write, it reads."""
    return quants.can_make(budget.quant_of(offer)) and offer.n_bytes is not None


def sized(hub: Hub, offer: Remote) -> Variant:
    quant = budget.quant_of(offer)
    return Variant(quant, offer.n_bytes or 0, f"localllm run {Hub(hub.repo, quant).name}")


def read_checkpoint(hub: Hub, work: Path, progress: Progress) -> Subject:
    """What a repository's checkpoint can be converted to, sketched from its headers."""
    quant = hub.quant or quants.PREFERRED[0]
    path = budget.sketch(hub, quant, work, progress)
    file = engines.open_model(path)
    others = [
        Variant(other, n_bytes, f"localllm run {Hub(hub.repo, other).name}")
        for other, n_bytes in alternatives.all_quants(file)
        if other != quant
    ]
    return Subject(Hub(hub.repo, quant).name, quant, file, None, others)
