"""One session and the ids it has been fed.

A prompt that begins like the last one costs only its new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from localllm.errors import ContextFullError

if TYPE_CHECKING:
    from localllm.answer.prefixes import Prefixes
    from localllm.engines.base import Blocks, Engine

PrefillProgress = Callable[[int, int], None]  # tokens fed, tokens in all; equal when it is over


class Timeline:
    """One session and the ids it holds."""

    def __init__(self, engine: Engine, prefixes: Prefixes | None = None) -> None:
        self.engine = engine
        self.session = engine.session()
        self.prefixes = prefixes
        self.ids: list[int] = []

    def rewind(self, ids: Sequence[int]) -> int:
        """Makes the session hold what is computed already of the beginning of `ids`, but never all
        of them; returns how many that are."""
        n_held = self.session.reuse(ids[:-1])
        self.ids[:] = ids[:n_held]
        return n_held

    def feed(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> int:
        """Makes the session hold `ids`, with the last one's logits kept; returns how many it had.

        A cancelled or failed step leaves everything before it in place.
        Raises: ContextFullError.
        """
        if len(ids) > self.engine.n_ctx:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, but the context holds {self.engine.n_ctx}",
                "a larger context (-c), or --truncate head, middle or tail",
            )
        self.finish_keeping()
        n_reused = self.rewind(ids)
        if self.prefixes is not None:
            n_reused = self.prefixes.extend(self.session, ids, n_reused)
            self.ids[:] = ids[:n_reused]
            self.prefixes.keep(self.session, ids)
        n_new = len(ids) - n_reused
        try:
            for start in range(n_reused, len(ids), self.engine.n_batch):
                piece = ids[start : start + self.engine.n_batch]
                if progress and start > n_reused:
                    progress(start - n_reused, n_new)
                self.step(piece, keep_logits=start + len(piece) == len(ids))
                if self.prefixes is not None and self.prefixes.blocks.gives_back:
                    self.prefixes.keep_up()  # while the session has all of the KV
        finally:
            if progress:
                progress(n_new, n_new)
        return n_reused

    def restore(self, blocks: Blocks, pieces: Iterable[tuple[Sequence[int], bytes]]) -> int:
        """Makes the session hold what comes in pieces, a block's tokens with their KV; returns how
        many tokens. Raises: ContextFullError, where it does not fit."""
        self.finish_keeping()
        self.session.truncate(0)
        self.ids.clear()
        for ids, kv in pieces:
            blocks.put(self.session, ids, kv)
            self.ids.extend(ids)
        # Nothing, where the end lacks what layers with a window see.
        del self.ids[self.session.truncate(len(self.ids)) :]
        return len(self.ids)

    def keep_some(self) -> None:
        """Keeps a little of the prompt's prefix on the disk, while its answer is being read."""
        if self.prefixes is not None:
            self.prefixes.keep_some()

    def finish_keeping(self) -> None:
        if self.prefixes is not None:
            self.prefixes.finish()

    def step(self, ids: Sequence[int], keep_logits: bool = True) -> None:
        self.engine.step([(self.session, ids, int(keep_logits))])
        self.ids.extend(ids)

    @property
    def is_full(self) -> bool:
        return len(self.ids) >= self.engine.n_ctx

    def close(self) -> None:
        self.session.close()
