"""Where the values of a command's flags came from, so that an error names what one can change.

A sentence speaks of `--budget`, of `temperature`, or of a value, whoever gave it. Where that was
the config file or a variable, it is named in the flag's stead, or behind the sentence.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from localllm.cli.settings import Settings, flags_of
from localllm.errors import LocalLLMError, UsageError

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperOption


class Origin(NamedTuple):
    """One value that was not typed: its flag's long name, its parameter's, and where it stands."""

    name: str
    parameter: str
    value: Any
    place: str

    def is_meant(self, sentence: str) -> bool:
        """Whether a sentence that has no flag in it begins with the name, or quotes the value."""
        quoted = (f"'{self.value}'", f'"{self.value}"')
        begins = re.match(rf"({self.name}|{self.parameter}) is ", sentence)
        return begins is not None or any(text in sentence for text in quoted)


class Origins:
    """Those of one run of a command."""

    def __init__(self, rows: list[Origin]) -> None:
        self.rows = rows

    def named(self, text: str) -> str:
        """The text with their places instead of the flags of values that were not typed."""
        for row in self.rows:
            before, after = r"(?<![\w-])", r"(?![\w-])"
            text = re.sub(f"{before}--{row.name}{after}", row.place.replace("\\", r"\\"), text)
        return text

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors that leave from here name the places."""
        try:
            yield
        except LocalLLMError as error:
            sentence = self.named(str(error))
            if sentence == str(error) and isinstance(error, UsageError):
                places = [row.place for row in self.rows if row.is_meant(sentence)]
                sentence += f" ({', '.join(places)})" if places else ""
            error.args = (sentence,)
            raise


def find(
    settings: Settings,
    verb: str,
    parser: TyperCommand,
    source_of: Callable[[str], enum.Enum | None],
    values: Mapping[str, Any],
) -> Origins:
    """The origins of what a command was given, by what Click says of each parameter."""
    rows = []
    for key, flag in flags_of(parser).items():
        parameter = flag.name or key
        place = place_of(settings, verb, key, flag, source_of(parameter))
        if place is not None:
            rows.append(Origin(key, parameter, values[parameter], place))
    return Origins(rows)


def place_of(
    settings: Settings, verb: str, key: str, flag: TyperOption, source: enum.Enum | None
) -> str | None:
    """What holds a value, for people; None for the command line and for defaults."""
    kind = source.name if source is not None else ""
    if kind == "ENVIRONMENT":
        return str(flag.envvar)
    entry = settings.find(verb, key) if kind == "DEFAULT_MAP" else None
    return entry.place if entry is not None else None
