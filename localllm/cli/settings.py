"""The user's config file: what flags say where neither the command line nor a variable does.

$XDG_CONFIG_HOME/localllm/config.toml holds flags by their long names, at its top for every command
that has such a flag, in a table named like a command for that one. Click takes them as its
`default_map`, behind the command line and the environment, and through the same parsers; here they
go through them once before, so that whatever is refused is said with its place in the file.
A command answers for what it reads: the top and its own table. `localllm config` reads all of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from localllm.errors import UsageError
from localllm.folders import config_folder

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperOption

# What may stand in the file: what holds from one command to the next. What a command reads, writes
# and deletes, asks once and shows is of one command line alone: with --json or --yes in a file,
# other people's scripts would break.
SETTINGS = (
    # how this machine is used
    "threads",
    "budget",
    "ctx",
    "cache-type-k",
    "cache-type-v",
    "kernels",
    "no-prefix-cache",
    "adapt",
    "allow-oversubscribe",
    # where models come from
    "offline",
    "no-pull",
    "source",
    # how answers are drawn, and when they end
    "system",
    "think",
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "typical-p",
    "repeat-penalty",
    "frequency-penalty",
    "presence-penalty",
    "seed",
    "stop",
    "max-tokens",
    "truncate",
    "overflow",
    "strict",
    "deadline",
    # what is told beside them
    "quiet",
    "verbose",
    "stats",
)


class Entry(NamedTuple):
    """A value of the file, and its place there for people."""

    value: Any
    place: str


@dataclass(frozen=True)
class Settings:
    """What the file says; `path` is None where there is none. `tables` are by command."""

    path: Path | None = None
    top: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def find(self, verb: str | None, key: str) -> Entry | None:
        """What holds for a command: its own table's word, else the top's."""
        if verb is not None and key in self.tables.get(verb, {}):
            return Entry(self.tables[verb][key], self.place(verb, key))
        return Entry(self.top[key], self.place(None, key)) if key in self.top else None

    def place(self, table: str | None, key: str) -> str:
        where = "" if table is None else f" of [{table}]"
        return f"{key}{where} in {str(self.path)!r}"


# ---- the file ------------------------------------------------------------------------------------


def file_path() -> Path:
    """Raises: UsageError, where there is no home folder."""
    return config_folder() / "config.toml"


def read(verbs: Collection[str]) -> Settings:
    """The settings of the file, every name of which is known. Raises: UsageError, OSError."""
    path = find_file()
    if path is None:
        return Settings()
    top: dict[str, Any] = {}
    tables: dict[str, Mapping[str, Any]] = {}
    for name, value in parse(path).items():
        if isinstance(value, dict):
            require_known(f"{f'[{name}]'!r} in {str(path)!r}", "command", name, verbs)
            tables[name] = value
        else:
            require_known(f"{name!r} in {str(path)!r}", "setting", name, SETTINGS)
            top[name] = value
    return Settings(path, top, tables)


def find_file() -> Path | None:
    """The file, None where it is not, or where nobody could look for it."""
    try:
        path = file_path()
        path.stat()
    except (UsageError, OSError):
        return None
    return path


def parse(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not TOML: {error}") from error


def require_known(what: str, kind: str, name: str, known: Collection[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    told = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"{what} is no {kind}{told}")


# ---- a command's flags ---------------------------------------------------------------------------


def flags_of(parser: TyperCommand) -> dict[str, TyperOption]:
    """A command's flags by their long names."""
    from typer.core import TyperOption

    return {
        max(flag.opts, key=len).removeprefix("--"): flag
        for flag in parser.params
        if isinstance(flag, TyperOption) and flag.envvar is not None
    }


def settings_of(parser: TyperCommand) -> dict[str, TyperOption]:
    """Those that are settings. A flag whose variable has another name is another thing."""
    flags = flags_of(parser)
    return {key: flags[key] for key in SETTINGS if key in flags and is_setting(key, flags[key])}


def is_setting(key: str, flag: TyperOption) -> bool:
    return flag.envvar == "LOCALLLM_" + key.replace("-", "_").upper()


def defaults(settings: Settings, verb: str | None, parser: TyperCommand) -> dict[str, Any]:
    """What the file says to a command, by the names of its parameters. Raises: UsageError."""
    flags = settings_of(parser)
    for key in settings.tables.get(verb, {}) if verb is not None else ():
        what = f"{key!r} of [{verb}] in {str(settings.path)!r}"
        require_known(what, f"setting of {verb}", key, flags)
    found = {}
    for key, flag in flags.items():
        entry = settings.find(verb, key)
        if entry is not None:
            try:
                value = as_typed(flag, entry)
            except ValueError as error:  # Python writes no number of thousands of digits
                raise UsageError(f"{entry.place}: {error}") from error
            cast(parser, flag, value, entry.place)
            found[flag.name or key] = value
    return found


def as_typed(flag: TyperOption, entry: Entry) -> bool | str | list[str]:
    """A value as the command line would have it: whether a switch is there, else text."""
    value, place = entry
    if flag.is_flag:
        if isinstance(value, bool):
            return value
        raise UsageError(f"{place} is {as_toml(value)}, expected true or false")
    items = value if flag.multiple and isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise UsageError(f"{place} is {as_toml(value)}, expected a text or a number")
    return [str(item) for item in items] if flag.multiple else str(value)


def as_toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def cast(parser: TyperCommand, flag: TyperOption, value: Any, place: str) -> Any:
    """The value as the command gets it. Raises: UsageError, with the place."""
    import typer

    try:
        return flag.type_cast_value(parser.context_class(parser), value)
    except typer.TyperException as error:
        raise UsageError(f"{place}: {error.message.rstrip('.')}") from error
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
