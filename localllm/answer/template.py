"""Chat templates: a conversation becomes the token ids a model was trained to see.

A template is a program that came with a download, so it runs in Jinja's immutable sandbox with a
bounded amount of work, text and time: loops, calls, filters, joins and outputs all draw on one
account (`Allowance`), and running out ends the rendering.

What people write is data: it never becomes a control token, whatever it contains and wherever the
template puts it. Before rendering, an invisible mark (a character that occurs nowhere else) is put
at both ends of every text in the conversation, inside its surrounding white space so that trimming
still works, and behind the first character of every control token spelled in it. The template
moves the texts about, marks and all. In the result a control token is real exactly where its
letters stand together without a mark: they all came from the template. If the unmarked text has no
other control tokens, it is tokenized whole, as the model's authors do; otherwise the stretches
between the real ones are tokenized as plain text, in which nothing can become a control token.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from localllm.errors import TemplateError, UsageError

if TYPE_CHECKING:
    from localllm.engines.base import ModelFile

Message = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")

MAX_SOURCE = 1 << 20  # characters of a template
MAX_TEXT = 1 << 24  # characters of any one text it makes
MAX_WORK = 20_000_000  # units: a character made costs one, a turn of a loop or a call 100
TURN_WORK = 100
MAX_SECONDS = 5.0
MAX_DIGITS = 4096  # bits of an integer
MAX_WIDTH = 1000  # of padding and indentation

# What a template may call: methods of text and filters whose results are about as long as what they
# read, and those of GROWTH, which are measured first.
# fmt: off
TEXT_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "title", "upper",
))
FILTERS = (
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list",
    "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe",
    "select", "selectattr", "slice", "sort", "title", "trim", "unique", "upper", "wordcount",
)
# fmt: on
GLOBALS = ("dict", "namespace")

# Code points that Unicode keeps from ever being characters.
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
HIDDEN_MARK = re.compile(r"\\u(fd[de][0-9a-f])")
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


# ---- the sandbox -----------------------------------------------------------------------------


class Allowance:
    """The work, text and time one rendering may use."""

    def __init__(self) -> None:
        self.refill(0)

    def refill(self, n_input: int) -> None:
        self.work_left = MAX_WORK + 64 * n_input
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self, n: int) -> None:
        self.work_left -= n
        if self.work_left < 0 or time.monotonic() > self.deadline:
            raise SecurityError("it does more work than a chat template may")

    def make(self, n_chars: int) -> None:
        """Accounts for a text of this length before it is made."""
        if n_chars > MAX_TEXT:
            raise SecurityError("it makes more text than a chat template may")
        self.spend(n_chars)


def size_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1


def listed(value: Any) -> Any:
    """A stream of values as a list, so that it can be measured before it is used."""
    return list(value) if isinstance(value, (Iterator, range)) else value


def spell(value: Any) -> str:
    """What printing shows; Python's own spelling of a list hides marks, so they are put back."""
    if isinstance(value, str):
        return value
    return HIDDEN_MARK.sub(lambda hit: chr(int(hit.group(1), 16)), str(value))


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it, with every way to grow accounted for."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, GenerationTag],
            finalize=self.print_value,
            optimized=False,
            cache_size=0,
        )
        self.allowance = Allowance()
        self.globals = {name: self.globals[name] for name in GLOBALS} | {
            "range": self.bounded_range,
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
        }
        calls = {name: self.filters[name] for name in FILTERS}
        calls |= {"tojson": tojson, "from_json": from_json, "string": spell}
        self.filters = {name: self.accounted(name, call) for name, call in calls.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parses, then routes loops and the ~ operator, which the sandbox misses, through here."""
        tree = Parser(self, source, name, filename).parse()
        Reroute().visit(tree)
        return tree.set_environment(self)  # type: ignore[return-value]  # it returns itself

    def turns(self, values: Any) -> Iterator[Any]:
        for value in values:
            self.allowance.spend(TURN_WORK)
            yield value

    def joined(self, *parts: Any) -> str:
        texts = [spell(part) for part in parts]
        self.allowance.make(sum(map(len, texts)))
        return "".join(texts)

    def print_value(self, value: Any) -> Any:
        text = spell(value)
        self.allowance.make(len(text))
        return text

    def bounded_range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        if len(numbers) > MAX_WORK // TURN_WORK:
            raise SecurityError("it asks for a range longer than a chat template may")
        self.allowance.spend(len(numbers))
        return numbers

    def call(self, context: Context, callee: Any, *args: Any, **keywords: Any) -> Any:
        self.allowance.spend(TURN_WORK)
        args = tuple(map(listed, args))
        method = getattr(callee, "__wrapped__", callee)
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            values = [text, *args, *keywords.values()]
            if method.__name__ == "join":
                values[:2] = values[1::-1]
            GROWTH.get(method.__name__, Sandbox.check_plain)(self, values)
        return super().call(context, callee, *args, **keywords)

    def check_plain(self, values: list[Any]) -> None:
        self.allowance.make(size_of(values[0]))

    def check_format(self, values: list[Any]) -> None:
        """`values` are the form and what is put into it; widths are the way this grows."""
        form = str(values[0])
        if re.search(r"\d{4}|\*|\{[^{}]*\{", form):
            raise SecurityError("it formats to a width a chat template may not")
        gaps = form.count("%") + form.count("{")
        self.allowance.make(len(form) + gaps * (MAX_WIDTH + sum(map(size_of, values))))

    def check_replace(self, values: list[Any]) -> None:
        text, old, new = (str(value) for value in values[:3])
        self.allowance.make(len(text) + text.count(old) * len(new))

    def check_join(self, values: list[Any]) -> None:
        parts, separator = values[0], str(values[1]) if len(values) > 1 else ""
        self.allowance.make(sum(map(size_of, parts)) + len(separator) * len(parts))

    def check_indent(self, values: list[Any]) -> None:
        text = str(values[0])
        self.allowance.make(len(text) + (text.count("\n") + 1) * MAX_WIDTH)

    def accounted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The filter, charged for what it reads and, where it grows text, for what it makes."""

        @functools.wraps(call)
        def charged(*args: Any, **keywords: Any) -> Any:
            args = tuple(map(listed, args))
            values = [*args, *keywords.values()]
            if any(isinstance(value, int) and abs(value) > MAX_WIDTH for value in values[1:]):
                raise SecurityError("it passes a filter a larger number than a chat template may")
            self.allowance.spend(TURN_WORK + sum(map(size_of, values)))
            if name in GROWTH:
                GROWTH[name](self, [v for v in values if not isinstance(v, nodes.EvalContext)])
            return call(*args, **keywords)

        return charged

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = size_of(left), size_of(right)
        if operator == "%" and isinstance(left, str):
            self.check_format([left, right])
        elif operator == "**" or (operator == "*" and integers(left, right)):
            check_digits(operator, left, right)
        elif operator == "*":
            self.allowance.make(max(sizes) * max(as_count(left), as_count(right)))
        else:
            self.allowance.make(sum(sizes))
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr not in TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


# Filters and methods of text whose result can be much longer than what they read.
GROWTH: dict[str, Callable[[Sandbox, list[Any]], None]] = {
    "format": Sandbox.check_format,
    "indent": Sandbox.check_indent,
    "join": Sandbox.check_join,
    "replace": Sandbox.check_replace,
}


class GenerationTag(Extension):
    """{% generation %} marks the assistant's words for training; here its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Reroute(NodeTransformer):
    """Sends loops and `a ~ b` through methods of the sandbox."""

    def visit_For(self, loop: nodes.For) -> nodes.Node:
        self.generic_visit(loop)
        loop.iter = call_environment("turns", [loop.iter])
        return loop

    def visit_Concat(self, concat: nodes.Concat) -> nodes.Node:
        self.generic_visit(concat)
        return call_environment("joined", concat.nodes)


def call_environment(method: str, args: list[Any]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), args, [], None, None)


def integers(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)


def as_count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def check_digits(operator: str, left: Any, right: Any) -> None:
    bits = [abs(value).bit_length() if isinstance(value, int) else 64 for value in (left, right)]
    power = bits[0] * (right if isinstance(right, int) and right > 0 else 1)
    if (power if operator == "**" else sum(bits)) > MAX_DIGITS:
        raise SecurityError("it computes a number larger than a chat template may")


def raise_exception(message: str) -> None:
    raise jinja2.TemplateRuntimeError(str(message))


def strftime_now(form: str) -> str:
    if len(form) > MAX_WIDTH or re.search(r"%[^a-zA-Z%]*\d", form):
        raise SecurityError("it asks for a date format that is too long")
    return time.strftime(form)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates expect it: no HTML escapes, keys in their order."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return BEYOND_ASCII.sub(escape_json, text) if ensure_ascii else text


def escape_json(hit: re.Match[str]) -> str:
    return hit.group() if hit.group() in MARKS else json.dumps(hit.group())[1:-1]


def from_json(text: str) -> Any:
    return json.loads(text)


# ---- rendering -------------------------------------------------------------------------------


class ChatTemplate:
    """A model's template, compiled.

    Raises: TemplateError, when it does not compile.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source)} characters, too many")
        self.source = source
        self.tokens = {"bos_token": bos, "eos_token": eos}
        self.sandbox = Sandbox()
        try:
            self.compiled = self.sandbox.from_string(source)
        except Exception as error:
            raise failed(error) from error

    @property
    def knows_thinking(self) -> bool:
        return "enable_thinking" in self.source

    def render(self, messages: Sequence[Message], think: bool | None = None) -> str:
        """The conversation as text, up to where the assistant speaks next.

        Raises: TemplateError; UsageError, when `think` is given and the template ignores it.
        """
        settings: dict[str, Any] = {}
        if think is not None:
            if not self.knows_thinking:
                raise UsageError("this model's chat template does not know thinking on or off")
            settings["enable_thinking"] = think
        self.sandbox.allowance.refill(sum(len(str(message)) for message in messages))
        pieces: list[str] = []
        n_chars = 0
        try:
            for piece in self.compiled.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self.tokens,
                **settings,
            ):
                pieces.append(piece)
                n_chars += len(piece)
                if n_chars > MAX_TEXT:
                    raise SecurityError("it makes more text than a chat template may")
        except Exception as error:
            raise failed(error) from error
        return "".join(pieces)


def failed(error: Exception) -> TemplateError:
    if isinstance(error, RecursionError):
        return TemplateError("the model's chat template failed: it is nested too deeply")
    reason = str(error).strip() or type(error).__name__
    line = getattr(error, "lineno", None)
    where = f" (line {line})" if line else ""
    return TemplateError(f"the model's chat template failed: {reason}{where}", "--raw goes without")


def check_messages(messages: Sequence[Message]) -> None:
    """Raises: UsageError, for a conversation no template can have been written for."""
    if not messages:
        raise UsageError("a conversation needs at least one message")
    for message in messages:
        if message.get("role") not in ROLES:
            raise UsageError(f"role {message.get('role')!r} is not one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise UsageError("the content of a message must be text")


# ---- what came from people stays text --------------------------------------------------------


class Control(NamedTuple):
    """One control token spelled out in a text."""

    start: int
    end: int
    id: int


class ControlTokens:
    """The texts of a vocabulary's control tokens, and where they occur in a text."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = {text: id for text, id in ids.items() if text}
        firsts = "".join(sorted({re.escape(text[0]) for text in self.ids}))
        self.first = re.compile(f"[{firsts}]") if firsts else None
        self.lengths: dict[str, list[int]] = {}
        for text in self.ids:
            self.lengths.setdefault(text[0], []).append(len(text))
        for first, lengths in self.lengths.items():
            self.lengths[first] = sorted(set(lengths), reverse=True)

    def find(self, text: str) -> Iterator[Control]:
        """Every occurrence, from the left, the longest where several begin."""
        position = 0
        while self.first and (hit := self.first.search(text, position)):
            start = hit.start()
            position = start + 1
            for length in self.lengths[hit.group()]:
                id = self.ids.get(text[start : start + length])
                if id is not None:
                    yield Control(start, start + length, id)
                    position = start + length
                    break

    def find_starts(self, text: str) -> set[int]:
        """Where any occurrence begins, overlapping ones too."""
        if self.first is None:
            return set()
        return {
            hit.start()
            for hit in self.first.finditer(text)
            if any(
                text[hit.start() : hit.start() + n] in self.ids for n in self.lengths[hit.group()]
            )
        }


def read_control_tokens(file: ModelFile) -> ControlTokens:
    types = file.meta("tokenizer.ggml.token_type") or []
    ids: dict[str, int] = {}
    for id, kind in enumerate(types):
        if kind != 1 and file.token_is_control(id):
            ids.setdefault(file.token_bytes(id, control=True).decode("utf-8", "replace"), id)
    return ControlTokens(ids)


def choose_mark(texts: Sequence[str]) -> str:
    for mark in MARKS:
        if not any(mark in text for text in texts):
            return mark
    raise UsageError("the text holds all 32 code points that are not characters", "--raw")


def mark_text(text: str, mark: str, control: ControlTokens) -> str:
    """The text with marks at its ends, inside its white space, and inside its control tokens."""
    core = text.strip()
    if not core:
        return text
    cuts = [0, *(start + 1 for start in sorted(control.find_starts(core))), len(core)]
    pieces = [core[a:b] for a, b in pairwise(cuts)]
    start = text.index(core)
    marked = mark + mark.join(pieces) + mark
    return text[:start] + marked + text[start + len(core) :]


def mark_values(value: Any, mark: str, control: ControlTokens) -> Any:
    """The same structure with every text in it marked; the names of its parts stay."""
    if isinstance(value, str):
        return mark_text(value, mark, control)
    if isinstance(value, Mapping):
        return {key: mark_values(item, mark, control) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mark_values(item, mark, control) for item in value]
    return value


def mark_message(message: Message, mark: str, control: ControlTokens) -> dict[str, Any]:
    """Roles and part types choose branches of the template and are checked; the rest is marked."""
    marked: dict[str, Any] = mark_values(message, mark, control)
    marked["role"] = message["role"]
    if isinstance(message.get("content"), list):
        for part, original in zip(marked["content"], message["content"], strict=True):
            if isinstance(part, dict) and original.get("type") == "text":
                part["type"] = "text"
    return marked


class Prompt(NamedTuple):
    """A conversation ready to feed: its ids, and the text they stand for."""

    ids: list[int]
    text: str


class ChatEncoder:
    """Turns conversations into the ids of one model. See the head of this file."""

    def __init__(
        self,
        file: ModelFile,
        template: ChatTemplate,
        control: ControlTokens | None = None,
        system: str | None = None,
    ) -> None:
        """system: the system message of conversations that begin with none."""
        self.file = file
        self.template = template
        self.control = control or read_control_tokens(file)
        self.system = system

    def encode(self, messages: Sequence[Message], think: bool | None = None) -> Prompt:
        """Raises: TemplateError, UsageError."""
        check_messages(messages)
        if self.system is not None and messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": self.system}, *messages]
        text, real = self.render(messages, think)
        if real == list(self.control.find(text)):
            ids = self.file.tokenize(text, control=True)
        else:
            ids = self.encode_between(text, real)
        bos = int(self.file.info["bos"])
        if self.file.info["adds_bos"] and bos >= 0 and ids[:1] != [bos]:
            ids = [bos, *ids]
        return Prompt(ids, text)

    def render(
        self, messages: Sequence[Message], think: bool | None = None
    ) -> tuple[str, list[Control]]:
        """The conversation as text, and the control tokens in it that are the template's own.

        A template that cuts texts apart can meet a mark where it would have met white space. Its
        plain rendering is right then, if nobody spelled a control token and it has the same ones.
        """
        texts = list(texts_of(messages))
        mark = choose_mark([self.template.source, *texts])
        marked = [mark_message(message, mark, self.control) for message in messages]
        rendered = self.template.render(marked, think)
        text = rendered.replace(mark, "")
        real = list(unmarked(self.control.find(rendered), rendered, mark))
        plain = self.template.render(messages, think)
        if plain != text and not any(map(self.control.find_starts, texts)):
            found = list(self.control.find(plain))
            if [token.id for token in found] == [token.id for token in real]:
                return plain, found
        return text, real

    def encode_between(self, text: str, real: Sequence[Control]) -> list[int]:
        """Real control tokens by their ids, and what lies between them as plain text."""
        ids: list[int] = []
        position = 0
        for token in real:
            ids += self.file.tokenize(text[position : token.start])
            ids.append(token.id)
            position = token.end
        return ids + self.file.tokenize(text[position:])


def unmarked(found: Iterator[Control], rendered: str, mark: str) -> Iterator[Control]:
    """The same tokens, at their places in the text without its marks."""
    n_marks = position = 0
    for start, end, id in found:
        n_marks += rendered.count(mark, position, start)
        position = start
        yield Control(start - n_marks, end - n_marks, id)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def load_template(file: ModelFile) -> ChatTemplate | None:
    """The template in the model's file, None for a model that has none."""
    source = file.meta("tokenizer.chat_template")
    if not isinstance(source, str) or not source.strip():
        return None
    bos, eos = (
        file.token_bytes(id, control=True).decode("utf-8", "replace") if id >= 0 else ""
        for id in (int(file.info["bos"]), int(file.info["eos"]))
    )
    return ChatTemplate(source.replace("\r\n", "\n").replace("\r", "\n"), bos, eos)
