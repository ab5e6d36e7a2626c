"""Which quant of a repository to take: the best one whose run fits a budget of memory.

Nothing is guessed. Of each quant in question only the header is fetched, into a sparse file as
large as the whole; the engine opens that and says by its own plan what a run needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm import engines, quants
from localllm.engines.base import EngineOptions, ModelFile, Plan
from localllm.errors import DoesNotFitError, IntegrityError, ModelNotFoundError
from localllm.memory import Limit, find_limits
from localllm.sources import Progress, Remote
from localllm.sources.hub import Hub
from localllm.sources.split import parse_split
from localllm.units import format_bytes

# The context a run is judged with: the model's own where that is smaller.
CONTEXT = 8192
FIRST_HEAD_BYTES = 1 << 20
MOST_HEAD_BYTES = 1 << 28


@dataclass(frozen=True)
class Need:
    """What a run of one quant takes, the engine's plan; None for `plan`: the file alone is more."""

    quant: str
    n_bytes: int
    plan: Plan | None = None


def choose_for(hub: Hub, budget: int, work: Path, progress: Progress) -> str:
    """The name of the best model of a repository whose run fits, with the reason as a note.

    Raises: ModelNotFoundError where its files name no quant, DoesNotFitError where none fits.
    """
    limit = next(limit for limit in find_limits(budget) if limit.name == "--budget")
    offers = sorted(hub.offers(), key=lambda offer: quants.rank(quant_of(offer)))
    if not offers:
        raise ModelNotFoundError(
            f"{hub.name} has no GGUF files whose names say their quant, so --budget cannot choose",
            "a repository of GGUF files",
        )
    refused: Need | None = None
    for offer in offers:
        need = measure(offer, limit, work / quant_of(offer), progress)
        if need is None:
            continue
        if need.plan is not None and limit.spare(need.plan) >= 0:
            progress.note(explain(need, refused, limit))
            return offer.name
        if refused is None or need.n_bytes < refused.n_bytes:
            refused = need
    if refused is None:
        raise IntegrityError(f"{hub.name} has no quant that this engine runs")
    raise DoesNotFitError(
        f"no quant of {hub.name} fits: the smallest, {describe(refused, limit)}, "
        f"but --budget is {format_bytes(limit.left_bytes)}",
        "a smaller model, or a larger budget",
    )


def quant_of(offer: Remote) -> str:
    return offer.name.rsplit(":", 1)[-1]


def measure(offer: Remote, limit: Limit, folder: Path, progress: Progress) -> Need | None:
    """What a run of an offer needs; None, with a note, for one that this engine does not run."""
    quant, n_bytes = quant_of(offer), offer.n_bytes or 0
    if n_bytes > limit.left_bytes:
        return Need(quant, n_bytes)
    try:
        return Need(quant, n_bytes, read_plan(offer, folder))
    except IntegrityError as error:
        progress.note(f"passing over {quant}: {error}")
        return None


def explain(need: Need, refused: Need | None, limit: Limit) -> str:
    n_ctx = need.plan.n_ctx if need.plan else CONTEXT
    chosen = f"chose {describe(need, limit)} with a context of {n_ctx}"
    better = f"; {describe(refused, limit)}" if refused else "; there is no better one"
    return f"{chosen}, and --budget is {format_bytes(limit.left_bytes)}{better}"


def describe(need: Need, limit: Limit) -> str:
    if need.plan is None:
        return f"{need.quant} has {format_bytes(need.n_bytes)} of weights alone"
    return f"{need.quant} needs {format_bytes(limit.need(need.plan))}"


# ---- a plan from headers -------------------------------------------------------------------------


def read_plan(offer: Remote, folder: Path) -> Plan:
    """The engine's plan of a model of which only the headers are fetched.

    Raises: IntegrityError where the engine does not run it, NetworkError.
    """
    file = open_headers(offer, folder)
    try:
        n_ctx = min(int(file.info["n_ctx_train"]), CONTEXT)
        return file.plan(EngineOptions(n_ctx=n_ctx))
    finally:
        file.close()


def open_headers(offer: Remote, folder: Path) -> ModelFile:
    """Opens sparse copies of a model's files, fetching more of them until the engine has enough."""
    folder.mkdir()
    heads = [Head(part, folder / name) for part, name in name_files(offer)]
    wanted = FIRST_HEAD_BYTES
    while True:
        for head in heads:
            head.extend(wanted)
        try:
            return engines.open_model(heads[0].path)
        except IntegrityError as error:
            is_final = getattr(error.__cause__, "code", None) == "unsupported"
            if is_final or wanted >= MOST_HEAD_BYTES or all(head.is_whole for head in heads):
                raise
        wanted *= 2


def name_files(offer: Remote) -> Iterator[tuple[Remote, str]]:
    split = parse_split(offer.file_name) if offer.parts else None
    if split is None:
        yield offer, "model.gguf"
        return
    for number, part in enumerate(offer.parts, start=1):
        yield part, split._replace(prefix="model").name(number)


class Head:
    """The beginning of a remote file, as a sparse file of the whole one's size."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote, self.path = remote, path
        self.n_read = 0
        path.touch()

    @property
    def is_whole(self) -> bool:
        return self.n_read >= (self.remote.n_bytes or 0)

    def extend(self, wanted: int) -> None:
        """Reads on until `wanted` bytes of the file are there, or all of them."""
        if self.is_whole or self.n_read >= wanted:
            return
        with self.path.open("r+b") as file, self.remote.open(self.n_read) as body:
            file.seek(body.offset)
            for chunk in body.chunks:
                file.write(chunk[: wanted - file.tell()])
                if file.tell() >= wanted:
                    break
            self.n_read = file.tell()
            file.truncate(max(self.remote.n_bytes or 0, self.n_read))
