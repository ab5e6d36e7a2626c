"""Groups of flags: a `Group` whose fields are flags is one parameter of a command.

Typer knows no such thing, so it is shown a signature in which the flags stand in the group's place,
and what it parses is put together again. Parameters are keyword-only there, as their order in the
help is all that matters, and a group needs no default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


class Group:
    """Fields with their defaults, as a dataclass has them; making one costs a start less."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer reads it."""
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: (hint, get_type_hints(hint, include_extras=True))
        for name, hint in hints.items()
        if isinstance(hint, type) and issubclass(hint, Group)
    }

    @wraps(command)
    def called(**values: Any) -> Any:
        for name, (group, own) in groups.items():
            values[name] = group(**{field: values.pop(field) for field in own})
        return command(**values)

    parameters = list(spread_parameters(command, hints, groups))
    called.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def spread_parameters(
    command: Callable[..., Any],
    hints: dict[str, Any],
    groups: dict[str, tuple[type[Group], dict[str, Any]]],
) -> Iterator[Parameter]:
    for name, parameter in signature(command).parameters.items():
        if name not in groups:
            yield parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            continue
        group, own = groups[name]
        for field, hint in own.items():
            default = getattr(group, field)
            yield Parameter(field, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
