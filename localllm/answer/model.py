"""The public model: a file, the engine that runs it, and text in and out.

`load` is the one way in: it finds the file, holds the engine's plan against the machine's memory,
and only then opens the engine. `Answer` is the one way out: an iterator of text that also knows how
it ended.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from localllm import engines
from localllm.answer.generate import (
    THINK_OPEN,
    Generation,
    Piece,
    PrefillProgress,
    ReasoningSplitter,
    Result,
    Timeline,
)
from localllm.engines.base import Engine, EngineOptions, ModelFile
from localllm.errors import DoesNotFitError, UsageError
from localllm.memory import process
from localllm.memory.limits import find_limits
from localllm.memory.need import Extent, Need, need_of
from localllm.memory.verdict import Verdict, choose_options, settle_options
from localllm.models import store
from localllm.models.resolve import resolve
from localllm.sampling import Sampling, seeded, settled

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from localllm.answer.template import ChatEncoder, Message
    from localllm.memory.alternatives import Alternative

LOGIT_ROWS = 64  # rows of logits kept per step when every row is asked for


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
        model.keep_prefixes()
    return model


def ignore(text: str) -> None:
    """Tells nobody."""


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


class Model:
    """A model ready to answer. Close it, or use it as a context manager."""

    def __init__(
        self,
        file: ModelFile,
        engine: Engine,
        options: EngineOptions,
        verdict: Verdict,
        before: process.Usage | None = None,
        adapted: str | None = None,
    ) -> None:
        self.file = file
        self.engine = engine
        self.options = options
        self.verdict = verdict
        self.before = before  # the process, before it opened the file
        self.adapted = adapted  # what was changed to make it fit, None: nothing
        self.timeline = Timeline(engine)
        self.read_template = False
        self.chat_encoder: ChatEncoder | None = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.timeline.close()
        self.engine.close()
        self.file.close()

    @property
    def info(self) -> dict[str, Any]:
        """What the file says of itself, and how it runs: path, n_ctx, n_threads, kernels,
        kv_k, kv_v."""
        return {
            **self.file.info,
            "path": str(self.file.path),
            "n_ctx": self.engine.n_ctx,
            "n_threads": self.engine.n_threads,
            "kernels": self.engine.kernels,
            "kv_k": self.engine.kv_k,
            "kv_v": self.engine.kv_v,
        }

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text; `special` lets it become control tokens. No BOS is added."""
        return self.file.tokenize(text, control=special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens have none, bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.file.token_bytes, ids)).decode("utf-8", "replace")

    def logits(self, ids: Sequence[int]) -> NDArray[numpy.float32]:
        """The logits behind every id: float32 [n_tokens, n_vocab], in an array of its own."""
        import numpy

        n_vocab = int(self.file.info["n_vocab"])
        out = numpy.empty((len(ids), n_vocab), dtype=numpy.float32)
        if not ids:
            return out
        n_rows = min(LOGIT_ROWS, len(ids))
        engine = self.open_beside(n_ctx=len(ids), n_batch=n_rows, n_logits=n_rows)
        try:
            session = engine.session()
            for start in range(0, len(ids), n_rows):
                piece = ids[start : start + n_rows]
                engine.step([(session, piece, len(piece))])
                with engine.logits() as kept:
                    rows = numpy.frombuffer(kept, dtype=numpy.float32)
                    out[start : start + len(piece)] = rows.reshape(len(piece), n_vocab)
                    del rows
            session.close()
        finally:
            engine.close()
        return out

    def open_beside(self, n_ctx: int, n_batch: int, n_logits: int) -> Engine:
        """Another engine on the same weights, after the same look at memory."""
        asked = EngineOptions(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_logits=n_logits,
            n_threads=self.options.n_threads,
            kernels=self.options.kernels,
            kv_k=self.options.kv_k,
            kv_v=self.options.kv_v,
        )
        options, _ = choose_options(self.file, asked, find_limits())
        return self.file.open_engine(options)

    def keep_prefixes(self, note: Callable[[str], None] = ignore) -> None:
        """From here on, long prompts are kept on the disk, and what is known of them is not
        computed again. note: told, once, of damaged files and of a disk that takes no more."""
        from localllm.answer.prefixes import Prefixes

        self.timeline.prefixes = Prefixes(self.file, self.engine, note)

    def need(self, extent: Extent | None = None) -> Need:
        """What this model takes in memory when it has been used so far; None: to its end."""
        return need_of(self.file, self.options, self.before, extent)

    def settle(self, **given: Any) -> Sampling:
        """Sampling with the settings given; the rest as the model says, else the defaults."""
        return settled(given, self.file.meta)

    def generate(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        *,
        progress: PrefillProgress | None = None,
    ) -> Answer:
        """Continues a text, without the chat template, or continues ids exactly as they are.

        Text never becomes control tokens; BOS is added where the model asks for it.
        Raises: ContextFullError, UsageError, EngineError; all but UsageError while iterating.
        """
        if isinstance(prompt, str):
            ids = self.file.tokenize(prompt, add_special=True)
        else:
            ids = list(prompt)
        generation = self.begin(ids, sampling, max_tokens, stop, progress)
        return Answer(generation, splitter=None)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        *,
        think: bool | None = None,
        progress: PrefillProgress | None = None,
    ) -> Answer:
        """Answers a conversation of {"role": …, "content": …} with the model's own template.

        Only the new part of a conversation is computed. think: switches reasoning where the
        template knows it. Raises: as generate, and TemplateError.
        """
        encoder = self.find_encoder()
        if encoder is None:
            raise UsageError("this model has no chat template", "--raw, or generate()")
        prompt = encoder.encode(messages, think)
        generation = self.begin(prompt.ids, sampling, max_tokens, stop, progress)
        inside = prompt.text.rstrip().endswith(THINK_OPEN)
        return Answer(generation, ReasoningSplitter(starts_inside=inside))

    def begin(
        self,
        ids: list[int],
        sampling: Sampling | None,
        max_tokens: int | None,
        stop: Sequence[str],
        progress: PrefillProgress | None,
    ) -> Generation:
        return Generation(
            self.file,
            self.timeline,
            ids,
            seeded(sampling or self.settle()),
            max_tokens=max_tokens,
            stop=[stop] if isinstance(stop, str) else stop,
            progress=progress,
        )

    def feed_system(self, text: str) -> int:
        """Computes what every conversation with this system message begins with; returns how many
        tokens that is. Raises: UsageError for a model without a chat template, TemplateError."""
        encoder = self.find_encoder()
        if encoder is None:
            raise UsageError("this model has no chat template, so it knows no system message")
        # What differs is the user's; before it lies what the system message makes of the template.
        system = {"role": "system", "content": text}
        one, other = (
            encoder.encode([system, {"role": "user", "content": word}]).ids for word in ("A", "B")
        )
        pairs = zip(one, other, strict=False)
        shared = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        self.timeline.feed(shared)
        self.timeline.finish_keeping()
        return len(shared)

    def save(self, path: Path, messages: Sequence[Message]) -> int:
        """Writes a conversation with the KV of what was computed of it, so that restore() goes on
        from there; returns the tokens that are kept. Raises: OSError."""
        from localllm.answer import snapshots

        timeline = self.timeline
        return snapshots.save(path, messages, self.file, self.engine, timeline)

    def restore(self, path: Path, note: Callable[[str], None] = ignore) -> list[dict[str, str]]:
        """The messages of a saved conversation, whose KV the next answer goes on from.

        note: told where the KV is another model's or damaged, and must be computed.
        Raises: OSError, IntegrityError.
        """
        from localllm.answer import snapshots

        snapshot = snapshots.read(path)
        if len(snapshot.ids) < self.engine.n_ctx:
            kv = snapshots.blocks(snapshot, self.file, self.engine, note)
            self.timeline.restore(kv)
        return snapshot.messages

    def find_encoder(self) -> ChatEncoder | None:
        """The encoder of conversations, None for a model without a chat template."""
        if not self.read_template:
            from localllm.answer.template import ChatEncoder, load_template

            template = load_template(self.file)
            system = store.find_system(self.file.path)
            self.chat_encoder = (
                ChatEncoder(self.file, template, system=system) if template else None
            )
            self.read_template = True
        return self.chat_encoder


class Answer(Iterator[str]):
    """Iterates over the answer's text. `result` tells how it ended, `reasoning` what led to it."""

    def __init__(self, generation: Generation, splitter: ReasoningSplitter | None) -> None:
        self.generation = generation
        self.splitter = splitter
        self.reasoning = ""
        self.pieces = self.read()

    @property
    def result(self) -> Result:
        return self.generation.result

    @property
    def sampling(self) -> Sampling:
        return self.generation.sampling

    def read(self) -> Iterator[Piece]:
        for text in self.generation:
            for piece in self.splitter.push(text) if self.splitter else [Piece(text)]:
                yield self.note(piece)
        for piece in self.splitter.finish() if self.splitter else []:
            yield self.note(piece)

    def note(self, piece: Piece) -> Piece:
        if piece.is_reasoning:
            self.reasoning += piece.text
        return piece

    def __next__(self) -> str:
        return next(piece.text for piece in self.pieces if not piece.is_reasoning)
