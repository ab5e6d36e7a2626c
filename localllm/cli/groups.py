"""Groups of flags: a dataclass whose fields are flags is one parameter of a command.

Typer knows no such thing, so it is shown a signature in which the flags stand in the group's place,
and what it parses is put together again. Parameters are keyword-only there, as their order in the
help is all that matters, and a group needs no default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer reads it."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }

    @wraps(command)
    def called(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in get_type_hints(group)})
        return command(**values)

    parameters = list(spread_parameters(command, hints, groups))
    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def spread_parameters(
    command: Callable[..., Any], hints: dict[str, Any], groups: dict[str, Any]
) -> Iterator[Parameter]:
    for name, parameter in signature(command).parameters.items():
        if name not in groups:
            yield parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            continue
        own = get_type_hints(groups[name], include_extras=True)
        for field in fields(groups[name]):
            hint, default = own[field.name], field.default
            yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
