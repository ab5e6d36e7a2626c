"""`localllm config`: every setting, its value here and now, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from localllm.cli import console, settings
from localllm.cli.app import COMMANDS, make_parser
from localllm.cli.flags import Json, option
from localllm.cli.settings import Settings

if TYPE_CHECKING:
    from typer.core import TyperCommand

# Click's names of where a value comes from, and ours. There is no command line to come from.
ORIGINS = {"ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


class Row(NamedTuple):
    """A setting; `written` is its value before it was parsed, `name` has its command in front where
    it is that one's alone."""

    name: str
    written: Any
    value: Any
    origin: str
    variable: str


def command(
    path: Annotated[
        bool, option("--path", variable="CONFIG_PATH", help="Print where the file is, or would be.")
    ] = False,
    show_origin: Annotated[
        bool, option("--show-origin", help="Tell where each value comes from.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the settings that flags, variables and a file can change.

    The file holds flags by their long names, as `budget = "6G"`: at its top for every command,
    below [run] for run alone. A flag goes before its variable, and that before the file.
    """
    if path:
        console.out(str(settings.file_path()))
        return
    file = settings.read(COMMANDS)
    rows = list(rows_of(file))
    if json:
        where = None if file.path is None else str(file.path)
        keys = ("name", "value", "origin", "variable")
        found = [{key: getattr(row, key) for key in keys} for row in rows]
        console.out_json({"path": where, "settings": found})
        return
    header = ("SETTING", "VALUE", "ORIGIN")
    lines = [(row.name, as_text(row), told(row, file)) for row in rows]
    n_columns = len(header) if show_origin else 2
    console.out_table(header[:n_columns], [line[:n_columns] for line in lines])


def rows_of(file: Settings) -> Iterator[Row]:
    """What holds for every command, then what the file says to one alone. Raises: UsageError."""
    parsers = {verb: make_parser(verb) for verb in COMMANDS}
    for verb, parser in parsers.items():
        settings.defaults(file, verb, parser)
    for key in settings.SETTINGS:
        parser = next(p for p in parsers.values() if key in settings.settings_of(p))
        yield row_of(file, None, parser, key)
    for verb, table in file.tables.items():
        yield from (row_of(file, verb, parsers[verb], key) for key in table)


def row_of(file: Settings, verb: str | None, parser: TyperCommand, key: str) -> Row:
    flag = settings.settings_of(parser)[key]
    said = settings.defaults(file, verb, parser)
    context = parser.context_class(parser, default_map=said)
    written, source = flag.consume_value(context, {})
    variable = str(flag.envvar)
    value = None if written is None else settings.cast(parser, flag, written, variable)
    name = key if verb is None else f"{verb}.{key}"
    return Row(name, written, value, ORIGINS[source.name], variable)


def as_text(row: Row) -> str:
    """A value as it was written, on one line."""
    if row.value is None:
        return "-"
    if isinstance(row.value, bool):
        return "true" if row.value else "false"
    parts = row.written if isinstance(row.written, list) else [row.written]
    return ", ".join(text if text.isprintable() else repr(text) for text in map(str, parts))


def told(row: Row, file: Settings) -> str:
    return {"environment": row.variable, "file": str(file.path)}.get(row.origin, row.origin)
