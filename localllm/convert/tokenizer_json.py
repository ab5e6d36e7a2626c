"""tokenizer.json: the tokenizer as the tokenizers library stores it.

Two kinds become GGUF. Byte-level BPE keeps its merges. SentencePiece's BPE, which this file also
spells as merges, becomes scores: a token's is minus the rank of the first merge that makes it, so
that the pair with the highest score is the pair with the lowest rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gguf.constants import Keys, TokenType

from localllm.convert.checkpoint import Config
from localllm.convert.json_file import kind_of
from localllm.convert.pre_tokenizers import recognise
from localllm.convert.vocabulary import MAX_TOKENS, NO_SCORE, Vocabulary
from localllm.errors import IntegrityError

FILE = "tokenizer.json"
SPACE = "\u2581"  # what SentencePiece writes for a space
NEVER = NO_SCORE * MAX_TOKENS  # of tokens that no merge makes: below any rank
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def read_tokenizer_json(definition: dict[str, Any]) -> Vocabulary:
    """The vocabulary without its added tokens. Raises: IntegrityError."""
    root = Config(definition, FILE)
    model = Config(root.part("model").given, f"the model in {FILE}")
    kind = model.over({"type": "BPE"}).text("type")
    if kind != "BPE":
        raise IntegrityError(f"the tokenizer in {FILE} is {kind[:40]!r}, expected BPE")
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.find(setting):
            raise IntegrityError(f"{model.where} has a {setting}, which is not supported")
    defaults = {"byte_fallback": False, "ignore_merges": False}
    settings = model.over(defaults)
    if settings.flag("byte_fallback"):
        return read_sentencepiece(root, model, settings.flag("ignore_merges"))
    vocabulary = Vocabulary(
        "gpt2", pre=recognise(root.find("pre_tokenizer"), settings.flag("ignore_merges"))
    )
    normalizer = root.part("normalizer")
    if normalizer.given and normalizer.text("type") != "NFC":
        raise IntegrityError(f"the normalizer in {FILE} is {normalizer.text('type')[:40]!r}")
    fill(vocabulary, model)
    vocabulary.merges = [f"{left} {right}" for left, right in find_merges(model)]
    return vocabulary


def fill(vocabulary: Vocabulary, model: Config) -> None:
    ids = model.require("vocab")
    if not isinstance(ids, dict) or not ids:
        raise model.wrong("vocab", "an object with tokens")
    for text, id in ids.items():
        if type(id) is not int or not 0 <= id < MAX_TOKENS:
            raise IntegrityError(f"{model.where}: the id of {text[:40]!r} is {kind_of(id)}")
    taken: dict[int, str] = {}
    for text, id in ids.items():
        # Gemma's files name the token of the tab's byte twice.
        if id in taken and text not in BYTE_TOKENS:
            if taken[id] not in BYTE_TOKENS:
                raise IntegrityError(f"{model.where}: {taken[id]!r} and {text!r} are both {id}")
            continue
        taken[id] = text
    n = max(taken) + 1
    if n > 2 * len(taken) + 1024:
        raise IntegrityError(f"{model.where}: {len(taken)} tokens have ids up to {n - 1}")
    for id in range(n):
        if id in taken:
            vocabulary.put(id, taken[id], TokenType.NORMAL)
        else:
            vocabulary.add_unused()


def find_merges(model: Config) -> Iterator[tuple[str, str]]:
    """The pairs in their order; older files join each by a space."""
    merges = model.require("merges")
    if not isinstance(merges, list):
        raise model.wrong("merges", "a list")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(p, str) for p in pair)
        ):
            raise IntegrityError(
                f"{model.where}: the merge {str(merge)[:60]!r} is no pair of texts"
            )
        yield pair[0], pair[1]


# ---- SentencePiece's BPE -------------------------------------------------------------------------


def read_sentencepiece(root: Config, model: Config, ignore_merges: bool) -> Vocabulary:
    if ignore_merges:
        raise IntegrityError(f"{model.where} ignores merges, which this kind of tokenizer cannot")
    vocabulary = Vocabulary("llama", scores=[])
    vocabulary.flags[Keys.Tokenizer.ADD_PREFIX] = adds_space(root)
    fill(vocabulary, model)
    ids = {text: id for id, text in enumerate(vocabulary.tokens)}
    vocabulary.scores = score_merges(vocabulary, ids, model)
    lacking = [text for text in BYTE_TOKENS if text not in ids]
    if lacking:
        raise IntegrityError(f"{model.where} has no token {lacking[0]}")
    for text in BYTE_TOKENS:
        vocabulary.types[ids[text]] = TokenType.BYTE
    unknown = ids.get(str(model.find("unk_token")))
    if unknown is not None:
        vocabulary.types[unknown] = TokenType.UNKNOWN
        vocabulary.ids[Keys.Tokenizer.UNK_ID] = unknown
    return vocabulary


def score_merges(vocabulary: Vocabulary, ids: dict[str, int], model: Config) -> list[float]:
    """A score for every token, and in `doubtful` those of which scores cannot say what merges do:
    what some merge makes early and another late, and what none makes though its parts are there."""
    scores = [NEVER] * len(vocabulary.tokens)
    last = None
    for rank, (left, right) in enumerate(find_merges(model)):
        id = ids.get(left + right)
        if id is None:
            raise IntegrityError(f"{model.where}: the merge {rank} makes no token")
        if scores[id] == NEVER:
            scores[id] = float(-rank)
        elif id != last:
            vocabulary.doubtful.add(id)
        last = id
    for text, id in ids.items():
        if scores[id] == NEVER and any(
            text[:n] in ids and text[n:] in ids for n in range(1, len(text))
        ):
            vocabulary.doubtful.add(id)
    return scores


def adds_space(root: Config) -> bool:
    """Whether a text gets a space in front. Raises: IntegrityError for steps that do more."""
    steps = [*parts_of(root, "normalizer", "normalizers")]
    steps += parts_of(root, "pre_tokenizer", "pretokenizers")
    adds = marks = False
    for step in steps:
        kind = step.text("type")
        if kind == "Prepend" and step.text("prepend") == SPACE:
            adds = True
        elif kind == "Replace" and replaces_space(step):
            marks = True
        elif kind == "Metaspace" and step.find("split") is False:
            scheme = step.over({"prepend_scheme": "always"}).text("prepend_scheme")
            adds, marks = adds or scheme != "never", True
        # Spaces have been replaced by then, so that there is nothing to split.
        elif not (kind == "Split" and marks and step.part("pattern").given == {"String": " "}):
            raise IntegrityError(f"the step {kind[:40]!r} in {FILE} is not one of SentencePiece's")
    if not marks:
        raise IntegrityError(
            f"nothing in {FILE} replaces spaces by {SPACE!r}, as its tokens have it"
        )
    return adds


def replaces_space(step: Config) -> bool:
    return step.part("pattern").given == {"String": " "} and step.find("content") == SPACE


def parts_of(root: Config, key: str, list_key: str) -> list[Config]:
    whole = root.part(key)
    if not whole.given:
        return []
    if whole.text("type") != "Sequence":
        return [whole]
    parts = whole.require(list_key)
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise whole.wrong(list_key, "a list of objects")
    return [Config(part, whole.where) for part in parts]
