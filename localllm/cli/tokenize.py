"""`tokenize`: the ids of a text, as the model sees it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from localllm import engines
from localllm.cli import console
from localllm.cli.flags import Json, Offline, option
from localllm.cli.prompting import read_stdin, stdin_is_terminal
from localllm.errors import UsageError
from localllm.models.resolve import resolve


def command(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name, an address or a file.")],
    text: Annotated[str | None, typer.Argument(help="The text; without it, stdin.")] = None,
    count: Annotated[bool, option("--count", help="Print how many, not which.")] = False,
    special: Annotated[
        bool,
        option("--special", help="Let the text become control tokens."),
    ] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Prints the token ids of a text, separated by spaces. No BOS is added."""
    if text is None and stdin_is_terminal():
        raise UsageError("there is no text, neither as an argument nor on stdin")
    file = engines.open_model(resolve(name, offline=offline))
    ids = file.tokenize(read_stdin() if text is None else text, control=special)
    if json:
        report: dict[str, Any] = {"model": name, "n_tokens": len(ids)}
        if not count:
            report["tokens"] = [describe(id, file.token_bytes(id, control=True)) for id in ids]
        console.out_json(report)
    elif count:
        console.out(str(len(ids)))
    else:
        console.out(" ".join(map(str, ids)))


def describe(id: int, data: bytes) -> dict[str, Any]:
    """A token as JSON can hold it: half a character has U+FFFD in its text, and its true bytes."""
    return {"id": id, "text": data.decode("utf-8", "replace"), "bytes": data.hex()}
