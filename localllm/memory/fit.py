"""What `fit` judges: a model on this machine or the headers of one that is not, and its quants.

Nothing large is read. Of a repository on the Hub only the header of one file is fetched; the other
quants are judged by their sizes in the repository's list, and those that a file could be made into
by the quants the converter would choose.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from localllm import engines
from localllm.convert.mixes import can_make
from localllm.engines.base import EngineOptions, ModelFile
from localllm.errors import LocalLLMError, ModelNotFoundError, NetworkError
from localllm.memory import alternatives, choose_quant
from localllm.memory.kv_types import KEYS_LIKE, PAIRS, PLAIN, VALUES_LIKE, KvPair, pair_of
from localllm.memory.limits import Limit
from localllm.memory.need import Need, need_of
from localllm.memory.process import Usage
from localllm.memory.verdict import Fit, Verdict, judge, settle_options
from localllm.models import catalog, quants
from localllm.models.names import find_stored, full_name
from localllm.models.resolve import resolve
from localllm.models.sources import Local, Progress, Remote, parse_name
from localllm.models.sources.hub import Hub

COLUMNS = (2048, 8192, 32768, 131072)


@dataclass(frozen=True)
class QuantChoice:
    """One quant of a model, and its weights.

    argument: what `localllm run` takes for it, as a shell reads it. made_of: the quant of the file
    it would be made of. is_own: its weights are those of the file judged.
    """

    quant: str
    weight_bytes: int
    argument: str
    made_of: str | None = None
    is_own: bool = False

    @property
    def rank(self) -> int:
        """As quants.rank_near; what has been lost before it was made is not found again."""
        rank = quants.rank_near(self.quant)
        return rank if self.made_of is None else max(rank, quants.rank_near(self.made_of) + 1)

    def resize(self, need: Need) -> Need:
        """What a run takes with these weights in place of those of the file judged."""
        return need if self.is_own else need.with_weights(self.weight_bytes)


@dataclass(frozen=True)
class Subject:
    """A model to judge. path: its file where it is on this machine."""

    name: str
    quant: str
    file: ModelFile
    path: Path | None
    others: Sequence[QuantChoice]

    @property
    def variants(self) -> list[QuantChoice]:
        """Every quant there is of it, the largest first."""
        weight_bytes = int(self.file.info["weight_bytes"])
        own = QuantChoice(self.quant, weight_bytes, shlex.quote(self.name), is_own=True)
        return sorted([own, *self.others], key=lambda variant: -variant.weight_bytes)


@dataclass(frozen=True)
class Cell:
    """A quant with a context and the types of its keys and values, and the command that runs it."""

    variant: QuantChoice
    kv: KvPair
    verdict: Verdict
    command: str

    @property
    def n_ctx(self) -> int:
        return self.verdict.need.n_ctx


@dataclass(frozen=True)
class Report:
    """kv: the types of keys and values that were asked for. cells: every quant with every context
    and pair of types. shown: of every quant with every context, the pair to take. best: of every
    context, the cell that loses least of those that fit; a context may have none."""

    subject: Subject
    kv: KvPair
    verdict: Verdict
    limits: list[Limit]
    alternatives: list[alternatives.Alternative]
    cells: list[Cell]
    shown: list[Cell]
    best: dict[int, Cell]


def report(
    subject: Subject, options: EngineOptions, limits: list[Limit], before: Usage | None
) -> Report:
    """The verdict on the options, and on every quant with every context and pair of KV types."""
    file = subject.file
    settled, verdict = settle_options(file, options, limits, before)
    offers: list[alternatives.Alternative] = []
    if not verdict.fits:
        refused = alternatives.Refused(subject.name, file, settled, options.n_ctx, limits, before)
        levers = alternatives.LEVERS if subject.path else remote_levers(subject)
        offers = alternatives.find(refused, levers)
    cells = list(judge_all(subject, settled, limits, before))
    groups = itertools.groupby(cells, key=lambda cell: (cell.variant, cell.n_ctx))
    shown = [min(group, key=lambda cell: list(Fit).index(cell.verdict.fit)) for _, group in groups]
    asked = pair_of(options.kv_k, options.kv_v)
    return Report(subject, asked, verdict, limits, offers, cells, shown, find_best(shown))


def judge_all(
    subject: Subject, options: EngineOptions, limits: list[Limit], before: Usage | None
) -> Iterator[Cell]:
    """Quant by quant, context by context, the pair that was asked for before the others."""
    asked = pair_of(options.kv_k, options.kv_v)
    runs = [
        (pair, replace(options, n_ctx=n_ctx, kv_k=pair.k, kv_v=pair.v))
        for n_ctx in contexts(int(subject.file.info["n_ctx_train"]), options.n_ctx)
        for pair in dict.fromkeys([asked, *PAIRS])
    ]
    needs = [(pair, run, need_of(subject.file, run, before)) for pair, run in runs]
    for variant in subject.variants:
        for pair, run, need in needs:
            is_default = asked == pair == PLAIN
            typed = replace(run, kv_k=None, kv_v=None) if is_default else run
            command = alternatives.run_command(variant.argument, typed)
            yield Cell(variant, pair, judge(variant.resize(need), limits), command)


def find_best(cells: Sequence[Cell]) -> dict[int, Cell]:
    """By context, what loses least of what fits."""
    best: dict[int, Cell] = {}
    for cell in cells:
        known = best.get(cell.n_ctx)
        if cell.verdict.fits and (known is None or loss(cell) < loss(known)):
            best[cell.n_ctx] = cell
    return best


def loss(cell: Cell) -> tuple[int, ...]:
    """Sorts what loses least first: a run is as good as the coarsest of its parts."""
    likes = (KEYS_LIKE[cell.kv.k], VALUES_LIKE[cell.kv.v])
    ranks = (cell.variant.rank, *map(quants.rank_near, likes))
    return max(ranks), *ranks


def remote_levers(subject: Subject) -> tuple[alternatives.Lever, ...]:
    """What may be changed where the model is not here: the context, its KV, the published quant."""

    def published(refused: alternatives.Refused) -> Iterator[alternatives.Alternative]:
        for variant in sorted(subject.others, key=lambda one: quants.rank(one.quant)):
            if variant.weight_bytes < refused.weight_bytes:
                yield from alternatives.with_weights(
                    refused, variant.weight_bytes, variant.argument, variant.quant
                )

    return (alternatives.shorter_context, alternatives.smaller_kv, published)


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
            yield Subject(name, quant, file, path, list(makeable(file, path, quant)))
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
    if Local.parse(name) is None and find_stored(name) is None:
        return None
    return resolve(name, pull=False)


def find_hub(name: str) -> Hub:
    """The repository of a name, or of the catalog's entry for it."""
    source = parse_name(name)
    sources = (source,) if source else catalog.read()[full_name(name)].sources
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


def makeable(file: ModelFile, path: Path, own: str) -> Iterator[QuantChoice]:
    """What a file on this machine could be made into; its own quant is `own`."""
    for quant, n_bytes in alternatives.makeable(file):
        yield QuantChoice(quant, n_bytes, alternatives.made_argument(path, quant), made_of=own)


def read_offers(hub: Hub, work: Path, progress: Progress) -> Subject:
    """One of a repository's quants by its header, the others by their sizes."""
    offers = sorted(hub.offers(), key=lambda offer: quants.rank(choose_quant.quant_of(offer)))
    if not offers:
        return read_checkpoint(hub, work, progress)
    preferred = (
        [hub.quant] if hub.quant else [*quants.PREFERRED, *map(choose_quant.quant_of, offers)]
    )
    failure: LocalLLMError | None = None
    for quant in dict.fromkeys(preferred):
        offer = next((one for one in offers if choose_quant.quant_of(one) == quant), None)
        if offer is None:
            continue
        try:
            file = choose_quant.open_headers(offer, work / "headers" / quant)
        except LocalLLMError as error:
            failure = failure or error
            continue
        others = [sized(hub, one) for one in offers if one is not offer and is_known(one)]
        return Subject(offer.name, quant, file, None, others)
    if failure is not None:
        raise failure
    raise ModelNotFoundError(
        f"{hub.name} is not there; there is {', '.join(map(choose_quant.quant_of, offers))}"
    )


def is_known(offer: Remote) -> bool:
    """Whether this engine runs its quant: what it can write, it reads."""
    return can_make(choose_quant.quant_of(offer)) and offer.n_bytes is not None


def sized(hub: Hub, offer: Remote) -> QuantChoice:
    quant = choose_quant.quant_of(offer)
    return QuantChoice(quant, offer.n_bytes or 0, shlex.quote(Hub(hub.repo, quant).name))


def read_checkpoint(hub: Hub, work: Path, progress: Progress) -> Subject:
    """What a repository's checkpoint can be converted to, sketched from its headers."""
    quant = hub.quant or quants.PREFERRED[0]
    path = choose_quant.sketch(hub, quant, work, progress)
    file = engines.open_model(path)
    others = [
        QuantChoice(other, n_bytes, shlex.quote(Hub(hub.repo, other).name))
        for other, n_bytes in alternatives.all_quants(file)
        if other != quant
    ]
    return Subject(Hub(hub.repo, quant).name, quant, file, None, others)
