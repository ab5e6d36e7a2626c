"""Which pre-tokenizer a tokenizer.json describes, told from its own definition.

A definition is taken apart into the regular expressions it splits by, in order. One that is not in
the table is an error: the wrong one would split text in other places, and nobody would notice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from localllm.convert.checkpoint import Config
from localllm.convert.json_file import kind_of
from localllm.errors import IntegrityError

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
ANY_CASE = f"(?i:{CONTRACTIONS})"
# The same spelled out, as some files have it.
SPELLED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"

GPT2 = CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3, QWEN2 = WORDS % r"\p{N}{1,3}", WORDS % r"\p{N}"
DIGIT = r"\p{N}"


class Known(NamedTuple):
    """name: tokenizer.ggml.pre, as the engine has it."""

    name: str
    splits: tuple[str, ...]
    ignore_merges: bool = False


KNOWN = (
    Known("gpt-2", (GPT2,)),
    Known("smollm", (DIGIT, GPT2)),
    Known("llama-bpe", (LLAMA3,), ignore_merges=True),
    Known("smaug-bpe", (LLAMA3,)),
    Known("qwen2", (QWEN2,)),
)


def recognise(definition: Any, ignore_merges: bool) -> str:
    """The name of a byte-level pre-tokenizer. Raises: IntegrityError."""
    steps = find_steps(definition)
    if not steps or not steps[-1].is_byte_level:
        raise IntegrityError(
            f"the pre-tokenizer in tokenizer.json is {names(definition)}, expected one that ends "
            "in ByteLevel"
        )
    splits = tuple(split for step in steps for split in step.splits)
    for known in KNOWN:
        if (known.splits, known.ignore_merges) == (splits, ignore_merges):
            return known.name
    merges = " and ignores merges" if ignore_merges else ""
    raise IntegrityError(
        f"the pre-tokenizer in tokenizer.json is not known: it splits by "
        f"{list(splits)!r:.600}{merges}"
    )


class Step(NamedTuple):
    splits: tuple[str, ...]
    is_byte_level: bool = False


def find_steps(definition: Any) -> list[Step]:
    if definition is None:
        return []
    step = as_config(definition)
    kind = step.text("type")
    if kind == "Sequence":
        parts = step.require("pretokenizers")
        if not isinstance(parts, list):
            raise step.wrong("pretokenizers", "a list")
        if any(isinstance(part, dict) and part.get("type") == kind for part in parts):
            raise IntegrityError(f"{step.where} has sequences in a sequence")
        return [found for part in parts for found in find_steps(part)]
    if kind == "ByteLevel":
        # Both are on where a file does not say.
        if step.over({"add_prefix_space": True}).flag("add_prefix_space"):
            raise IntegrityError(f"{step.where} adds a space in front, which is not supported")
        own = step.over({"use_regex": True}).flag("use_regex")
        return [Step((GPT2,) if own else (), is_byte_level=True)]
    if kind == "Digits":
        single = step.over({"individual_digits": False}).flag("individual_digits")
        return [Step((DIGIT if single else DIGIT + "+",))]
    if kind == "Split":
        return [Step((find_split(step),))]
    raise IntegrityError(f"{step.where} has a step {kind[:40]!r}, which is not known")


def find_split(step: Config) -> str:
    """The regular expression of a Split whose matches stay, and what lies between them.

    "Removed" drops what lies between, of which the expressions in the table leave nothing.
    """
    pattern, behavior = step.part("pattern"), step.text("behavior")
    invert = step.over({"invert": False}).flag("invert")
    keeps_all = (behavior, invert) in (("Isolated", False), ("Removed", True))
    if pattern.find("Regex") is None or not keeps_all:
        raise IntegrityError(
            f"{step.where} splits by {pattern.given!r:.300} with the behavior {behavior[:40]!r}, "
            "expected a Regex and 'Isolated'"
        )
    return pattern.text("Regex").replace(SPELLED, ANY_CASE)


def as_config(definition: Any) -> Config:
    where = "the pre-tokenizer in tokenizer.json"
    if not isinstance(definition, dict):
        raise IntegrityError(f"{where} is {kind_of(definition)}, expected an object")
    return Config(definition, where)


def names(definition: Any) -> str:
    """The kinds of a definition, for messages."""
    if definition is None:
        return "null"
    if not isinstance(definition, dict):
        return kind_of(definition)
    parts = definition.get("pretokenizers")
    if isinstance(parts, list):
        return " and ".join(names(part) for part in parts) or "an empty sequence"
    return str(definition.get("type"))[:40]
