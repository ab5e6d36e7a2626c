"""A vocabulary on its way into a GGUF file: texts and types by id, and how text becomes ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gguf.constants import Keys, TokenType

from localllm.convert.gguf_values import f32s, flag, i32s, string, strings, u32

MAX_TOKENS = 1 << 21  # far above any released model
NO_SCORE = -1000.0  # of tokens that no merge may make


@dataclass
class Vocabulary:
    """model: tokenizer.ggml.model. pre: the pre-tokenizer of byte-level BPE.

    scores: of SentencePiece, the highest is joined first. merges: of BPE, "left right".
    flags, ids: by the keys of metadata that hold one flag or one id.
    doubtful: tokens that scores would make in other places than the merges they came from; in a
    SentencePiece model only added ones are, which are cut out of a text before.
    """

    model: str
    tokens: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    pre: str | None = None
    scores: list[float] | None = None
    merges: Sequence[str] | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)

    def put(self, id: int, text: str, type: TokenType) -> None:
        """Names a token; ids that were skipped are unused ones."""
        while len(self.tokens) <= id:
            self.add_unused()
        self.tokens[id], self.types[id] = text, type
        if self.scores is not None and type != TokenType.NORMAL:
            self.scores[id] = NO_SCORE

    def add_unused(self) -> None:
        self.tokens.append(f"[PAD{len(self.tokens)}]")
        self.types.append(TokenType.UNUSED)
        if self.scores is not None:
            self.scores.append(NO_SCORE)

    def find(self, text: str) -> int | None:
        try:
            return self.tokens.index(text)
        except ValueError:
            return None

    def fit(self, n_vocab: int) -> list[str]:
        """Exactly as many tokens as the embedding has rows; returns the texts that have no row."""
        while len(self.tokens) < n_vocab:
            self.add_unused()
        beyond = self.tokens[n_vocab:]
        for values in (self.tokens, self.types, self.scores):
            if values is not None:
                del values[n_vocab:]
        self.ids = {key: id for key, id in self.ids.items() if id < n_vocab}
        return beyond

    def metadata(self) -> dict[str, bytes]:
        found = {Keys.Tokenizer.MODEL: string(self.model)}
        if self.pre is not None:
            found[Keys.Tokenizer.PRE] = string(self.pre)
        found[Keys.Tokenizer.LIST] = strings(self.tokens)
        found[Keys.Tokenizer.TOKEN_TYPE] = i32s(self.types)
        if self.scores is not None:
            found[Keys.Tokenizer.SCORES] = f32s(self.scores)
        if self.merges is not None:
            found[Keys.Tokenizer.MERGES] = strings(self.merges)
        found |= {key: u32(id) for key, id in self.ids.items()}
        return found | {key: flag(value) for key, value in self.flags.items()}
