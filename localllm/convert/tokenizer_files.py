"""The tokenizer of a checkpoint: its vocabulary, and what the files beside it say of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gguf.constants import Keys, TokenType

from localllm.convert.checkpoint import Checkpoint, Config
from localllm.convert.families.family import Note
from localllm.convert.json_file import kind_of
from localllm.convert.sentencepiece_model import read_tokenizer_model
from localllm.convert.tokenizer_json import FILE, SPACE, read_tokenizer_json
from localllm.convert.vocabulary import MAX_TOKENS, Vocabulary
from localllm.engines.native import end_texts
from localllm.errors import IntegrityError

SENTENCEPIECE, SETTINGS, SPECIAL = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
GENERATION = "generation_config.json"
DECODER = "added_tokens_decoder"

# The keys that hold the ids of tokens with a role, and whether those are put around a text.
IDS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "mask": Keys.Tokenizer.MASK_ID,
}
ADDS = {"bos": Keys.Tokenizer.ADD_BOS, "eos": Keys.Tokenizer.ADD_EOS}

# The keys that name tokens at which an answer ends.
ENDS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)

# What a token is called that is for control whatever its file says: llama.cpp's converter has the
# same list, and without it some models' files would let a user's text become one.
CONTROL_NAMES = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
CONTROL_ENDS = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


class AddedToken(NamedTuple):
    """A token that is cut out of a text before the rest is tokenized."""

    id: int
    text: str
    is_special: bool
    strips: bool  # takes the white space beside it along

    @property
    def is_control(self) -> bool:
        ends = any(self.text.startswith(a) and self.text.endswith(b) for a, b in CONTROL_ENDS)
        return self.is_special or self.text in CONTROL_NAMES or ends


def read_tokenizer(checkpoint: Checkpoint, n_vocab: int, note: Note) -> Vocabulary:
    """The vocabulary with exactly n_vocab tokens. Raises: OSError, IntegrityError."""
    definition = checkpoint.read_json(FILE)
    settings = Config(checkpoint.read_json(SETTINGS) or {}, SETTINGS)
    if (checkpoint.folder / SENTENCEPIECE).is_file():
        vocabulary = read_tokenizer_model(checkpoint.folder / SENTENCEPIECE)
    elif definition is not None:
        vocabulary = read_tokenizer_json(definition)
    else:
        raise IntegrityError(f"the checkpoint has no tokenizer: neither {FILE} nor {SENTENCEPIECE}")
    added = list(read_added(checkpoint, definition, settings))
    add(vocabulary, added)
    require_scores(vocabulary)
    name_special(vocabulary, checkpoint, settings)
    set_flags(vocabulary, Config(definition or {}, FILE), settings)
    name_ends(vocabulary, checkpoint)
    beyond = vocabulary.fit(n_vocab)
    if beyond:
        listed = ", ".join(beyond[:5])
        note(f"{len(beyond)} tokens have no row in the embedding and are left out: {listed}")
    strips = [token.text for token in added if token.strips and token.id < n_vocab]
    if strips:
        note(f"white space beside {', '.join(strips[:5])} is kept; the original takes it along")
    return vocabulary


# ---- added tokens --------------------------------------------------------------------------------


def read_added(
    checkpoint: Checkpoint, definition: dict[str, Any] | None, settings: Config
) -> Iterator[AddedToken]:
    """The added tokens by id: those of tokenizer.json, or where there is none of older files."""
    found: dict[int, AddedToken] = {}
    listed = Config(definition or {}, FILE).find("added_tokens") or []
    if not isinstance(listed, list):
        raise IntegrityError(f"added_tokens in {FILE} is {kind_of(listed)}, expected a list")
    for entry in listed:
        token = read_entry(entry, None, FILE)
        found[token.id] = token
    for id, entry in settings.part(DECODER).given.items():
        found[int_of(id)] = read_entry(entry, int_of(id), SETTINGS)
    for text, id in (checkpoint.read_json("added_tokens.json") or {}).items():
        token = read_entry({"id": id, "content": text}, None, "added_tokens.json")
        found.setdefault(token.id, token)
    yield from (found[id] for id in sorted(found))


def read_entry(entry: Any, id: int | None, where: str) -> AddedToken:
    if not isinstance(entry, dict):
        raise IntegrityError(f"an added token in {where} is {kind_of(entry)}, expected an object")
    token = Config(entry, f"an added token in {where}")
    off = dict.fromkeys(("special", "lstrip", "rstrip", "single_word"), False)
    flags = token.over(off)
    if id is None:
        id = token.require("id")
    if type(id) is not int or not 0 <= id < MAX_TOKENS:
        raise IntegrityError(f"{token.where} has the id {id!r:.40}")
    text = token.text("content")
    if flags.flag("single_word"):
        raise IntegrityError(f"{token.where}, {text[:40]!r}, is for whole words only")
    return AddedToken(id, text, flags.flag("special"), flags.flag("lstrip") or flags.flag("rstrip"))


def int_of(id: str) -> int:
    if not id.isascii() or not id.isdigit() or len(id) > 8:
        raise IntegrityError(f"{DECODER} in {SETTINGS} has the id {id[:40]!r}")
    return int(id)


def add(vocabulary: Vocabulary, added: list[AddedToken]) -> None:
    for token in added:
        if token.id > len(vocabulary.tokens) + len(added) + 65536:
            raise IntegrityError(
                f"the added token {token.text[:40]!r} has the id {token.id}, in a vocabulary of "
                f"{len(vocabulary.tokens)}"
            )
        known = token.id < len(vocabulary.types)
        if known and vocabulary.types[token.id] in (TokenType.UNKNOWN, TokenType.BYTE):
            continue
        if token.is_control:
            vocabulary.put(token.id, token.text, TokenType.CONTROL)
        else:
            # Text is looked through for these before its spaces are replaced.
            plain = token.text.replace(SPACE, " ") if vocabulary.model == "llama" else token.text
            vocabulary.put(token.id, plain, TokenType.USER_DEFINED)


def require_scores(vocabulary: Vocabulary) -> None:
    for id in vocabulary.doubtful:
        if vocabulary.types[id] == TokenType.NORMAL:
            raise IntegrityError(
                f"the merges in {FILE} are not those of a SentencePiece model: no order of tokens "
                f"makes {vocabulary.tokens[id][:40]!r} as they do"
            )


# ---- what tokens are for -------------------------------------------------------------------------


def name_special(vocabulary: Vocabulary, checkpoint: Checkpoint, settings: Config) -> None:
    """The ids of bos, eos and their like, by the texts that the settings give them."""
    special = Config(checkpoint.read_json(SPECIAL) or {}, SPECIAL)
    for role, key in IDS.items():
        setting = f"{role}_token"
        within = settings if setting in settings.given else special
        id = find_token(vocabulary, within, setting)
        if id is None and key not in vocabulary.ids:
            id = next(iter(ids_in(checkpoint.config, f"{setting}_id")), None)
        if id is not None:
            vocabulary.ids[key] = id


def find_token(vocabulary: Vocabulary, settings: Config, key: str) -> int | None:
    value = settings.find(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str):
        raise settings.wrong(key, "a text")
    id = vocabulary.find(value)
    if id is None and key in ("bos_token", "eos_token"):
        raise IntegrityError(f"{key} in {settings.where} is {value[:40]!r}, which is no token")
    return id


def ids_in(settings: Config, key: str) -> list[int]:
    """One id or several."""
    value = settings.find(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(id) is int and -1 <= id < MAX_TOKENS for id in ids):
        raise settings.wrong(key, "ids")
    return [id for id in ids if id >= 0]


def name_ends(vocabulary: Vocabulary, checkpoint: Checkpoint) -> None:
    """Every id that ends an answer: by its text, which engines know, or by a key of its own."""
    generation = Config(checkpoint.read_json(GENERATION) or {}, GENERATION)
    ends = [*ids_in(generation, "eos_token_id"), *ids_in(checkpoint.config, "eos_token_id")]
    known_texts = end_texts()
    for id in dict.fromkeys(ends):
        if id >= len(vocabulary.tokens):
            raise IntegrityError(f"an answer ends with id {id}, which is no token")
        by_text = Keys.Tokenizer.EOS_ID in vocabulary.ids and vocabulary.tokens[id] in known_texts
        if by_text or id in (vocabulary.ids.get(key) for key in ENDS):
            continue
        free = [key for key in ENDS if key not in vocabulary.ids]
        if not free:
            raise IntegrityError(
                f"answers end with {len(set(ends))} different tokens, more than GGUF can name"
            )
        vocabulary.ids[free[0]] = id


def set_flags(vocabulary: Vocabulary, definition: Config, settings: Config) -> None:
    """What is put around a text: as the settings say, else as the post-processor does."""
    adds = read_post_processor(definition, vocabulary)
    for role, key in ADDS.items():
        setting = f"add_{role}_token"
        if settings.find(setting) is not None:
            vocabulary.flags[key] = settings.flag(setting)
        elif definition.given:
            vocabulary.flags[key] = adds[role]


def read_post_processor(definition: Config, vocabulary: Vocabulary) -> dict[str, bool]:
    """Whether bos and eos are put around a text. Raises: IntegrityError for anything else."""
    adds = {"bos": False, "eos": False}
    whole = definition.part("post_processor")
    steps = whole.find("processors") if whole.find("type") == "Sequence" else [whole.given]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise whole.wrong("processors", "a list of objects")
    for step in steps:
        kind = step.get("type") if step else "ByteLevel"
        if kind == "TemplateProcessing":
            role = "bos"
            for name in template_parts(step, whole.where):
                if name is None:
                    role = "eos"
                elif vocabulary.find(name) != vocabulary.ids.get(IDS[role]):
                    raise IntegrityError(f"{whole.where} puts {name[:40]!r} where {role} would be")
                else:
                    adds[role] = True
        elif kind != "ByteLevel":  # which only moves offsets
            raise IntegrityError(f"{whole.where} is {str(kind)[:40]!r}, which is not known")
    return adds


def template_parts(step: dict[str, Any], where: str) -> Iterator[str | None]:
    """The texts of special tokens around a text, which itself is None."""
    parts = step.get("single")
    for part in parts if isinstance(parts, list) else [None]:
        special = part.get("SpecialToken") if isinstance(part, dict) else None
        if isinstance(special, dict) and isinstance(special.get("id"), str):
            yield special["id"]
        elif isinstance(part, dict) and "Sequence" in part:
            yield None
        else:
            raise IntegrityError(f"{where} has no template of tokens and one text")
