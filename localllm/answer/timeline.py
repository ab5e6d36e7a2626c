"""One session, and what of its prompt is on its way to the disk.

A prompt that begins like the last one costs only its new tokens: a session of the engine may have
computed them, or a process that saved them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from localllm.errors import ContextFullError

if TYPE_CHECKING:
    from localllm.answer.prefixes import Prefixes, Writing
    from localllm.engines.base import Blocks, Engine
    from localllm.sampling import SeededSampling

PrefillProgress = Callable[[int, int], None]  # tokens fed, tokens in all; equal when it is over


def rows_behind(ids: Sequence[int], n_held: int, n_most: int) -> tuple[Sequence[int], int]:
    """What to feed a session that holds the n_held first of `ids`, at most n_most at once, and how
    many rows keep their logits: that of the last id alone."""
    rows = ids[n_held : n_held + n_most]
    return rows, int(n_held + len(rows) == len(ids))


class Timeline:
    """See above. prefixes: None where nothing is saved on the disk."""

    def __init__(self, engine: Engine, prefixes: Prefixes | None = None) -> None:
        self.engine = engine
        self.session = engine.session()
        self.prefixes = prefixes
        self.writing: Writing | None = None  # of the last prompt, while some of it waits

    @property
    def ids(self) -> list[int]:
        """The tokens the session holds."""
        return self.session.ids()

    def hold(self, ids: Sequence[int]) -> int:
        """Makes the session hold what is computed already of the beginning of `ids`, but never all
        of them; returns how many that are. Raises: ContextFullError."""
        if len(ids) > self.engine.n_ctx:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, but the context holds {self.engine.n_ctx}",
                "a larger context (-c), or --truncate head, middle or tail",
            )
        self.end_writing()
        n_held = self.session.reuse(ids[:-1])
        if self.prefixes is not None:
            self.writing = self.prefixes.begin(self.session, ids)
            n_held = self.session.n_tokens
        return n_held

    def feed(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> int:
        """Makes the session hold `ids`, with the last one's logits kept; returns how many it had.

        A cancelled or failed step leaves everything before it in place.
        Raises: ContextFullError.
        """
        n_reused = n_held = self.hold(ids)
        n_new = len(ids) - n_reused
        try:
            while n_held < len(ids):
                if progress and n_held > n_reused:
                    progress(n_held - n_reused, n_new)
                rows, n_logits = rows_behind(ids, n_held, self.engine.n_batch)
                self.step(rows, n_logits)
                n_held += len(rows)
                if self.writing is not None:
                    self.writing.catch_up()
        finally:
            if progress:
                progress(n_new, n_new)
        return n_reused

    def step(self, ids: Sequence[int], n_logits: int = 1) -> None:
        """Feeds ids behind those that the session holds."""
        self.engine.step([(self.session, ids, n_logits)])

    def draw(self, sampling: SeededSampling) -> int:
        """The id behind the session's last one, from its logits."""
        return self.engine.sample([(self.session, 0, sampling)])[0]

    def restore(self, blocks: Blocks, pieces: Iterable[tuple[Sequence[int], bytes]]) -> int:
        """Makes the session hold what comes in pieces, a block's tokens with their KV; returns how
        many tokens. Raises: ContextFullError, where it does not fit."""
        self.end_writing()
        self.session.truncate(0)
        for ids, kv in pieces:
            blocks.put(self.session, ids, kv)
        # Nothing, where the end lacks what layers with a window see.
        return self.session.truncate(self.session.n_tokens)

    def save_some(self) -> None:
        """Saves a little of the prompt on the disk, while its answer is being read."""
        if self.writing is not None:
            self.writing.some()

    def end_writing(self) -> None:
        """Saves the rest of the prompt, as far as the session has it."""
        if self.writing is not None:
            self.writing.close()
            self.writing = None

    def close(self) -> None:
        self.session.close()
