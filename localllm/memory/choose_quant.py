"""Which quant of a repository to take: the best one whose run fits a budget of memory.

Nothing is guessed. Of each quant in question only the header is fetched, into a sparse file as
large as the whole; the engine opens that and says by its own plan what a run needs. A repository
that has a checkpoint alone offers every quant that it can be converted to: the converter sketches
each file from the headers of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm import engines
from localllm.convert.mixes import can_make
from localllm.engines.base import EngineOptions, ModelFile
from localllm.errors import DoesNotFitError, IntegrityError
from localllm.memory.limits import Limit, find_limits
from localllm.memory.need import Need, need_of
from localllm.models import quants
from localllm.models.pull import work_folder
from localllm.models.sources import Local, Progress, Remote, parse_name
from localllm.models.sources.hub import Hub
from localllm.models.sources.repository import WEIGHTS
from localllm.models.sources.split import parse_split
from localllm.models.store import models_folder
from localllm.units import format_bytes

# The context a run is judged with: the model's own where that is smaller.
CONTEXT = 8192
FIRST_HEAD_BYTES = 1 << 20
MOST_HEAD_BYTES = 1 << 28


@dataclass(frozen=True)
class Candidate:
    """A quant, and what a run of it takes; None for `need`: the file alone is more."""

    quant: str
    n_bytes: int
    need: Need | None = None


def within_budget(name: str, budget: int, progress: Progress) -> str:
    """The name with the quant that fits `budget` bytes of memory, where the name leaves a choice.

    Raises: ModelNotFoundError where there is nothing to choose from, DoesNotFitError where none
    fits.
    """
    if Local.parse(name) is not None:
        return name
    hub = parse_name(name) if name.startswith("hf:") else None
    if not isinstance(hub, Hub) or hub.quant:
        progress.note(f"a budget chooses nothing here: {name} is one model")
        return name
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with work_folder(folder) as work:
        return choose_for(hub, budget, work, progress)


def choose_for(hub: Hub, budget: int, work: Path, progress: Progress) -> str:
    """The name of the best model of a repository whose run fits, with the reason as a note.

    Raises: ModelNotFoundError where there is nothing to choose from, DoesNotFitError where none
    fits.
    """
    limit = next(limit for limit in find_limits(budget) if limit.name == "--budget")
    offers = sorted(hub.offers(), key=lambda offer: quants.rank(quant_of(offer)))
    candidates = (
        judge_files(offers, limit, work, progress)
        if offers
        else judge_checkpoint(hub, limit, work, progress)
    )
    refused: Candidate | None = None
    for one in candidates:
        if one.need is not None and limit.spare(one.need) >= 0:
            progress.note(explain(one, refused, limit))
            return Hub(hub.repo, one.quant).name
        if refused is None or one.n_bytes < refused.n_bytes:
            refused = one
    if refused is None:
        raise IntegrityError(f"{hub.name} has no quant that this engine runs")
    raise DoesNotFitError(
        f"no quant of {hub.name} fits: the smallest, {describe(refused, limit)}, "
        f"but --budget is {format_bytes(limit.left_bytes)}",
        "a smaller model, or a larger budget",
    )


def quant_of(offer: Remote) -> str:
    return offer.name.rsplit(":", 1)[-1]


def judge_files(
    offers: Sequence[Remote], limit: Limit, work: Path, progress: Progress
) -> Iterator[Candidate]:
    """What a run of each offer needs; with a note, none of those that this engine does not run."""
    for offer in offers:
        quant, n_bytes = quant_of(offer), offer.n_bytes or 0
        if n_bytes > limit.left_bytes:
            yield Candidate(quant, n_bytes)
            continue
        try:
            yield Candidate(quant, n_bytes, read_need(open_headers(offer, work / quant)))
        except IntegrityError as error:
            progress.note(f"passing over {quant}: {error}")


def judge_checkpoint(hub: Hub, limit: Limit, work: Path, progress: Progress) -> Iterator[Candidate]:
    """What a run of each quant needs that the checkpoint can be converted to, the best first."""
    from localllm.convert.from_checkpoint import open_source

    folder = fetch_checkpoint_heads(hub, work, progress)
    with open_source(folder, hub.repo, progress.note) as source:
        for quant in filter(can_make, quants.BY_NAME):
            path = work / f"{quant}.gguf"
            source.sketch(path, quant)
            n_bytes = path.stat().st_size
            fits = n_bytes <= limit.left_bytes
            yield Candidate(quant, n_bytes, read_need(engines.open_model(path)) if fits else None)


def sketch(hub: Hub, quant: str, work: Path, progress: Progress) -> Path:
    """The file that a checkpoint would become, with holes for its weights."""
    from localllm.convert.from_checkpoint import open_source

    folder = fetch_checkpoint_heads(hub, work, progress)
    path = work / f"{quant}.gguf"
    with open_source(folder, hub.repo, progress.note) as source:
        source.sketch(path, quant)
    return path


def fetch_checkpoint_heads(hub: Hub, work: Path, progress: Progress) -> Path:
    remote = hub.find_checkpoint()
    progress.note(f"{hub.name} has no GGUF files; judging what its checkpoint can be converted to")
    folder = work / "checkpoint"
    fetch_heads(remote, folder)
    return folder


def fetch_heads(remote: Remote, folder: Path) -> None:
    """The files of a checkpoint: whole ones, but of those with weights the headers alone."""
    from localllm.convert.safetensors_file import header_end

    folder.mkdir()
    for part in remote.parts:
        path = folder / part.file_name
        path.parent.mkdir(exist_ok=True)
        head = Head(part, path)
        if part.file_name.endswith(WEIGHTS):
            head.extend(FIRST_HEAD_BYTES)
            head.extend(min(header_end(path), MOST_HEAD_BYTES))
        else:
            head.extend(part.n_bytes or MOST_HEAD_BYTES)


def explain(one: Candidate, refused: Candidate | None, limit: Limit) -> str:
    n_ctx = one.need.n_ctx if one.need else CONTEXT
    chosen = f"chose {describe(one, limit)} with a context of {n_ctx}"
    better = f"; {describe(refused, limit)}" if refused else "; there is no better one"
    return f"{chosen}, and the budget is {format_bytes(limit.left_bytes)}{better}"


def describe(one: Candidate, limit: Limit) -> str:
    if one.need is None:
        return f"{one.quant} has {format_bytes(one.n_bytes)} of weights alone"
    return f"{one.quant} needs {format_bytes(limit.need(one.need))}"


# ---- a need from headers -------------------------------------------------------------------------


def read_need(file: ModelFile) -> Need:
    """What a run takes of a model of which there are only the headers. Closes it."""
    try:
        n_ctx = min(int(file.info["n_ctx_train"]), CONTEXT)
        return need_of(file, EngineOptions(n_ctx=n_ctx))
    finally:
        file.close()


def open_headers(offer: Remote, folder: Path) -> ModelFile:
    """Opens sparse copies of a model's files, fetching more of them until the engine has enough.

    Raises: IntegrityError where the engine does not run it, NetworkError.
    """
    folder.mkdir(parents=True)
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
