"""The public model: a file, the engine that runs it, and text in and out.

`opening.load` is the one way in. `Answer` is the one way out: an iterator of text that also knows
how it ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from localllm.answer.filters import THINK_OPEN, Piece, ReasoningSplitter
from localllm.answer.generate import Generation, Result, run_alone
from localllm.answer.timeline import PrefillProgress, Timeline
from localllm.engines.base import Engine, ModelFile
from localllm.engines.options import EngineOptions
from localllm.errors import UsageError
from localllm.memory import process
from localllm.memory.limits import find_limits
from localllm.memory.need import Extent, Need, need_of
from localllm.memory.verdict import Verdict, choose_options
from localllm.models import store
from localllm.sampling import Sampling, seeded, settled

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from localllm.answer.template import ChatEncoder, Message

LOGIT_ROWS = 64  # rows of logits kept per step when every row is asked for


def ignore(text: str) -> None:
    """Tells nobody."""


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
        """What the file says of itself, its path, and how it runs."""
        return {**self.file.info, "path": str(self.file.path), **self.running}

    @property
    def running(self) -> dict[str, Any]:
        """How it runs: n_ctx, n_threads, kernels, kv_k, kv_v; None for what the engine does not
        tell."""
        engine = self.engine
        return {
            "n_ctx": engine.n_ctx,
            "n_threads": engine.n_threads,
            "kernels": engine.measures.kernels if engine.measures else None,
            "kv_k": engine.blocks.kv_k if engine.blocks else None,
            "kv_v": engine.blocks.kv_v if engine.blocks else None,
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
        asked = replace(self.options, n_ctx=n_ctx, n_batch=n_batch, n_logits=n_logits)
        options, _ = choose_options(self.file, asked, find_limits(device=asked.device))
        return self.file.open_engine(options)

    def save_prefixes(self, note: Callable[[str], None] = ignore) -> None:
        """From here on, long prompts are saved on the disk, and what is known of them is not
        computed again; an engine without blocks computes all of them. note: told, once, of damaged
        files and of a disk that takes no more."""
        if self.engine.blocks is not None:
            from localllm.answer.prefixes import Prefixes

            self.timeline.prefixes = Prefixes(self.file, self.engine.blocks, note)

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
            prompt = self.file.tokenize(prompt, add_special=True)
        return self.begin(prompt, sampling, max_tokens, stop, None, progress)

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
        inside = prompt.text.rstrip().endswith(THINK_OPEN)
        splitter = ReasoningSplitter(starts_inside=inside)
        return self.begin(prompt.ids, sampling, max_tokens, stop, splitter, progress)

    def begin(
        self,
        ids: Sequence[int],
        sampling: Sampling | None,
        max_tokens: int | None,
        stop: Sequence[str],
        splitter: ReasoningSplitter | None,
        progress: PrefillProgress | None,
    ) -> Answer:
        generation = Generation(
            self.file,
            ids,
            seeded(sampling or self.settle()),
            self.engine.n_ctx,
            max_tokens=max_tokens,
            stop=[stop] if isinstance(stop, str) else stop,
            splitter=splitter,
        )
        return Answer(generation, run_alone(generation, self.timeline, progress))

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
        self.timeline.end_writing()
        return len(shared)

    def save(self, path: Path, messages: Sequence[Message]) -> int:
        """Writes a conversation with the KV of what was computed of it, so that restore() goes on
        from there; returns the tokens that are saved. Raises: OSError, UsageError."""
        from localllm.answer import snapshots

        timeline = self.timeline
        return snapshots.save(path, messages, self.file, self.engine, timeline)

    def restore(self, path: Path, note: Callable[[str], None] = ignore) -> list[dict[str, str]]:
        """The messages of a saved conversation, whose KV the next answer goes on from.

        note: told where the KV is another model's or damaged, and must be computed.
        Raises: OSError, IntegrityError.
        """
        from localllm.answer import snapshots

        snapshot, blocks = snapshots.read(path), self.engine.blocks
        if blocks is not None and len(snapshot.ids) < self.engine.n_ctx:
            kv = snapshots.read_kv(snapshot, self.file, blocks, note)
            self.timeline.restore(blocks, kv)
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

    def __init__(self, generation: Generation, pieces: Iterator[Piece]) -> None:
        self.generation = generation
        self.reasoning = ""
        self.pieces = map(self.note, pieces)

    @property
    def result(self) -> Result:
        return self.generation.result

    @property
    def sampling(self) -> Sampling:
        return self.generation.sampling

    def note(self, piece: Piece) -> Piece:
        if piece.is_reasoning:
            self.reasoning += piece.text
        return piece

    def __next__(self) -> str:
        return next(piece.text for piece in self.pieces if not piece.is_reasoning)
